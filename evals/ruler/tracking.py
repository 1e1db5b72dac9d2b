"""Variable tracking: which variables come to have a value, the first directly, each later one through the one before it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

from ..text.haystack import take, weave
from .task import Draft, Place, choice, count, depth, filler, flag, listed
from .vocabulary import distinct, letters, number

INSTRUCTION = (
    "In the following text variables are given values, many of them by way of another variable. Keep track of what each one is.\n\n"
)
VALUE = "LET {name} = {value}."
COPY = "LET {name} = {other}."
QUESTION = "\n\nThe text has ended. Which variables are {value}, directly or by way of others?\n"
ANSWER_PREFIX = "{count} variables are {value}:"
EXAMPLE_WORDS = 40
LETTERS = 5


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """RULER's variable tracking; ``needles`` are the variables of a chain, one more than its hops."""

    needles: tuple[int, ...] = (5,)
    defaults: Mapping[str, Any] = field(default_factory=lambda: {"haystack": "noise", "chains": 1, "example": True})

    def normalise(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Check chains and example. Raises ParameterError."""
        return {
            "haystack": choice(params, "haystack", ("text", "noise")),
            "chains": count(params, "chains", 1, 100),
            "example": flag(params, "example"),
        }

    def least_words(self, params: Mapping[str, Any], needles: int) -> int:
        """None: the statements alone make a question."""
        return 0

    def max_new_tokens(self, params: Mapping[str, Any], needles: int) -> int:
        """RULER's 30, or room for five letters a variable, where each may be a token."""
        return max(30, 8 * needles)

    def draft(self, tag: str, params: Mapping[str, Any], place: Place) -> Draft:
        """Return a request that asks for the first chain, after a worked example if there is to be one."""
        names, value, placed = _chains(tag, params["chains"], place.needles)
        question, prefix = _question(place.needles, value)
        return Draft(
            answers=names,
            instruction=(_example(f"{tag}/example", params["haystack"], place.needles) if params["example"] else "") + INSTRUCTION,
            context=lambda words: weave(take(filler(params["haystack"], tag), words), placed),
            question=question,
            answer_prefix=prefix,
        )


def _example(tag: str, haystack: str, needles: int) -> str:
    names, value, placed = _chains(tag, 1, needles)
    text = weave(take(filler(haystack, tag), EXAMPLE_WORDS), placed)
    return "".join((INSTRUCTION, text, *_question(needles, value), " ", listed(names, ", "), "\n\n\n"))


def _question(needles: int, value: str) -> tuple[str, str]:
    return QUESTION.format(value=value), ANSWER_PREFIX.format(count=needles, value=value)


def _chains(tag: str, chains: int, needles: int) -> tuple[tuple[str, ...], str, list[tuple[float, str]]]:
    """Return the first chain's variables, its value, and all statements with their depths; those of one chain stand in their order."""
    names = distinct(partial(letters, count=LETTERS), f"{tag}/name", chains * needles)
    values = distinct(partial(number, digits=5), f"{tag}/value", chains)
    placed = []
    for chain, value in enumerate(values):
        members = names[chain * needles : (chain + 1) * needles]
        lines = [VALUE.format(name=members[0], value=value)]
        lines += [COPY.format(name=name, other=other) for other, name in pairwise(members)]
        depths = sorted(depth(f"{tag}/{chain}/{place}") for place in range(needles))
        placed += list(zip(depths, lines, strict=True))
    return names[:needles], values[0], placed
