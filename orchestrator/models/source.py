"""The port of a model source: one module a scheme, listed in ``resolution.SOURCES``."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ..contracts.manifest import ModelSpec
from ..settings import Settings

Report = Callable[[str], None]
"""Takes one line about what is being done, for a person who waits."""


@dataclass(frozen=True, kw_only=True)
class Located:
    """A model's files on this disk: names relative to ``folder``, sorted; only what a job reads."""

    folder: Path
    files: tuple[str, ...]
    revision: str | None
    weights: Literal["files", "random"] = "files"


class Source(Protocol):
    """One scheme. ``rest`` is the source without its scheme; ``spec`` is the whole, for messages and trust."""

    def check(self, rest: str, spec: ModelSpec) -> str | None:
        """Say what is wrong with ``rest`` as far as that can be seen without fetching; None when nothing is."""

    def locate(self, rest: str, spec: ModelSpec, settings: Settings) -> Located | None:
        """Return the model if it is complete on this disk; quick, no network. Raises ModelError when its files are wrong."""

    def fetch(self, rest: str, spec: ModelSpec, settings: Settings, report: Report) -> Located:
        """Fetch or make it; without the network when ``settings.offline``. Raises ModelError with one clear message."""
