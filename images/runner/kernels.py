"""Compiled kernels from job to job: the host's are copied into this process's caches, and the new ones are left in ``out/kernels``.

A container's home is a tmpfs, so Triton and Inductor would compile everything anew in every job. Both name what they keep by the hash of
what it was made from, so a copy is as good as the original, with these exceptions, read in the sources of Triton 3.6 and 3.8
(``runtime/cache.py``, ``compiler/compiler.py``) and torch 2.13 (``_inductor/codecache.py``, ``triton_bundler.py``):

- Triton keeps a kernel in a flat folder; its ``__grp__*.json`` names the others by absolute path and is written last. Triton 3.6 takes a
  group of which files are missing for whole, and Inductor takes any folder that is not empty for whole: a folder is copied only when all
  of its group is there, with the group last and its paths pointing into the copy.
- Locks and temporary names (``locks/``, ``*.lock``, ``lock``, ``*.tmp``, ``.PID.*``, ``tmp.*``) mean something only to the process that
  made them.
- A compiler that was cut short leaves half a library under its final name: after anything but a plain end, what was written in the last
  seconds is left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "LONGCTX_KERNELS"
KEEP = "keep"
"""The value of the variable that asks for what is new."""
FOLDER = "kernels"
CACHES = {"triton": "TRITON_CACHE_DIR", "inductor": "TORCHINDUCTOR_CACHE_DIR"}
"""Folder in the root's and in out's ``kernels/``, and the variable that names the cache."""
FILES_LIMIT = 20_000
BYTES_LIMIT = 2 * 2**30
DEPTH_LIMIT = 8
SETTLED_SECONDS = 2.0
GROUP = "__grp__"
_GROUP_LIMIT = 2**20
_SKIPPED = ("lock", "locks", "__pycache__")


@dataclass(frozen=True)
class Unit:
    """Files that are of use only together, relative to their cache, in the order to copy them."""

    files: tuple[str, ...]
    size: int
    newest: float
    """When the youngest was written, in seconds since the epoch."""


class _Room:
    """What may still be copied."""

    def __init__(self) -> None:
        self.files, self.bytes, self.left_out = FILES_LIMIT, BYTES_LIMIT, 0

    def takes(self, unit: Unit) -> bool:
        if len(unit.files) > self.files or unit.size > self.bytes:
            self.left_out += len(unit.files)
            return False
        self.files -= len(unit.files)
        self.bytes -= unit.size
        return True

    def told(self) -> str | None:
        if not self.left_out:
            return None
        return f"{self.left_out} files of compiled kernels were left out: the caps are {FILES_LIMIT} files and {BYTES_LIMIT >> 20} MiB"


def seed(root: Path, variables: Mapping[str, str]) -> str | None:
    """Copy the root's ``kernels/``, when there is one, into the caches that ``variables`` name; return a warning, or None.

    Names that exist in a cache stay as they are. When a cache cannot be written, what was copied is removed: room to compile matters more.
    """
    room = _Room()
    copied: list[Path] = []
    try:
        for source, cache, units in _caches(root / FOLDER, variables):
            for unit in units(source):
                if not room.takes(unit):
                    continue
                for file in unit.files:
                    if not os.path.lexists(cache / file):
                        copied.append(cache / file)
                        _seed(source / file, cache / file)
    except OSError as error:
        for path in copied:
            with contextlib.suppress(OSError):
                path.unlink()
        return f"compiled kernels of earlier jobs could not be copied, they are compiled anew: {error}"
    return room.told()


def keep(root: Path, out: Path, variables: Mapping[str, str], ended_well: bool) -> str | None:
    """When the variable asks for it, copy what is in the caches and not in the root's ``kernels/`` to ``out/kernels``.

    Returns a warning, or None. When ``out`` cannot take it, nothing of it stays there.
    """
    if variables.get(VARIABLE) != KEEP:
        return None
    target = out / FOLDER
    room = _Room()
    settled = time.time() - SETTLED_SECONDS
    try:
        _remove(target)
        for kept, cache, units in _caches(root / FOLDER, variables):
            for unit in units(cache):
                if all((kept / file).is_file() for file in unit.files) or (not ended_well and unit.newest > settled):
                    continue
                if room.takes(unit):
                    for file in unit.files:
                        _copy(cache / file, target / kept.name / file)
    except OSError as error:
        with contextlib.suppress(OSError):
            _remove(target)
        return f"compiled kernels were not kept for later jobs: {error}"
    return room.told()


def _caches(folder: Path, variables: Mapping[str, str]) -> Iterator[tuple[Path, Path, Callable[[Path], Iterator[Unit]]]]:
    """Yield (folder below ``kernels/``, cache, how to list either) of every cache that is named."""
    listing = {"triton": _triton, "inductor": _inductor}
    for name, variable in CACHES.items():
        if variables.get(variable):
            yield folder / name, Path(variables[variable]), listing[name]


def _usable(name: str) -> bool:
    """Whether a name can be one that a cache means to keep."""
    return name.isprintable() and not name.startswith((".", "tmp.")) and not name.endswith((".tmp", ".lock")) and name not in _SKIPPED


def _entries(folder: Path) -> list[tuple[str, os.stat_result]]:
    """Return usable names with their own status, in order; nothing when there is no such folder."""
    found = []
    try:
        for path in sorted(folder.iterdir()):
            if _usable(path.name):
                with contextlib.suppress(FileNotFoundError):  # a thread that a package left running tidies up
                    found.append((path.name, path.lstat()))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return found


def _triton(cache: Path) -> Iterator[Unit]:
    """Yield the whole folders of a Triton cache."""
    for folder, status in _entries(cache):
        if not stat.S_ISDIR(status.st_mode):
            continue
        files = {name: each for name, each in _entries(cache / folder) if stat.S_ISREG(each.st_mode)}
        groups = [name for name in files if name.startswith(GROUP)]
        # A single file is a launcher or the outcome of tuning; several without a group are a compilation that was cut short.
        whole = all((_children(cache / folder / group) or {""}) <= set(files) for group in groups)
        if files and whole and (groups or len(files) == 1):
            ordered = [name for name in files if name not in groups] + groups
            yield _unit({f"{folder}/{name}": files[name] for name in ordered})


def _inductor(cache: Path) -> Iterator[Unit]:
    """Yield the files of an Inductor cache: each is written for itself."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        for name, status in _entries(cache / folder):
            path = f"{folder}{name}"
            if stat.S_ISREG(status.st_mode):
                yield _unit({path: status})
            elif stat.S_ISDIR(status.st_mode) and path.count("/") + 2 < DEPTH_LIMIT:
                waiting.append(f"{path}/")


