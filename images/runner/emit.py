"""Everything the runner writes: fsynced JSON lines, events, whole documents by rename, and ``exit.json`` as the last word."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .failures import clean

RESERVE = 16384
"""Bytes set aside at the start, so that a full disk can still be told in ``exit.json``."""
EVERY = 0.1
"""Least seconds between two progress events of one cell."""


def encode(document: Mapping[str, Any]) -> bytes:
    """Return one JSON line. Raises ValueError for NaN and infinity, which no contract takes."""
    return json.dumps(document, ensure_ascii=True, allow_nan=False).encode("ascii") + b"\n"


class Lines:
    """An append-only file of JSON lines, each on disk before ``write`` returns.

    Opening keeps the leading lines that are whole and parse, and cuts off the rest: an earlier process may have died in mid-line.
    ``found`` holds the lines that were kept, reduced to the values of ``keys``.
    """

    def __init__(self, path: Path, keys: tuple[str, ...], sync: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.found: set[tuple[Any, ...]] = set()
        self._sync = sync
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._end = self._keep(path, keys)
        os.ftruncate(self._file, self._end)
        os.lseek(self._file, self._end, os.SEEK_SET)
        if sync:
            os.fsync(self._file)
            sync_folder(path.parent)

    def _keep(self, path: Path, keys: tuple[str, ...]) -> int:
        end = 0
        with path.open("rb") as file:
            for line in file:
                try:
                    document: Any = json.loads(line) if line.endswith(b"\n") else None
                    self.found.add(tuple(document[key] for key in keys))
                except (ValueError, TypeError, KeyError):
                    break
                end += len(line)
        return end

    def write(self, document: Mapping[str, Any]) -> None:
        """Append one line. Raises OSError with the file as it was before."""
        data = memoryview(encode(document))
        try:
            done = 0
            while done < len(data):
                done += os.write(self._file, data[done:])
            if self._sync:
                os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._end)
            os.lseek(self._file, self._end, os.SEEK_SET)
            raise
        self._end += len(data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> Lines:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()


class Events:
    """``out/events.jsonl``. Not fsynced: events tell a person how far a job is, nothing is decided by them."""

    def __init__(self, out: Path) -> None:
        self._lines = Lines(out / "events.jsonl", ("event",), sync=False)

    def send(self, event: str, **fields: Any) -> None:
        """Write one event with the time of now."""
        self._lines.write({"schema_version": 1, "at": time.time(), "event": event, **fields})

    def warn(self, message: str) -> None:
        """Tell a person something in one line."""
        self.send("warning", message=clean(message)[:4000])


class Progress:
    """Counts answers of one cell and tells of them at most ten times a second, and always of the first and the last."""

    def __init__(self, events: Events, cell: str, phase: str, done: int, total: int) -> None:
        self._events = events
        self._cell, self._phase, self._done, self._total = cell, phase, done, total
        self._tokens = 0
        self._last = 0.0
        self._send()

    def add(self, answers: int, tokens: int) -> None:
        """Count finished answers and the tokens that were processed for them."""
        self._done += answers
        self._tokens += tokens
        if self._done >= self._total or time.monotonic() - self._last >= EVERY:
            self._send()

    def _send(self) -> None:
        fields = {"cell": self._cell, "phase": self._phase, "done": self._done, "total": self._total, "tokens": self._tokens}
        self._events.send("progress", **fields)
        self._tokens = 0
        self._last = time.monotonic()


class ExitFile:
    """``out/exit.json``: space for it is taken at the start, it appears by rename at the end. One of an earlier process goes first."""

    def __init__(self, out: Path) -> None:
        self._path = out / "exit.json"
        self._draft = out / "exit.json.tmp"
        self._path.unlink(missing_ok=True)
        with self._draft.open("wb") as file:
            file.write(b" " * RESERVE)
            file.flush()
            os.fsync(file.fileno())

    def write(self, status: str, phase: str, reason: str, message: str, answered: int) -> None:
        """Say how it went. ``answered``: lines this process wrote (responses, token ids, counts)."""
        told = clean(message)[:8000]
        document: dict[str, Any] = {"schema_version": 1, "status": status, "phase": phase, "reason": reason, "answered": answered}
        data = encode({**document, "message": told})
        if len(data) > RESERVE:  # characters escaped: shorten rather than fail to say anything
            data = encode({**document, "message": told[:1000]})
        with self._draft.open("r+b") as file:
            file.write(data)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        self._draft.replace(self._path)
        sync_folder(self._path.parent)


def replace(path: Path, document: Mapping[str, Any]) -> None:
    """Write a whole JSON document: temporary file, fsync, rename."""
    draft = path.with_name(path.name + ".tmp")
    with draft.open("wb") as file:
        file.write(encode(document))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder durable, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
