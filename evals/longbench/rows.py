"""Rows of a set, read line by line, and the names that their requests have for ever."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import command, find, rows
from ..sources import LONGBENCH

_FIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=@+-]{0,127}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: ``id`` is its request's, ``index`` its place in the file from 0, ``values`` all of its fields."""

    id: str
    index: int
    values: dict[str, Any]

    @property
    def cluster(self) -> str:
        """The document: rows about the same text share it."""
        return hashlib.sha256(self.values["context"].encode("utf-8", "surrogatepass")).hexdigest()[:24]


def path_of(task: str) -> str:
    """Return where a task's rows lie below the data folder."""
    return f"longbench/{task}.jsonl"


def read(task: str, data: Path | None) -> Iterator[Row]:
    """Yield a set's rows in order; one is in memory at a time. Raises DataMissing for a file or row that is not what it should be."""
    path = find(data, LONGBENCH, path_of(task))
    seen: set[bytes] = set()
    for index, values in enumerate(rows(path, LONGBENCH.fields, command(LONGBENCH.name, data))):
        name = request_id(values["_id"], index)
        mark = hashlib.blake2b(name.encode(), digest_size=12).digest()
        if mark in seen:
            name = f"row-{index}"
        seen.add(mark)
        yield Row(id=name, index=index, values=values)


def request_id(own: str, index: int) -> str:
    """Return a row's own ``_id`` where that may name a request, else something as lasting that follows from it."""
    if _FIT.fullmatch(own):
        return own
    if not own:
        return f"row-{index}"
    # What may not stand in a name is replaced, and so two names could become one: the hash keeps them apart.
    digest = hashlib.sha256(own.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"id-{re.sub(r'[^A-Za-z0-9._=@+-]', '-', own)[:64]}-{digest}"
