"""Data that others made: what it must be, and how an eval reads it. ``sources.py`` lists it, ``longctx data`` fetches it.

A data folder holds ``<source>/…`` and, where ``longctx data fetch`` filled it, ``lock.json``: the checksum and the number of rows of every
file as it was fetched. A file is checked against its pin, else against that record; a folder without a record is taken as it is.
"""

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .base import DataMissing

LOCK = "lock.json"


@dataclass(frozen=True, kw_only=True)
class File:
    """One file: ``path`` below the data folder, ``upstream`` below where it comes from."""

    path: str
    upstream: str
    sha256: str | None
    """Pinned; None where only the fetched file can tell."""
    rows: int | None = None
    """How many JSON lines the whole set has; None where the file has no rows."""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """Files of a GitHub repository at one commit, each with its checksum."""

    name: str
    commit: str
    files: tuple[File, ...]


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A zip file in a dataset repository of the Hugging Face hub. What is None is learnt by the first fetch and recorded."""

    name: str
    file: str
    files: tuple[File, ...]
    """The members that are unpacked. Any of them may be missing from a folder that somebody put together."""
    revision: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """What one name of ``longctx data fetch`` brings."""

    name: str
    summary: str
    repositories: tuple[Repository, ...]
    archive: Archive | None = None
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What each row has: key to the JSON types that it may be, as ``kind`` names them."""

    @property
    def pinned(self) -> tuple[File, ...]:
        """Files without which nothing works."""
        return tuple(file for repository in self.repositories for file in repository.files)

    @property
    def sets(self) -> tuple[File, ...]:
        """Files of rows, each a set of its own."""
        return self.archive.files if self.archive else ()

    @property
    def files(self) -> tuple[File, ...]:
        """All of them."""
        return (*self.pinned, *self.sets)


def command(source: str, data: Path | None = None) -> str:
    """Return the command that fetches a source into a data folder."""
    return f"longctx data fetch {source}" + (f" --data {shlex.quote(str(data))}" if data is not None else "")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def recorded(data: Path, source: str) -> Mapping[str, Mapping[str, Any]]:
    """Return what ``lock.json`` says of a source's files, by path; nothing where there is no record."""
    try:
        document = json.loads((data / LOCK).read_bytes())
        files = document["sources"].get(source, {}).get("files", {})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataMissing(f"{data / LOCK} cannot be read: {error}.", command(source, data)) from error
    return files if isinstance(files, dict) else {}


def find(data: Path | None, source: Source, path: str) -> Path:
    """Return a file that is there and is what it should be. Raises DataMissing that says what is wrong.

    Reads the file once where a checksum is known. ``path`` is one of the source's, such as ``longbench/qasper.jsonl``.
    """
    if data is None:
        raise DataMissing(f"{path} has not been fetched: no data folder is set.", command(source.name))
    file, found = next(one for one in source.files if one.path == path), data / path
    if not found.is_file():
        raise DataMissing(f"There is no {found}.", command(source.name, data))
    wanted = file.sha256 or recorded(data, source.name).get(path, {}).get("sha256")
    try:
        got = file_sha256(found) if wanted else None
    except OSError as error:
        raise DataMissing(f"{found} cannot be read: {error.strerror}.", command(source.name, data)) from error
    if got != wanted:
        what = "its pinned checksum" if file.sha256 else "the file that was fetched"
        raise DataMissing(f"{found} was altered: SHA-256 {str(got)[:16]}…, but {what} has {str(wanted)[:16]}….", command(source.name, data))
    return found


def rows(path: Path, fields: Mapping[str, tuple[str, ...]], mend: str) -> Iterator[dict[str, Any]]:
    """Yield a JSON-lines file's objects, one in memory at a time. Raises DataMissing naming line and key; ``mend`` is its command."""
    with path.open("rb") as opened:
        for number, line in enumerate(opened, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataMissing(f"{path}:{number}: no JSON: {error}.", mend) from error
            if not isinstance(row, dict):
                raise DataMissing(f"{path}:{number}: {kind(row)} where an object belongs.", mend)
            for key, kinds in fields.items():
                if key not in row:
                    raise DataMissing(f"{path}:{number}: the row has no {key!r}.", mend)
                if kind(row[key]) not in kinds:
                    raise DataMissing(f"{path}:{number}: {key!r} is {kind(row[key])} where {' or '.join(kinds)} belongs.", mend)
            yield row


def kind(value: Any) -> str:
    """Return the name of a JSON value's type; ``texts`` is a list of nothing but text."""
    if isinstance(value, list):
        return "texts" if all(isinstance(item, str) for item in value) else "list"
    names = {str: "text", bool: "bool", int: "int", float: "float", type(None): "null", dict: "object"}
    return names[type(value)]
