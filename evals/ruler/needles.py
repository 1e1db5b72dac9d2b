"""Needles in a haystack: codes that are given to names, one or many, asked for one by one or together."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..text.haystack import take, weave
from .task import Draft, Place, choice, depth, filler, listed
from .vocabulary import MADE, distinct

INSTRUCTION = "In the following text codes are given to names. Keep them in mind, because you will be asked for some of them.\n\n"
NEEDLE = "Take note: a code of {key} is {value}."
ONE = ("\n\nThe text has ended. Which code of {keys} did it give?\n", "The code of {keys} is")
ALL = ("\n\nThe text has ended. Which are all the codes of {keys} that it gave?\n", "The codes of {keys} are")


@dataclass(frozen=True, kw_only=True)
class Needles:
    """RULER's four retrieval tasks. ``many`` says what there are several of, in the text or in the question."""

    many: Literal["none", "keys", "values", "queries"]
    needles: tuple[int, ...]
    defaults: Mapping[str, Any] = field(default_factory=lambda: {"haystack": "text", "keys": "word", "values": "number"})

    def normalise(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Check what keys and values are, and what they stand in. Raises ParameterError."""
        return {
            "haystack": choice(params, "haystack", ("text", "noise", "needles")),
            "keys": choice(params, "keys", ("word", "uuid")),
            "values": choice(params, "values", tuple(MADE)),
        }

    def least_words(self, params: Mapping[str, Any], needles: int) -> int:
        """None: the needles alone make a question."""
        return 0

    def max_new_tokens(self, params: Mapping[str, Any], needles: int) -> int:
        """RULER's 128, or more where many or long values are asked for."""
        return max(128, (48 if params["values"] == "uuid" else 20) * (1 if self.many == "keys" else needles))

    def draft(self, tag: str, params: Mapping[str, Any], place: Place) -> Draft:
        """Return a request. The first keys are asked for."""
        keys = distinct(MADE[params["keys"]], f"{tag}/key", 1 if self.many == "values" else place.needles)
        values = distinct(MADE[params["values"]], f"{tag}/value", place.needles)
        asked = keys if self.many == "queries" else keys[:1]
        answers = values if self.many in {"values", "queries"} else values[:1]
        lines = [NEEDLE.format(key=key, value=value) for key, value in zip(itertools.cycle(keys), values, strict=False)]
        placed = [(depth(f"{tag}/{number}"), line) for number, line in enumerate(lines)]
        question, prefix = (text.format(keys=listed(asked)) for text in (ONE if len(answers) == 1 else ALL))

        def context(words: int) -> str:
            around = _others(tag, params, keys) if params["haystack"] == "needles" else filler(params["haystack"], tag)
            return weave(take(around, words), placed)

        return Draft(answers=answers, instruction=INSTRUCTION, context=context, question=question, answer_prefix=prefix)


def _others(tag: str, params: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[str]:
    """Yield needles of other keys without end."""
    for place in itertools.count():
        key = MADE[params["keys"]](f"{tag}/other/{place}")
        if key not in keys:
            yield NEEDLE.format(key=key, value=MADE[params["values"]](f"{tag}/other-value/{place}"))
