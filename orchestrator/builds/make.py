"""Finds or makes the images of an environment and of a family. What is there already costs two questions to the engine."""

import contextlib
import fcntl
import hashlib
import io
import json
import shutil
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contracts.job import DeviceKind
from ..contracts.plan import LockedEnvironment
from ..engines.base import Report
from ..engines.docker.client import Docker, explanation
from ..engines.docker.once import once
from ..engines.venv_make import torch_arguments, torch_wheel
from ..environments import Environment
from ..errors import EnvironmentFailed, StorageError
from ..settings import Settings
from ..store import storage_errors, write
from . import builder
from .recipe import INSIDE, INSTALL, LABEL, Recipe, environment_tag, family_tag, python_tag

RECORD = "/opt/environment/longctx.json"
PULL_SECONDS = 3600.0
NEEDED_BYTES = {"cpu": 4 * 2**30, "cuda": 24 * 2**30}
"""Free space that building an environment takes at most: layers, and the copies made meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that is there."""

    tag: str
    id: str
    labels: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes images for one engine with this host's settings."""

    docker: Docker
    settings: Settings

    def base(self, device: DeviceKind) -> str:
        """Return the base image's name for a device."""
        return self.settings.base_cuda if device == "cuda" else self.settings.base_cpu

    def inspect(self, tag: str) -> Image | None:
        """Return an image by its name, or None."""
        from docker.errors import ImageNotFound

        try:
            found = self.docker.ask("looking for an image", lambda: self.docker.api.inspect_image(tag))
        except ImageNotFound:
            return None
        return Image(tag=tag, id=found["Id"], labels=(found.get("Config") or {}).get("Labels") or {})

    def image(self, environment: Environment, device: DeviceKind) -> Image | None:
        """Return an environment's image, or None; one whose base is by now another one does not count."""
        found = self.inspect(environment_tag(environment, device, self.base(device), self.flash(environment, device)))
        return None if found is None or self.outdated(found.labels) else found

    def outdated(self, labels: Mapping[str, str]) -> bool:
        """Whether the base that an image was built on is here under its name, but is another one by now."""
        present = self.inspect(labels.get(f"{LABEL}.base", "")) if labels.get(f"{LABEL}.base") else None
        return present is not None and labels.get(f"{LABEL}.base-id") != present.id

    def find(self, environment: Environment, device: DeviceKind) -> tuple[Image, LockedEnvironment] | None:
        """Return an environment's image with its record, or None."""
        image = self.image(environment, device)
        if image is None:
            return None
        inside = self._record(image)
        return image, LockedEnvironment(
            name=environment.spec.name, kind=device, engine="docker", spec_sha256=environment.sha256, python=inside["python"],
            packages=inside["packages"], torch_record_sha256=inside["torch_record_sha256"], image=image.id,
        )  # fmt: skip

    def make(self, wanted: Sequence[tuple[Environment, DeviceKind]], report: Report) -> None:
        """Build the images of environments that are not there yet, several at once. Raises EnvironmentFailed or StorageError."""
        for environment, device in wanted:
            if device not in environment.spec.torch:
                raise EnvironmentFailed(
                    f"Environment {environment.spec.name} is not made for {device}.", f"It is for: {', '.join(environment.spec.torch)}."
                )
        with self.alone(report):
            left = [(environment, device) for environment, device in wanted if self.find(environment, device) is None]
            if not left:
                return
            started = time.monotonic()
            self._refuse_full(max(NEEDED_BYTES[device] for _, device in left))
            recipes = [self._environment(environment, device, report) for environment, device in left]
            report(f"building {', '.join(recipe.tag for recipe in recipes)}")
            builder.build(recipes, self.settings, report)
            report(f"built {', '.join(recipe.tag for recipe in recipes)} in {time.monotonic() - started:.1f} s")

    def family(self, image: Image, environment: str, family: str | None, device: DeviceKind, code: Path) -> Image:
        """Return a family's image: an environment's with runner and methods on top. ``code`` is a staged folder named by its content."""
        tag = family_tag(environment, family, device, image.id, code.name)
        if found := self.inspect(tag):
            return found
        labels = {
            LABEL: "family", f"{LABEL}.environment": environment, f"{LABEL}.family": family or "", f"{LABEL}.device": device,
            f"{LABEL}.code": code.name, f"{LABEL}.on": image.id,
        }  # fmt: skip
        with self.alone(lambda _: None):
            if found := self.inspect(tag):
                return found
            builder.build_thin(self.docker, Recipe(tag=tag, stage="family", labels=labels), image.tag, code, self.settings)
        if (made := self.inspect(tag)) is None:
            raise EnvironmentFailed(f"Image {tag} is not there after it was built.", "Was it removed meanwhile? Run it again.")
        return made

    def flash(self, environment: Environment, device: DeviceKind) -> str:
        """Return how flash-attn gets into an image: ``wheel`` from the wheelhouse, ``compiled``, or ``none``."""
        version = environment.spec.flash_attn
        if device != "cuda" or version is None:
            return "none"
        house = self.settings.wheelhouse
        if house is not None and any(house.expanduser().glob(f"flash_attn-{version}*.whl")):
            return "wheel"
        return "compiled" if self.settings.flash_builder else "none"

    def _environment(self, environment: Environment, device: DeviceKind, report: Report) -> Recipe:
        base = self._base(device, report)
        python = self._python(base, environment, report)
        flash = self.flash(environment, device)
        arguments = torch_arguments(environment, device, python, self.settings, driver=False)
        if "--index" in arguments:  # install.sh learns it from a secret: arguments stand in an image's history
            at = arguments.index("--index")
            arguments = ["from-index", *arguments[:at], *arguments[at + 2 :]]
        if "--constraint" in arguments:  # a path of this host
            arguments = [part for part in arguments if part not in ("--constraint", str(environment.lock))]
        wheel = torch_wheel(self.settings.wheelhouse, environment.spec.torch[device], device, python)
        return Recipe(
            tag=environment_tag(environment, device, base.tag, flash),
            stage="environment",
            labels={
                LABEL: "environment", f"{LABEL}.environment": environment.spec.name, f"{LABEL}.device": device, f"{LABEL}.base": base.tag,
                f"{LABEL}.base-id": base.id, f"{LABEL}.spec": environment.sha256,
            },
            arguments={
                "BASE": base.tag, "BUILDER": self.settings.flash_builder or "scratch", "FLASH": flash, "TORCH": " ".join(arguments),
                "LINKS": "/wheels" if wheel or device == "cpu" else "", "DEVICE": device,
                "FLASH_ATTN": environment.spec.flash_attn or "", "IMPORTS": " ".join(environment.spec.imports),
            },
            contexts={"tools": str(self._tools()), "wheels": str(self._wheels()), "environment-files": str(environment.folder)},
            network=True,
        )  # fmt: skip

    def _base(self, device: DeviceKind, report: Report) -> Image:
        """Return the base, pulled if it is not here. Raises EnvironmentFailed where it cannot be had."""
        from docker.errors import APIError

        name = self.base(device)
        if found := self.inspect(name):
            return found
        key = f"base_{device}"
        step = (
            f"Name one that can be had as `{key}` in the settings or as LONGCTX_BASE_{device.upper()} (`docker images` lists those here), "
            "load one (`docker load`), or make one from Debian's packages: images/README.md."
        )
        if self.settings.offline:
            raise EnvironmentFailed(f"The base image {name} is not here, and `offline` is set.", step)
        report(f"pulling {name}")

        def pull() -> str | None:
            lines = self.docker.api.pull(name, stream=True, decode=True)
            return next((str(line["error"]) for line in lines if "error" in line), None)

        try:
            failed = self.docker.ask(f"pulling {name}", pull, PULL_SECONDS)
        except APIError as error:
            failed = explanation(error)
        found = self.inspect(name)
        if failed or found is None:
            raise EnvironmentFailed(f"The base image {name} cannot be pulled: {failed or 'it did not arrive'}.", step)
        return found

    def _python(self, base: Image, environment: Environment, report: Report) -> str:
        """Return the minor version of the Python on top of a base. Raises EnvironmentFailed for one that the environment does not take."""
        tag = python_tag(base.tag)
        image = self.inspect(tag)
        if image is None or image.labels.get(f"{LABEL}.base-id") != base.id:
            report(f"building {tag}: Python and a compiler on {base.tag}")
            labels = {LABEL: "python", f"{LABEL}.base": base.tag, f"{LABEL}.base-id": base.id}
            recipe = Recipe(tag=tag, stage="python", labels=labels, arguments={"BASE": base.tag}, network=True)
            builder.build([recipe], self.settings, report)
        told = once(self.docker, tag, ["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).stdout.strip()
        if told not in environment.spec.python:
            takes = " or ".join(environment.spec.python)
            raise EnvironmentFailed(
                f"The base image {base.tag} has Python {told or '?'}; environment {environment.spec.name} takes {takes}.",
                "Name another base: `base_cpu` and `base_cuda` in the settings (`longctx config`).",
            )
        return told

    def _record(self, image: Image) -> dict[str, Any]:
        """Return what an environment's image wrote down of itself when it was built."""
        kept = self.settings.cache / "builds" / "records" / f"{image.id.removeprefix('sha256:')[:32]}.json"
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads(kept.read_bytes()))
        api = self.docker.api
        container = self.docker.ask("creating a container", lambda: api.create_container_from_config({"Image": image.id, "Cmd": ["true"]}))[
            "Id"
        ]
        try:
            chunks, _ = self.docker.ask("reading an image", lambda: api.get_archive(container, RECORD))
            with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
                member = archive.extractfile(archive.getmembers()[0])
                text = member.read() if member is not None else b""
        finally:
            self.docker.ask("removing a container", lambda: api.remove_container(container, force=True))
        answer = dict(json.loads(text.splitlines()[-1]))
        write(kept, json.dumps(answer))
        return answer

    def _tools(self) -> Path:
        """Return a folder with uv and the scripts that a build runs, named by its content."""
        import uv

        program = Path(uv.find_uv_bin())
        status = program.stat()
        scripts = (INSTALL.read_bytes(), INSIDE.read_bytes())
        key = hashlib.sha256(b"\0".join((str((status.st_size, status.st_mtime_ns)).encode(), *scripts))).hexdigest()
        folder = self.settings.cache / "builds" / f"tools-{key[:12]}"
        if not (folder / "uv").exists():
            with storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                for source in (INSTALL, INSIDE, program):  # uv last: its presence says that all are there
                    draft = folder / f".{source.name}"
                    shutil.copyfile(source, draft)
                    draft.chmod(0o755)
                    draft.rename(folder / source.name)
        return folder

    def _wheels(self) -> Path:
        """Return the wheelhouse, or an empty folder."""
        house = self.settings.wheelhouse
        if house is not None and house.expanduser().is_dir():
            return house.expanduser().absolute()
        empty = self.settings.cache / "builds" / "no-wheels"
        with storage_errors(empty):
            empty.mkdir(parents=True, exist_ok=True)
        return empty

    def _refuse_full(self, needed: int) -> None:
        """Raise StorageError where the engine's disk has not the space that a build takes: found out at once, not after ten minutes."""
        place = Path(str(self.docker.info.get("DockerRootDir") or "/nonexistent"))
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(place).free
            if free < needed:
                raise StorageError(
                    f"{place}: {free / 2**30:.1f} GiB are free, and building this takes up to {needed / 2**30:.0f} GiB.",
                    "Free some (`longctx images prune`), or move Docker's `data-root`.",
                )

    @contextlib.contextmanager
    def alone(self, report: Report) -> Iterator[None]:
        """Hold the one lock for builds on this host: a second process waits, then finds what the first made."""
        place = self.settings.cache / "builds" / "lock"
        with storage_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = place.open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report("another process is building images; waiting")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
