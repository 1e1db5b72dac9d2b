"""Compiled kernels that outlive a job: a folder per image and GPU architecture, mounted read-only, and what a job adds to it.

Kernels are code: a job runs what an earlier one of the same key left, inside the same isolation. What a job leaves is hostile to the host
all the same, so it is copied, file by file, into a folder of our own before anything of it gets a name under the key; the runner
(``images/runner/kernels.py``) says which parts of a cache are worth keeping and makes a copy fit the place where it is used.
"""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .errors import StorageError
from .store import digest, storage_errors

VARIABLES = {"LONGCTX_KERNELS": "keep"}
"""What a job's environment must hold so that the runner leaves its new kernels in ``out/kernels``."""
TARGET = "kernels"
"""Where a job finds the folder, relative to its root, and where it leaves what is new, relative to ``out``."""
CACHES = ("inductor", "triton")
FILES_LIMIT = 20_000
FOLDERS_LIMIT = 3 * FILES_LIMIT
"""Inductor makes up to three folders for a file."""
BYTES_LIMIT = 2 * 2**30
DEPTH_LIMIT = 8
STALE_SECONDS = 86_400.0
SYNCS = 16
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def key(image: str, architecture: str) -> str:
    """Return the name of a folder of kernels: a hex digest of the image (and whatever else is trusted with it) and of the architecture."""
    return digest([image, architecture])


def seed(cache: Path, key: str) -> Path:
    """Return ``<cache>/kernels/<key>``, made when absent and readable by every user. Raises StorageError when it cannot be made."""
    if len(key) < 16 or not set(key) <= set("0123456789abcdef"):
        raise ValueError(f"{key!r} is no key of compiled kernels: see key()")
    folder = cache / TARGET / key
    with storage_errors(folder):
        cache.mkdir(parents=True, exist_ok=True)
        _make(folder, cache)
    return folder


def take(out: Path, cache: Path, key: str) -> str | None:
    """Merge ``out/kernels`` into the folder of the key, and remove it; return what went wrong, in one line, or None.

    A tree with anything odd in it is refused whole. Files that exist are never replaced, so that jobs may merge at the same time.
    """
    left = out / TARGET
    if not os.path.lexists(left):
        return None
    problem: str | None = None
    try:
        folder = seed(cache, key)
        _tidy(folder.parent)
        with _staging(folder) as staging:
            _stage(left, staging, _room(folder))
            _sync(staging)
            _merge(staging, folder)
    except _Refused as error:
        problem = f"{left}: the compiled kernels that the job left were not taken: {error}"
    except (OSError, StorageError) as error:
        problem = f"{left}: the compiled kernels that the job left could not be taken: {error}".replace("\n", " ")
    try:
        _remove(left)
    except OSError as error:
        problem = problem or f"{left} could not be removed, remove it by hand: {error}"
    return problem


class _Refused(Exception):
    """What a container left is not a cache of kernels, or there is no room for it."""


class _Room:
    """How many files and bytes may still come."""

    def __init__(self, folder: Path, files: int, size: int) -> None:
        self.folder, self.files, self.bytes, self.folders = folder, files, size, FOLDERS_LIMIT

    def use(self, *, files: int = 0, size: int = 0, folders: int = 0) -> None:
        self.files -= files
        self.bytes -= size
        self.folders -= folders
        if self.files < 0 or self.bytes < 0 or self.folders < 0:
            caps = f"{FILES_LIMIT} files and {BYTES_LIMIT >> 20} MiB"
            raise _Refused(f"{self.folder} would outgrow its caps, {caps}; remove that folder to start over")


def _room(folder: Path) -> _Room:
    """Return what the caps leave beside what is kept already."""
    files = size = 0
    for path, _, names in os.walk(folder):
        for name in names:
            files += 1
            size += (Path(path) / name).lstat().st_size
    return _Room(folder, FILES_LIMIT - files, BYTES_LIMIT - size)


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Lend a folder beside the key's, on the same file system."""
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:16]}.", suffix=".tmp"))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _tidy(kernels: Path) -> None:
    """Remove what a process that was killed long ago left half staged."""
    for path in kernels.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _stage(left: Path, staging: Path, room: _Room) -> None:
    """Copy a hostile tree. Every folder is reached from the top without following a link; raises _Refused at the first odd thing."""
    if not stat.S_ISDIR(left.lstat().st_mode):
        raise _Refused("it is no folder")
    top = os.open(left, _DIRECTORY)
    try:
        waiting: list[tuple[str, ...]] = [()]
        while waiting:
            parts = waiting.pop()
            descriptor = _descend(top, parts)
            try:
                waiting += _stage_folder(descriptor, parts, staging, room)
            finally:
                os.close(descriptor)
    finally:
        os.close(top)


