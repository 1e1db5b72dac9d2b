"""Folders that longctx makes below the cache: made aside, renamed when whole, one maker at a time."""

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import StorageError
from ..settings import Settings
from .source import Report

MARKER = ".complete.json"
"""Written last; lists every file with its size, so that a folder cut short by a crash is seen."""

UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR})


def models_folder(settings: Settings) -> Path:
    """Return where models and their checksums are kept."""
    return settings.cache.expanduser().absolute() / "models"


def read_json(path: Path) -> object:
    """Read a file of this cache; None when it is absent or torn (then it is made again)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_json(path: Path, value: object) -> None:
    """Write by temp and rename, readable for every uid: a job may run as another one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    Path(name).replace(path)


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock on ``path``; the kernel drops it when the holder dies. ``waiting`` is called if another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn a full or unwritable disk into a StorageError that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno in UNWRITABLE:
            raise StorageError(
                f"{folder}: {error.strerror or error}",
                "Free some space or make it writable, or name another folder as `cache` in the settings (or in LONGCTX_CACHE).",
            ) from error
        raise


def complete(settings: Settings, key: str) -> tuple[Path, tuple[str, ...]] | None:
    """Return the folder made under ``key`` with its files, or None unless every file is there in full."""
    folder = models_folder(settings) / key
    marker = read_json(folder / MARKER)
    if not isinstance(marker, dict) or not isinstance(marker.get("files"), dict):
        return None
    files: dict[str, int] = marker["files"]
    for name, size in files.items():
        try:
            if (folder / name).stat().st_size != size:
                return None
        except OSError:
            return None
    return folder, tuple(sorted(files))


def build(settings: Settings, key: str, make: Callable[[Path], None], report: Report) -> tuple[Path, tuple[str, ...]]:
    """Return the folder of ``key``, letting ``make`` fill it if need be.

    ``make`` gets an empty folder. What it leaves there appears under the final name at once or not at all; a process that is
    killed leaves a folder nobody looks at, which the next maker removes. Two processes never make the same folder.
    """
    models = models_folder(settings)
    with storage_errors(models), locked(models / "locks" / key, lambda: report(f"another process makes {key}; waiting for it")):
        if found := complete(settings, key):
            return found
        for left in models.glob(f".{key}.*"):
            shutil.rmtree(left)
        made = Path(tempfile.mkdtemp(dir=models, prefix=f".{key}."))
        try:
            make(made)
            sizes = {}
            for file in sorted(path for path in made.rglob("*") if path.is_file()):
                _settle(file)
                sizes[file.relative_to(made).as_posix()] = file.stat().st_size
            write_json(made / MARKER, {"files": sizes})
            for folder in (made, *(path for path in made.rglob("*") if path.is_dir())):
                folder.chmod(0o755)
            final = models / key
            if final.exists():
                shutil.rmtree(final)
            made.rename(final)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return final, tuple(sizes)


def _settle(file: Path) -> None:
    """Make a file readable for every uid and put it on the disk before the marker says that it is there."""
    with file.open("rb") as opened:
        os.fchmod(opened.fileno(), 0o644)
        os.fsync(opened.fileno())
