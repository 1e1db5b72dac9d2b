"""How a mistake in a file is told: where, which key, what is wrong, what is allowed, the nearest spelling. All of them, then one hint."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

from ..errors import ManifestError
from .source import KeyPath, Source

HINT = "Nothing was written. Mend what is listed above and run the same command again."
MOST_SHOWN = 40
"""Longest list of allowed names that one line shows."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake at ``path`` of a file. ``options`` are the allowed names, ``wrong`` the name that was written instead of one."""

    path: KeyPath
    message: str
    allowed: str = ""
    options: tuple[str, ...] = ()
    wrong: str | None = None
    at_key: bool = False
    """Point at the key rather than at its value."""

    def line(self, source: Source) -> str:
        """Return ``file:line:column: key.path: what is wrong; allowed: …; did you mean 'x'?``."""
        parts = [self.message]
        if allowed := self.allowed or listed(self.options):
            parts.append(f"allowed: {allowed}")
        if self.wrong is not None and (near := nearest(self.wrong, self.options)):
            parts.append(f"did you mean {near!r}?")
        key = key_text(self.path)
        return f"{source.where(self.path, key=self.at_key)}: {key + ': ' if key else ''}{'; '.join(parts)}"

    def under(self, prefix: KeyPath) -> "Problem":
        """Return the same mistake, its path starting below ``prefix``."""
        return replace(self, path=(*prefix, *self.path))


@dataclass
class Problems:
    """Collects the mistakes of one file, so that all are shown at once."""

    source: Source
    found: list[Problem] = field(default_factory=list)

    def add(self, problem: Problem) -> None:
        """Remember one."""
        self.found.append(problem)

    def extend(self, problems: Iterable[Problem], prefix: KeyPath = ()) -> None:
        """Remember several, whose paths start below ``prefix``."""
        self.found.extend(problem.under(prefix) for problem in problems)

    def stop(self, hint: str = HINT) -> None:
        """Raise ManifestError if anything was found: one line each in the file's order, then the hint."""
        if self.found:
            refuse(self.source, self.found, hint)


def refuse(source: Source, problems: Sequence[Problem], hint: str = HINT) -> NoReturn:
    """Raise ManifestError with one line a problem, in the file's order."""
    ordered = sorted(problems, key=lambda problem: source.position(problem.path, key=problem.at_key))
    raise ManifestError("\n".join(dict.fromkeys(problem.line(source) for problem in ordered)), hint)


def key_text(path: KeyPath) -> str:
    """Write a path as people do: ``methods[0].params.keep``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(wrong: str, options: Iterable[str]) -> str | None:
    """Return the option spelled most like ``wrong``, or None when none is near. Case and ``-`` against ``_`` hardly count."""
    plain = {_plain(option): option for option in options}
    found = difflib.get_close_matches(_plain(wrong), plain, n=1, cutoff=0.6)
    return plain[found[0]] if found else None


def listed(options: Sequence[str]) -> str:
    """Join names for a message, the many cut short."""
    shown = ", ".join(options[:MOST_SHOWN])
    return shown if len(options) <= MOST_SHOWN else f"{shown}, … ({len(options)} in all)"


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
