"""Calls ``docker buildx`` for whole images, and the engine's classic builder for the thin layers where there is no buildx."""

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ..engines.base import Report
from ..engines.docker.client import Docker, explanation
from ..engines.uv import uv_environment
from ..errors import EnvironmentFailed, StorageError
from ..settings import Settings
from .recipe import DOCKERFILE, Recipe, thin_dockerfile

BUILDX_STEP = "Install it: `apt-get install docker-buildx` (Debian 13, Ubuntu 24.04) or `docker-buildx-plugin` (Docker's own packages)."
_INDEX = re.compile(
    r"^UV_(DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|NO_INDEX|INDEX_STRATEGY|INSECURE_HOST|HTTP_TIMEOUT|HTTP_RETRIES|OFFLINE|INDEX_\w+_(USERNAME|PASSWORD))$"
)
"""What of the caller's uv settings has a meaning inside a build; paths of this host have none."""
TORCH_INDEX = "LONGCTX_TORCH_INDEX"
"""How install.sh is told of the settings' ``torch_index``: like every index, it may hold a password, and build arguments are public."""
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy")
_STEP = re.compile(
    r"^#(?P<number>\d+) (?:\[(?P<name>[\w -]+) \d+/\d+\] (?:RUN|COPY)|(?P<export>exporting layers)|DONE (?P<seconds>[\d.]+)s)"
)
_STAMP = re.compile(r"^(#\d+ )?(\d+\.\d+ )?")
_TROUBLE = re.compile(r"\berror\b|failed|×|╰|\bcause|no valid|\bbecause\b|^hint:|^E: ", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


class _Cause(NamedTuple):
    signs: tuple[str, ...]
    told: str
    step: str


_CAUSES = (
    _Cause(
        ("no valid certificate", "failed to load cert", "could not load cert", "could not parse cert", "ssl_cert_file"),
        "the CA bundle cannot be used",
        "`certificates` in the settings must be a file of PEM certificates.",
    ),
    _Cause(
        ("unknownissuer", "certificate verify failed", "invalid peer certificate", "unable to get local issuer", "self-signed certificate"),
        "a server's certificate is not trusted inside the build",
        "Name the CA bundle that your network needs as `certificates` in the settings (`longctx config`).",
    ),
    _Cause(
        (
            "dns error", "failed to lookup", "temporary failure resolving", "could not resolve", "connection refused", "tunnel error",
            "timed out", "network is unreachable",
        ),
        "the package index cannot be reached from the build",
        "Check network and `proxy` (`longctx config`), or name a `wheelhouse` and set `offline`.",
    ),
    _Cause(
        ("network was disabled", "network connectivity is disabled"),
        "a package is in neither the cache nor the wheelhouse, and `offline` is set",
        "Put its wheel into the `wheelhouse`, or unset `offline` (`longctx config`).",
    ),
    _Cause(
        ("no version of", "no solution found", "not found in the package registry", "not found in the cache", "with a matching"),
        "a package cannot be had for this Python",
        "Put a wheel for the base's Python into the `wheelhouse`, name `torch_index`, or name another base (`longctx config`).",
    ),
)  # fmt: skip


@lru_cache(maxsize=1)
def buildx() -> tuple[str, ...] | None:
    """Return the command that calls buildx, or None: an old client may stand first on PATH, so each is asked."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        program = shutil.which("docker", path=folder) if folder else None
        if program and _succeeds(program, "buildx", "version"):
            return program, "buildx"
    return None


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def build(recipes: Sequence[Recipe], settings: Settings, report: Report) -> None:
    """Build images, several at once by bake where it can. Raises EnvironmentFailed with the last lines and what they mean, StorageError."""
    program = buildx()
    if program is None:
        raise EnvironmentFailed("Images are built by docker buildx, and no docker on PATH has it.", BUILDX_STEP)
    with _secrets(settings) as secrets:
        if len(recipes) > 1 and _bake(program, recipes, secrets, settings, report):
            return
        for recipe in recipes:
            command = [*program, "build", "--builder", "default", "--progress", "plain", *build_arguments(recipe, secrets)]
            _run(command, settings, report, recipe.tag)


def _bake(program: Sequence[str], recipes: Sequence[Recipe], secrets: Mapping[str, Path], settings: Settings, report: Report) -> bool:
    """Build several images at once; return False where bake leaves the network out, as Debian 13's (0.13) does."""
    with tempfile.NamedTemporaryFile("w", prefix="longctx-bake-", suffix=".json") as file:
        json.dump(bake_file(recipes, secrets, variables(settings)), file)
        file.flush()
        read = subprocess.run(
            [*program, "bake", "--print", "--file", file.name], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if any(recipe.network for recipe in recipes) and '"network"' not in read.stdout:
            return False
        allow = ["--allow", "network.host", "--allow", "fs.read=*"] if _knows_allow(tuple(program)) else []
        command = [*program, "bake", "--builder", "default", "--progress", "plain", *allow, "--file", file.name]
        _run(command, settings, report, ", ".join(recipe.tag for recipe in recipes))
    return True


@lru_cache(maxsize=1)
def _knows_allow(program: tuple[str, ...]) -> bool:
    done = subprocess.run([*program, "bake", "--help"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return "--allow" in done.stdout


def build_arguments(recipe: Recipe, secrets: Mapping[str, Path]) -> list[str]:
    """Return what follows ``docker buildx build``."""
    found = ["--load", "--provenance=false", "--file", str(DOCKERFILE), "--target", recipe.stage, "--tag", recipe.tag]
    found += [part for key, value in recipe.labels.items() for part in ("--label", f"{key}={value}")]
    found += [part for key, value in recipe.arguments.items() for part in ("--build-arg", f"{key}={value}")]
    found += [part for key, value in recipe.contexts.items() for part in ("--build-context", f"{key}={value}")]
    if recipe.network:
        found += ["--network", "host"]
        found += [part for key, path in secrets.items() for part in ("--secret", f"id={key},src={path}")]
        # By name only: values come from the environment and do not show in a list of processes.
        found += [part for name in PROXIES for part in ("--build-arg", name)]
    return [*found, str(DOCKERFILE.parent)]


def bake_file(recipes: Sequence[Recipe], secrets: Mapping[str, Path], variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the definition that ``docker buildx bake`` reads: one target a recipe. Proxies are taken from ``variables``."""
    targets: dict[str, Any] = {}
    for recipe in recipes:
        target: dict[str, Any] = {
            "context": str(DOCKERFILE.parent), "dockerfile": str(DOCKERFILE), "target": recipe.stage, "tags": [recipe.tag],
            "labels": dict(recipe.labels), "args": dict(recipe.arguments), "contexts": dict(recipe.contexts), "output": ["type=docker"],
        }  # fmt: skip
        if recipe.network:
            target |= {"network": "host", "secret": [f"id={key},src={path}" for key, path in secrets.items()]}
            target["args"] |= {name: variables[name] for name in PROXIES if variables.get(name)}
        targets[re.sub(r"\W+", "-", recipe.tag)] = target
    return {"group": {"default": {"targets": list(targets)}}, "target": targets}


def build_thin(docker: Docker, recipe: Recipe, image: str, code: Path, settings: Settings) -> None:
    """Put code on top of an image: by buildx, or by the engine's classic builder where there is none.

    Raises EnvironmentFailed, StorageError or EngineUnavailable.
    """
    text = thin_dockerfile(image)
    program = buildx()
    if program is None:
        _classic(docker, recipe, text, code)
        return
    with tempfile.NamedTemporaryFile("w", prefix="longctx-thin-", suffix=".Dockerfile") as file:
        file.write(text)
        file.flush()
        labels = [part for key, value in recipe.labels.items() for part in ("--label", f"{key}={value}")]
        how = ["--builder", "default", "--progress", "plain", "--load", "--provenance=false", "--network", "none"]
        _run([*program, "build", *how, "--tag", recipe.tag, *labels, "--file", file.name, str(code)], settings, lambda _: None, recipe.tag)


def _classic(docker: Docker, recipe: Recipe, text: str, code: Path) -> None:
    from docker.errors import APIError

    packed = _context(text, code)

    def call() -> str | None:
        lines = docker.api.build(
            fileobj=packed, custom_context=True, tag=recipe.tag, labels=dict(recipe.labels), rm=True, forcerm=True, decode=True,
            network_mode="none",
        )  # fmt: skip
        return next((str(line["error"]) for line in lines if "error" in line), None)

    try:
        failed = docker.ask("building a thin layer", call, seconds=600)
    except APIError as error:
        failed = explanation(error)
    if failed:
        raise _failure(recipe.tag, [failed])


def _context(dockerfile: str, code: Path) -> io.BytesIO:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        content = dockerfile.encode()
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
        for path in sorted(code.rglob("*")):
            archive.add(path, path.relative_to(code).as_posix(), recursive=False)
    packed.seek(0)
    return packed


@contextmanager
def _secrets(settings: Settings) -> Iterator[dict[str, Path]]:
    """Yield the build's secrets as files by id; they are removed afterwards. Raises EnvironmentFailed for a CA that is not there."""
    found = uv_environment(settings, os.environ)
    with tempfile.TemporaryDirectory(prefix="longctx-build-") as folder:
        index = Path(folder) / "index"
        index.touch(mode=0o600)
        shown = {key: value for key, value in found.items() if _INDEX.match(key) or (key in PROXIES and value)}
        if settings.torch_index:
            shown[TORCH_INDEX] = settings.torch_index
        index.write_text("".join(f"export {key}={_quoted(value)}\n" for key, value in sorted(shown.items())), encoding="utf-8")
        files = {"index": index}
        if authority := found.get("SSL_CERT_FILE"):
            path = Path(authority).expanduser().absolute()
            if not path.is_file():
                step = "`certificates` in the settings (or $SSL_CERT_FILE) must name a file of PEM certificates, or be unset."
                raise EnvironmentFailed(f"The CA bundle {path} does not exist.", step)
            files["ca"] = path
        yield files


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


def variables(settings: Settings) -> dict[str, str]:
    """Return the environment that buildx is called with."""
    found = dict(os.environ)
    if settings.proxy:
        found |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), settings.proxy)
    return found | {"BUILDX_BAKE_ENTITLEMENTS_FS": "0"}  # what bake reads is named in its file


def _run(command: Sequence[str], settings: Settings, report: Report, what: str) -> None:
    """Run buildx, passing its steps on. Raises EnvironmentFailed or StorageError with what it said last."""
    last: deque[str] = deque(maxlen=400)
    names: dict[str, str] = {}
    with subprocess.Popen(
        command,
        env=variables(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in process.stdout or ():
                plain = _CREDENTIALS.sub("***@", line.rstrip())
                last.append(plain)
                if step := _STEP.match(plain):
                    names.setdefault(step["number"], step["name"] or step["export"] or "")
                    if step["seconds"] and float(step["seconds"]) >= 1 and (name := names[step["number"]]):
                        report(f"  {name}: {step['seconds']} s")
        except BaseException:
            process.terminate()  # an interrupted build leaves layers in the cache, and no image
            raise
    if process.returncode:
        raise _failure(what, list(last))


def _telling(lines: Sequence[str]) -> list[str]:
    """Return the lines that say what went wrong, once each: BuildKit times them, and repeats a step's last ones."""
    first = lines[: lines.index("------")] if "------" in lines else lines
    plain = [_STAMP.sub("", line) for line in first]
    errors = [line for line in plain if _TROUBLE.search(line) and "did not complete successfully" not in line]
    return [*dict.fromkeys(errors or [line for line in plain if line.strip()])][-12:]


def _failure(what: str, lines: Sequence[str]) -> EnvironmentFailed | StorageError:
    text = "\n".join(lines)
    if re.search(r"no space left on device|disk quota exceeded", text, re.IGNORECASE):
        return StorageError(
            f"The Docker Engine's disk is full: {what} was not built.", "Free some: `longctx images prune`, then run it again."
        )
    shown = "\n".join(f"  {line}" for line in _telling(lines))
    for cause in _CAUSES:
        if any(sign in text.lower() for sign in cause.signs):
            return EnvironmentFailed(f"Image {what} could not be built: {cause.told}.\n{shown}", cause.step)
    return EnvironmentFailed(
        f"Image {what} could not be built:\n{shown}", "Mend what it names, then run it again; finished layers are kept."
    )
