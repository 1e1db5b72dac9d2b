"""What a process says, made safe to show: no terminal escapes, no progress bars redrawn in place, no more than a cap."""

import contextlib
import os
import re
import threading
from pathlib import Path
from typing import BinaryIO, Protocol

LOG_CAP = 64 * 2**20
LINE_CAP = 64 * 2**10
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])|\x9b[0-?]*[ -/]*[@-~]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean_line(line: bytes) -> str:
    """Return one line as plain text: escapes and control characters removed; of a line redrawn with carriage returns, its last state."""
    text = _ESCAPE.sub("", line.decode("utf-8", "replace")).rstrip("\r")
    return _CONTROL.sub("", text.rpartition("\r")[2])


class LogWriter:
    """Takes raw bytes in any pieces, writes clean lines to a file until the cap, then one notice and nothing more."""

    def __init__(self, file: BinaryIO, cap: int = LOG_CAP) -> None:
        self._file, self._left = file, cap
        self._pending = b""

    def feed(self, data: bytes) -> None:
        """Take a piece of output; whole lines are written at once."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            self._write(line)
        if len(self._pending) > LINE_CAP:
            self.finish()

    def finish(self) -> None:
        """Write what is pending as a line of its own."""
        if self._pending:
            self._write(self._pending)
        self._pending = b""

    def _write(self, line: bytes) -> None:
        if self._left <= 0:
            return
        data = clean_line(line).encode() + b"\n"
        self._left -= len(data)
        self._file.write(data if self._left > 0 else b"[longctx: the log's size cap is reached; the rest is left out]\n")
        self._file.flush()


class Pipe(Protocol):
    """The reading end of whatever a process writes to."""

    def read1(self, size: int, /) -> bytes:
        """Return what is there, at least one byte, waiting for it; nothing at the end."""

    def close(self) -> None:
        """Close it."""


class LogPump(threading.Thread):
    """Reads a pipe to its end, so that a full pipe never blocks the process, and writes it to ``path`` through a LogWriter."""

    def __init__(self, pipe: Pipe, path: Path, cap: int = LOG_CAP) -> None:
        super().__init__(name="longctx-log", daemon=True)
        self._pipe, self._path, self._cap = pipe, path, cap

    def run(self) -> None:
        """Pump until every writer is gone. A log that cannot be written is drained all the same."""
        with contextlib.closing(self._pipe), open(os.devnull, "wb") as nowhere:
            try:
                file: BinaryIO = self._path.open("ab")
            except OSError:
                file = nowhere
            with file:
                writer = LogWriter(file, self._cap)
                while data := self._pipe.read1(2**16):
                    try:
                        writer.feed(data)
                    except OSError:  # the disk is full; the process must not notice through its output
                        writer = LogWriter(nowhere)
                try:
                    writer.finish()
                except OSError:
                    return
