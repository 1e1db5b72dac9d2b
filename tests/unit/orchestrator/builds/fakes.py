"""An engine in memory: images by tag, what was asked of it, and an environment of no weight."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from docker.errors import APIError, ImageNotFound

from longctx.orchestrator import environments
from longctx.orchestrator.builds.make import Maker
from longctx.orchestrator.builds.recipe import Recipe
from longctx.orchestrator.contracts.manifest import EnvironmentSpec
from longctx.orchestrator.environments import Environment

BASE = "a-base:1"


class FakeApi:
    """What the SDK's low-level client is asked for, answered from memory."""

    base_url, api_version = "http+docker://localhost", "1.45"

    def __init__(self) -> None:
        self.images: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.used: set[str] = set()
        self.pulled: list[dict[str, str]] = [{"error": "no such host"}]
        self.python = "3.11"
        self.archive: list[bytes] = []
        self.status = 200
        self.full = False

    def add(self, tag: str, labels: Mapping[str, str] | None = None, id_: str = "", size: int = 100, shared: int = 60) -> str:
        id_ = id_ or f"sha256:{len(self.images):064x}"
        self.images[tag] = {"Id": id_, "Config": {"Labels": dict(labels or {})}, "Size": size, "SharedSize": shared}
        return id_

    def info(self) -> dict[str, Any]:
        return {"DockerRootDir": "/nonexistent"}

    def inspect_image(self, tag: str) -> dict[str, Any]:
        self.calls.append(f"inspect {tag}")
        if tag not in self.images:
            raise ImageNotFound(f"No such image: {tag}")
        return self.images[tag]

    def df(self) -> dict[str, Any]:
        rows = [
            {"Id": one["Id"], "RepoTags": [] if tag.startswith("sha256:") else [tag], "Labels": one["Config"]["Labels"],
             "Size": one["Size"], "SharedSize": one["SharedSize"]}
            for tag, one in self.images.items()
        ]  # fmt: skip
        return {"Images": rows, "LayersSize": sum(one["Size"] - one["SharedSize"] for one in self.images.values())}

    def remove_image(self, name: str) -> None:
        self.calls.append(f"remove {name}")
        if name in self.used:
            raise APIError(f"conflict: {name} is used")
        del self.images[name]

    def pull(self, name: str, **_: Any) -> list[dict[str, str]]:
        self.calls.append(f"pull {name}")
        return self.pulled

    def create_container_from_config(self, body: Mapping[str, Any]) -> dict[str, str]:
        self.calls.append(f"create {body['Image']}")
        return {"Id": "container"}

    def start(self, container: str) -> None:
        self.calls.append(f"start {container}")

    def wait(self, container: str) -> dict[str, int]:
        return {"StatusCode": 0}

    def logs(self, container: str, **_: Any) -> bytes:
        return self.python.encode()

    def remove_container(self, container: str, **_: Any) -> None:
        self.calls.append(f"remove {container}")

    def get(self, url: str, **how: Any) -> "FakeApi":
        self.calls.append(f"get {url} {how['params']}")
        return self

    # The answer of get.

    @property
    def status_code(self) -> int:
        return self.status

    text = "the engine\nsays no"

    def iter_content(self, size: int) -> Any:
        return iter(self.archive)

    def close(self) -> None:
        self.calls.append("close")

    def get_archive(self, container: str, path: str) -> tuple[list[bytes], dict[str, Any]]:
        import tarfile

        packed = BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            content = b'warning\n{"python": "3.11.9", "packages": {"six": "1"}, "torch_record_sha256": null}\n'
            entry = tarfile.TarInfo("longctx.json")
            entry.size = len(content)
            archive.addfile(entry, BytesIO(content))
        return [packed.getvalue()], {}


@dataclass
class Workshop:
    """A maker on the engine in memory; builds are recorded and make an image of the recipe's name."""

    api: FakeApi
    maker: Maker
    environment: Environment
    built: list[list[Recipe]] = field(default_factory=list)
    thin: list[tuple[Recipe, str, Path]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def base(self) -> str:
        return self.api.add(BASE)


def environment_at(folder: Path, **more: Any) -> Environment:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "requirements.lock").write_text("six==1.17.0 --hash=sha256:00\n")
    spec = EnvironmentSpec.model_validate(
        {"name": folder.name, "summary": "s", "python": ("3.11",), "torch": {"cpu": "2.13.0", "cuda": "2.13.0"}, "imports": ("six",)} | more
    )
    (folder / environments.FILE).write_text(spec.model_dump_json())
    return environments.read_environment(folder)
