"""Following what a runner writes while it runs. Nothing in it is trusted: sizes are capped, lines validated, escapes stripped."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .contracts.outcome import Event

_ADAPTER: TypeAdapter[Any] = TypeAdapter(Event)
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]+[0-~]|[@-Z\\-_])|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
READ_LIMIT = 4 * 2**20


def clean(text: str) -> str:
    """Return text without terminal escapes and control characters, safe to print."""
    return _ESCAPES.sub("", text)


class Tail:
    """Yields the events appended to a file since the last look. A link is never followed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    def new(self) -> Iterator[Event]:
        """Yield what was appended; lines that are no events are passed over."""
        try:
            # Whoever writes there may put a link or a pipe in its place between a check and the opening: one call does both.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return
            chunk = os.pread(descriptor, READ_LIMIT, self._offset)
        finally:
            os.close(descriptor)
        self._offset += len(chunk)
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > READ_LIMIT:
            self._rest = b""
        for line in whole:
            try:
                yield _ADAPTER.validate_json(line)
            except ValidationError:
                continue
