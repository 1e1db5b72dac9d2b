"""What a task of RULER is here, and the fillers that needles stand in."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .. import parameters
from ..base import ParameterError, Role, Segment
from ..text.haystack import draw, sentences

NOISE = ("The road is long.", "The hill is steep.", "The moon is pale.", "On we walk.", "Step by step, home again.")
"""Said over and over by ``haystack: noise``."""
MOST_NEEDLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One request but for its length: what is asked, and the prompt with any number of words of filler."""

    answers: tuple[str, ...]
    instruction: str
    context: Callable[[int], str]
    question: str
    answer_prefix: str

    def segments(self, words: int) -> tuple[Segment, ...]:
        """The prompt with so many words of filler."""
        texts: tuple[tuple[Role, str], ...] = (
            ("instruction", self.instruction),
            ("context", self.context(words)),
            ("question", self.question),
            ("answer_prefix", self.answer_prefix),
        )
        return tuple(Segment(role=role, text=text) for role, text in texts)

    def text(self, words: int) -> str:
        """The same as one text."""
        return "".join(segment.text for segment in self.segments(words))


@dataclass(frozen=True, kw_only=True)
class Place:
    """One request's place on the axes; all that is drawn for it follows from this, the task and the seed."""

    unit: str
    length: int
    needles: int
    repeat: int

    @property
    def id(self) -> str:
        """Such as ``w1024-n4-r0``."""
        return f"{self.unit[0]}{self.length}-n{self.needles}-r{self.repeat}"


class Task(Protocol):
    """One kind of needle. Implementations are listed in ``eval.py``."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Its own parameters."""

    @property
    def needles(self) -> tuple[int, ...]:
        """Default numbers of needles."""

    def normalise(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return its own parameters, checked. Raises ParameterError."""

    def least_words(self, params: Mapping[str, Any], needles: int) -> int:
        """Return how many words of filler the question needs in order to have one answer."""

    def max_new_tokens(self, params: Mapping[str, Any], needles: int) -> int:
        """Return room enough for the answer, and no less than RULER gives."""

    def draft(self, tag: str, params: Mapping[str, Any], place: Place) -> Draft:
        """Return the request of a place; everything drawn follows from ``tag``."""


def choice(params: Mapping[str, Any], name: str, options: tuple[str, ...]) -> str:
    """Return a parameter that is one of ``options``. Raises ParameterError."""
    value = params[name]
    if not isinstance(value, str) or value not in options:
        raise ParameterError((name,), f"{value!r} is not allowed", f"one of {', '.join(options)}", options)
    return value


def flag(params: Mapping[str, Any], name: str) -> bool:
    """Return a parameter that is true or false. Raises ParameterError."""
    value = params[name]
    if not isinstance(value, bool):
        raise ParameterError((name,), f"{value!r} is not allowed", "true or false")
    return value


def count(params: Mapping[str, Any], name: str, low: int = 1, high: int = MOST_NEEDLES) -> int:
    """Return a parameter that is a whole number. Raises ParameterError."""
    return parameters.integer(params[name], (name,), low, high)


def filler(kind: str, tag: str) -> Iterator[str]:
    """Yield sentences without end: ``text`` says something else each time, ``noise`` always the same."""
    return sentences(tag) if kind == "text" else itertools.cycle(NOISE)


def depth(tag: str) -> float:
    """Return a drawn depth, 0 … 1."""
    return draw(f"{tag}/depth") % 1001 / 1000


def listed(names: tuple[str, ...], last: str = " and ") -> str:
    """Return ``a, b and c``."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + last + names[-1]
