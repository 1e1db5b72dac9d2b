"""Files as the truth: atomic writes, the lock of a run, canonical JSON, and where everything in a run lies."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from .errors import BadRunFolder, RunLocked, StorageError

M = TypeVar("M", bound=BaseModel)
LINE_LIMIT = 64 * 2**20
"""The longest line that is read from a file a container wrote, in bytes."""


def canonical(value: Any) -> bytes:
    """Return the one JSON spelling of plain data that hashes are taken of."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def digest(value: Any) -> str:
    """Return the SHA-256 of plain data's canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full or unwritable disk into StorageError naming the path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG):
            raise StorageError(
                f"{path}: {os.strerror(error.errno)}.", "Free some space or choose another folder; then run the same command to resume."
            ) from error
        raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary neighbour for writing; on success it is synced and renamed to ``path``, else removed."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:60]}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise


def write(path: Path, content: str | bytes) -> None:
    """Replace a file in one step."""
    with writing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_document(path: Path, document: BaseModel) -> None:
    """Replace a JSON document in one step."""
    write(path, document.model_dump_json(indent=1) + "\n")


def read_document(path: Path, kind: type[M]) -> M:
    """Read a JSON document. Raises BadRunFolder naming file and key."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise BadRunFolder(f"{path} does not exist.", "Is this a run folder? `longctx status` lists them.") from error
    except OSError as error:
        raise BadRunFolder(f"{path}: {error.strerror}.", "Check what lies there and who may read it.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadRunFolder(
            f"{path}: {where}: {first['msg']}", "It was written by another version, or altered; remove it to start over."
        ) from error


def lines(path: Path) -> Iterator[bytes]:
    """Yield a JSON-lines file's whole lines; a torn last one (no newline) is left out. Memory is one line."""
    with path.open("rb") as file:
        while line := file.readline(LINE_LIMIT):
            if not line.endswith(b"\n"):
                return
            yield line[:-1]


def read_lines(path: Path, kind: type[M]) -> Iterator[M]:
    """Yield validated documents of a JSON-lines file that longctx itself wrote. Raises BadRunFolder naming file and line."""
    for number, line in enumerate(lines(path), 1):
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadRunFolder(f"{path}:{number}: {where}: {first['msg']}", "Remove that file and run again.") from error


def write_lines(path: Path, documents: Iterable[BaseModel]) -> int:
    """Replace a JSON-lines file; return how many lines it has."""
    count = 0
    with writing(path) as file:
        for document in documents:
            file.write(document.model_dump_json().encode() + b"\n")
            count += 1
    return count


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock, freed by the kernel when the process ends. Raises RunLocked at once when another has it."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip()
            raise RunLocked(
                f"{what} is in use by another process{f' ({holder})' if holder else ''}.", "Wait for it, or stop it; nothing was changed."
            ) from error
        file.seek(0)
        file.truncate()
        file.write(f"pid {os.getpid()}")
        file.flush()
        yield


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``: a hard link, or a copy across file systems. Replaces in one step."""
    import shutil

    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        try:
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)  # there only after a failure, or where both were one file already


@dataclass(frozen=True)
class RunFolder:
    """``runs/<name>`` and what lies where in it."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def manifest(self) -> Path:
        """A copy of the manifest as it was read."""
        return self.path / "manifest.yaml"

    @property
    def plan(self) -> Path:
        """What the manifest expanded to."""
        return self.path / "plan.json"

    @property
    def lock(self) -> Path:
        """What it resolved to."""
        return self.path / "lock.json"

    @property
    def summary(self) -> Path:
        """The run at a glance."""
        return self.path / "summary.json"

    @property
    def guard(self) -> Path:
        """The file whose lock keeps a second process out."""
        return self.path / ".lock"

    def requests(self, key: str) -> Path:
        """Requests of a task."""
        return self.path / "requests" / f"{key}.jsonl"

    def ids(self, name: str) -> Path:
        """Token ids, ``<model>/<task>.ids``."""
        return self.path / "requests" / name

    def references(self, key: str) -> Path:
        """References of a task."""
        return self.path / "references" / f"{key}.jsonl"

    def job(self, job: str) -> Path:
        """A job's folder, one sub-folder an attempt."""
        return self.path / "jobs" / job

    def attempts(self, job: str) -> list[Path]:
        """All attempts of a job, oldest first."""
        folder = self.job(job)
        if not folder.is_dir():
            return []
        return sorted((child for child in folder.iterdir() if child.name.isdecimal()), key=lambda child: int(child.name))

    def cell(self, cell: str) -> Path:
        """A cell's folder."""
        return self.path / "cells" / cell


def plain(model: BaseModel) -> dict[str, Any]:
    """Return a contract as plain JSON data."""
    return model.model_dump(mode="json")
