"""Which environments exist: one folder each with ``environment.yaml`` and a hashed lock, inside longctx or named by ``$LONGCTX_PATH``.

One called ``system`` may lie beside the settings file: the host's own Python, recorded by ``longctx config system`` and not locked. It
stands in for the environment that it is like, wherever a method or a model names that one; manifests stay as they are.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from .contracts.manifest import EnvironmentSpec
from .errors import ManifestError
from .settings import config_path

OWN = Path(__file__).parent.parent / "images"
"""The environments that longctx brings."""
FILE = "environment.yaml"
SYSTEM = "system"
"""The name of the environment that was recorded from the host's own Python."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """An environment as written: its specification, its folder, and the hash of everything that decides what gets installed."""

    spec: EnvironmentSpec
    folder: Path
    sha256: str

    @property
    def lock(self) -> Path:
        """The hashed requirements of everything but torch."""
        return self.folder / self.spec.lock


def own_place() -> Path:
    """Return the folder for environments of this host alone: ``images/`` beside the settings file."""
    return config_path().parent / "images"


def recorded() -> Environment | None:
    """Return the host's own Python as it was recorded, or None. Raises ManifestError if its files are wrong."""
    folder = own_place() / SYSTEM
    found = read_environment(folder) if (folder / FILE).is_file() else None
    return found if found is not None and found.spec.system is not None else None


def in_force(name: str) -> str:
    """Return the environment that serves what asks for ``name``: the host's own where it was recorded in that one's stead."""
    own = recorded()
    return SYSTEM if own is not None and own.spec.system is not None and own.spec.system.like == name else name


def as_written(name: str) -> str:
    """Return how methods call the environment ``name``: the one that it stands in for, if it is the host's own."""
    own = recorded() if name == SYSTEM else None
    return own.spec.system.like if own is not None and own.spec.system is not None else name


def search_path() -> tuple[Path, ...]:
    """Return the folders that hold environments: longctx's own, ``images/`` of each folder in ``$LONGCTX_PATH`` and beside the settings."""
    outside = [Path(part).expanduser() / "images" for part in os.environ.get("LONGCTX_PATH", "").split(os.pathsep) if part]
    return (OWN, *outside, own_place())


def environment_folders() -> dict[str, Path]:
    """Return every environment's folder by name. Raises ManifestError where two folders claim one name."""
    found: dict[str, Path] = {}
    for place in search_path():
        for file in sorted(place.glob(f"*/{FILE}")):
            other = found.setdefault(file.parent.name, file.parent)
            if other.resolve() != file.parent.resolve():
                raise ManifestError(f"{file.parent}: the name is taken by {other}", "Rename one of the folders.")
    return found


def environment_names() -> tuple[str, ...]:
    """Return the names of all environments, sorted."""
    return tuple(sorted(environment_folders()))


def find_environment(name: str) -> Environment:
    """Return the environment called ``name``. Raises ManifestError if there is none, or its files are wrong."""
    folders = environment_folders()
    if name not in folders:
        places = ", ".join(str(place) for place in search_path())
        raise ManifestError(
            f"no environment is called {name!r}; there are: {', '.join(sorted(folders)) or 'none'}",
            f"Environments are folders with an {FILE} in: {places} ($LONGCTX_PATH adds more).",
        )
    return read_environment(folders[name])


def load_environment(name: str) -> EnvironmentSpec:
    """Return the specification of the environment called ``name``. Raises as ``find_environment`` does."""
    return find_environment(name).spec


def read_environment(folder: Path) -> Environment:
    """Read ``environment.yaml`` and hash it with its lock. Raises ManifestError naming the file and the key.

    What did not change is read once a process: a plan asks for each environment again and again.
    """
    try:
        files = tuple(sorted((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()))
    except OSError:
        files = ()  # the reading itself tells what is wrong
    return _read(folder, files)


@lru_cache(maxsize=64)
def _read(folder: Path, files: tuple[tuple[str, int, int], ...]) -> Environment:
    import yaml

    file = folder / FILE
    again = "`longctx config system` records it again, `longctx config system --remove` forgets it." if folder.name == SYSTEM else ""
    try:
        spec = EnvironmentSpec.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
        lock = (folder / spec.lock).read_text(encoding="utf-8")
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise ManifestError(
            f"{file}: {key}: {first['msg']}", again or f"Allowed keys: {', '.join(EnvironmentSpec.model_fields)}."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{file}: {error}", again or "Mend that file; images/tf5 is an example.") from error
    except OSError as error:
        raise ManifestError(
            f"{error.filename}: {error.strerror}", again or "It needs its lock: `python3 images/lock.py` makes it."
        ) from error
    if spec.name != folder.name:
        raise ManifestError(f"{file}: name is {spec.name!r}, but the folder is {folder.name!r}", "Make them equal.")
    if wrong := [version for version in spec.python if not re.fullmatch(r"3\.\d+", version)]:
        raise ManifestError(f"{file}: python: {', '.join(wrong)} is no minor version", 'Write versions such as ["3.11", "3.12"].')
    return Environment(spec=spec, folder=folder, sha256=spec_sha256(spec, lock))


def spec_sha256(spec: EnvironmentSpec, lock: str) -> str:
    """Return the hash of what decides which packages an environment holds: not its summary, and no comment of the lock."""
    lines = [stripped for line in lock.splitlines() if (stripped := line.strip()) and not stripped.startswith("#")]
    left_out = {"summary"} if spec.system is not None else {"summary", "system"}
    canonical = json.dumps({"spec": spec.model_dump(mode="json", exclude=left_out), "lock": lines}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