def _unit(files: Mapping[str, os.stat_result]) -> Unit:
    return Unit(tuple(files), sum(each.st_size for each in files.values()), max(each.st_mtime for each in files.values()))


def _children(group: Path) -> set[str] | None:
    """Return the names of a group's files, or None when it is not a group."""
    try:
        with group.open("rb") as file:
            return set(json.loads(file.read(_GROUP_LIMIT))["child_paths"].keys()) or None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _seed(source: Path, target: Path) -> None:
    """Copy one file into a cache; of a group, only the names are taken: its files lie beside it, wherever the cache is."""
    children = _children(source) if source.name.startswith(GROUP) else None
    if children is None:
        _copy(source, target)
        return
    folder = target.parent.absolute()
    with _appearing(target) as draft:
        draft.write_text(json.dumps({"child_paths": {name: str(folder / name) for name in sorted(children)}}), encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(handle, "rb") as file, _appearing(target) as draft, draft.open("wb") as copy:
        shutil.copyfileobj(file, copy, 2**20)


@contextlib.contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """Lend a name to write to, which becomes ``target`` when all went well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{os.getpid()}.longctx.tmp")
    try:
        yield draft
        draft.chmod(0o644)
        draft.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def _remove(path: Path) -> None:
    """Remove what an earlier process of this attempt left, whatever it is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