def _descend(top: int, parts: tuple[str, ...]) -> int:
    descriptor = os.dup(top)
    for part in parts:
        try:
            below = os.open(part, _DIRECTORY, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def _stage_folder(descriptor: int, parts: tuple[str, ...], staging: Path, room: _Room) -> list[tuple[str, ...]]:
    """Copy the files of one folder; return the folders in it."""
    folders = []
    with os.scandir(descriptor) as entries:
        for entry in entries:
            path = (*parts, entry.name)
            shown = repr("/".join(path)[:200])
            if not _plain(entry.name):
                raise _Refused(f"{shown} is not a name that a cache keeps")
            status = os.stat(entry.name, dir_fd=descriptor, follow_symlinks=False)
            if not parts and (entry.name not in CACHES or not stat.S_ISDIR(status.st_mode)):
                raise _Refused(f"{shown} is not the folder of a known cache ({', '.join(CACHES)})")
            if stat.S_ISDIR(status.st_mode):
                if len(path) >= DEPTH_LIMIT:
                    raise _Refused(f"{shown} lies deeper than any cache has folders")
                room.use(folders=1)
                folders.append(path)
            elif not stat.S_ISREG(status.st_mode):
                raise _Refused(f"{shown} is not a regular file")
            else:
                room.use(files=1)
                _stage_file(descriptor, entry.name, staging.joinpath(*path), staging, room, shown)
    return folders


def _stage_file(folder: int, name: str, target: Path, staging: Path, room: _Room, shown: str) -> None:
    descriptor = os.open(name, _FILE, dir_fd=folder)
    with open(descriptor, "rb") as source:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _Refused(f"{shown} is not a regular file")
        if status.st_nlink != 1:  # where a job is isolated only in part, the other name may be a file of its user
            raise _Refused(f"{shown} has a second name")
        if status.st_size > room.bytes:
            room.use(size=status.st_size)
        _make(target.parent, staging)
        with target.open("xb") as copy:
            while block := source.read(2**20):
                room.use(size=len(block))
                copy.write(block)
        target.chmod(0o644)


def _sync(staging: Path) -> None:
    """Put what is staged on disk: a name whose content a power cut took would stay. Many at once: file systems join such requests."""
    with ThreadPoolExecutor(SYNCS) as pool:
        list(pool.map(_sync_file, (path for path in staging.rglob("*") if path.is_file())))


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _plain(name: str) -> bool:
    """Whether a name is one that the runner keeps: no temporary file, no lock, nothing that a terminal or a shell would act on."""
    return name.isprintable() and not name.startswith(".") and not name.endswith((".tmp", ".lock"))


def _merge(staging: Path, folder: Path) -> None:
    """Give what is staged its names. A kernel's folder of Triton appears whole; where there is one, or elsewhere, file by file."""
    triton = staging / "triton"
    if triton.is_dir():
        _make(folder / "triton", folder)
        for kernel in sorted(triton.iterdir()):
            if kernel.is_dir():
                try:
                    kernel.rename(folder / "triton" / kernel.name)
                except OSError as error:
                    if error.errno not in _TAKEN:
                        raise
    files = [path for path in staging.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: (path.name.startswith("__grp__"), path)):  # a group promises that its files are there
        target = folder / path.relative_to(staging)
        try:
            _make(target.parent, folder)
            _link(path, target)
        except OSError as error:  # the first writer wins, a file in the place of a folder too
            if error.errno not in _TAKEN:
                raise


def _link(path: Path, target: Path) -> None:
    """Give a file its name unless that is taken. Raises FileExistsError then."""
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        path.rename(target)


def _make(folder: Path, top: Path) -> None:
    """Make a folder and those above it, up to ``top``, open to every reader whatever the umask is."""
    for part in (*reversed(folder.relative_to(top).parents[:-1]), folder.relative_to(top)):
        path = top / part
        try:
            path.mkdir(0o755)
        except FileExistsError:
            if not path.is_dir():
                raise
        else:
            path.chmod(0o755)


def _remove(left: Path) -> None:
    """Remove what a job left. A hostile tree may be nested deeper than a walk goes, or be shut: then it is made flat first."""
    if not stat.S_ISDIR(left.lstat().st_mode):
        left.unlink()
        return
    try:
        shutil.rmtree(left)
        return
    except (OSError, RecursionError):
        flat = Path(tempfile.mkdtemp(dir=left.parent, prefix=f".{left.name}."))
    left.chmod(0o700)
    waiting = [left.rename(flat / "0")]
    count = 0
    while waiting:
        folder = waiting.pop()
        with os.scandir(folder) as entries:
            below = [folder / entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for path in below:
            count += 1
            path.chmod(0o700)
            waiting.append(path.rename(flat / str(count)))
    shutil.rmtree(flat)
