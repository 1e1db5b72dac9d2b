"""Which environments exist: one folder each with ``environment.yaml`` and a hashed lock, inside longctx or named by ``$LONGCTX_PATH``."""

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

OWN = Path(__file__).parent.parent / "images"
"""The environments that longctx brings."""
FILE = "environment.yaml"


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


def search_path() -> tuple[Path, ...]:
    """Return the folders that hold environments: longctx's own, then ``images/`` of each folder in ``$LONGCTX_PATH``."""
    outside = [Path(part).expanduser() / "images" for part in os.environ.get("LONGCTX_PATH", "").split(os.pathsep) if part]
    return (OWN, *outside)


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
    try:
        spec = EnvironmentSpec.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
        lock = (folder / spec.lock).read_text(encoding="utf-8")
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise ManifestError(f"{file}: {key}: {first['msg']}", f"Allowed keys: {', '.join(EnvironmentSpec.model_fields)}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{file}: {error}", "Mend that file; images/tf5 is an example.") from error
    except OSError as error:
        raise ManifestError(f"{error.filename}: {error.strerror}", "It needs its lock: `python3 images/lock.py` makes it.") from error
    if spec.name != folder.name:
        raise ManifestError(f"{file}: name is {spec.name!r}, but the folder is {folder.name!r}", "Make them equal.")
    if wrong := [version for version in spec.python if not re.fullmatch(r"3\.\d+", version)]:
        raise ManifestError(f"{file}: python: {', '.join(wrong)} is no minor version", 'Write versions such as ["3.11", "3.12"].')
    return Environment(spec=spec, folder=folder, sha256=spec_sha256(spec, lock))


def spec_sha256(spec: EnvironmentSpec, lock: str) -> str:
    """Return the hash of what decides which packages an environment holds: not its summary, and no comment of the lock."""
    lines = [stripped for line in lock.splitlines() if (stripped := line.strip()) and not stripped.startswith("#")]
    canonical = json.dumps({"spec": spec.model_dump(mode="json", exclude={"summary"}), "lock": lines}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
