"""Aggregation: which words of a long list come up most often."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from string import ascii_lowercase
from typing import Any

from .. import parameters
from ..base import ParameterError
from .task import Draft, Place, count, flag, listed
from .vocabulary import distinct, letters, numbered, shuffled

INSTRUCTION = "Some words of the following list come up far more often than all the others. Keep count while you read.\n\n"
QUESTION = "\n\nThe list has ended. Which {count} words came up most often in it?\n"
ANSWER_PREFIX = "The {count} words that came up most often are:"
CODED_INSTRUCTION = "The following text is in code. Keep count of how often each coded word comes up.\n\n"
CODED_QUESTION = "\n\nThe text has ended. Which {count} coded words came up most often? Give only the words.\n"
LETTERS = 6
EXAMPLE_TIMES = (4, 1)
"""How often common and other words come up in the worked example."""
SHORT_TOKENS = 4096
"""Below this RULER's numbers of words leave no room."""
MOST_WORDS = 10_000_000


@dataclass(frozen=True, kw_only=True)
class CommonWords:
    """RULER's CWE: ``needles`` words come up ``common_times`` each, as many others as there is room for ``uncommon_times`` each."""

    needles: tuple[int, ...] = (10,)
    defaults: Mapping[str, Any] = field(default_factory=lambda: {"common_times": None, "uncommon_times": None, "example": True})

    def normalise(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Check how often words come up. Raises ParameterError."""
        example = flag(params, "example")
        if params["common_times"] is None and params["uncommon_times"] is None:
            return {"common_times": None, "uncommon_times": None, "example": example}
        for one, other in (("common_times", "uncommon_times"), ("uncommon_times", "common_times")):
            if params[one] is None:
                raise ParameterError((one,), f"must be given together with {other}", "a whole number")
        uncommon = count(params, "uncommon_times")
        common = count(params, "common_times")
        if common <= uncommon:
            raise ParameterError(("common_times",), f"{common} is not more than uncommon_times", f"a whole number above {uncommon}")
        return {"common_times": common, "uncommon_times": uncommon, "example": example}

    def least_words(self, params: Mapping[str, Any], needles: int) -> int:
        """None: common words come on top."""
        return 0

    def max_new_tokens(self, params: Mapping[str, Any], needles: int) -> int:
        """RULER's 120, or more for many words."""
        return max(120, 12 * needles)

    def draft(self, tag: str, params: Mapping[str, Any], place: Place) -> Draft:
        """Return a request, after a worked example if there is to be one."""
        needles = place.needles
        times = (params["common_times"], params["uncommon_times"]) if params["common_times"] else usual_times(place)
        example = ""
        if params["example"]:
            shown = _list(f"{tag}/example", needles, EXAMPLE_TIMES, 2 * needles)
            example = "".join((INSTRUCTION, shown, *_asked(needles), " ", listed(_names(f"{tag}/example", needles), ", "), "\n\n\n"))
        question, prefix = _asked(needles)
        return Draft(
            answers=_names(tag, needles),
            instruction=example + INSTRUCTION,
            context=lambda words: _list(tag, needles, times, words),
            question=question,
            answer_prefix=prefix,
        )


def usual_times(place: Place) -> tuple[int, int]:
    """Return how often common and other words come up where parameters leave it open, as RULER does: less often in short prompts."""
    return (6, 1) if place.unit == "tokens" and place.length < SHORT_TOKENS else (30, 3)


@dataclass(frozen=True, kw_only=True)
class FrequentWords:
    """RULER's FWE: coded words, in numbers that fall as their rank to the power ``alpha`` (Zipf); the first ``needles`` are asked for."""

    needles: tuple[int, ...] = (3,)
    defaults: Mapping[str, Any] = field(default_factory=lambda: {"alpha": 2.0, "vocabulary": 200})

    def normalise(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Check the distribution. Raises ParameterError."""
        return {
            "alpha": parameters.number(params["alpha"], ("alpha",), 0.1, 10),
            "vocabulary": count(params, "vocabulary", 2, 100_000),
        }

    def least_words(self, params: Mapping[str, Any], needles: int) -> int:
        """Return from how many words on each word that is asked for comes up more often than the next one in rank."""
        if needles >= params["vocabulary"]:
            raise ParameterError(("needles",), f"{needles} of {params['vocabulary']} words", "fewer than vocabulary")
        weights = _weights(params["alpha"], params["vocabulary"])
        # Shares that are one word apart are one word apart after rounding down, too.
        gap = min(more - less for more, less in pairwise(weights[: needles + 1]))
        least = math.ceil(sum(weights) / gap) if gap else MOST_WORDS + 1
        if least > MOST_WORDS:
            message = f"{params['alpha']:g} gives neighbouring ranks almost the same number"
            raise ParameterError(("alpha",), message, "a greater alpha, or fewer needles")
        return least

    def max_new_tokens(self, params: Mapping[str, Any], needles: int) -> int:
        """RULER's 50, or more for many words."""
        return max(50, 12 * needles)

    def draft(self, tag: str, params: Mapping[str, Any], place: Place) -> Draft:
        """Return a request."""
        return Draft(
            answers=_coded(tag, place.needles),
            instruction=CODED_INSTRUCTION,
            context=lambda words: _coded_text(tag, zipf(params["alpha"], params["vocabulary"], words)),
            question=CODED_QUESTION.format(count=place.needles),
            answer_prefix=ANSWER_PREFIX.format(count=place.needles),
        )


def zipf(alpha: float, vocabulary: int, words: int) -> list[int]:
    """Return how often each rank comes up, ``words`` in all, never rising; ranks that do not come up are left out."""
    weights = _weights(alpha, vocabulary)
    total = sum(weights)
    counts = [words * weight // total for weight in weights]
    for rank in range(words - sum(counts)):
        counts[rank] += 1
    return [times for times in counts if times]


def _weights(alpha: float, vocabulary: int) -> list[int]:
    """Return whole weights of the ranks: the last bits of a power, which machines may see differently, are rounded off."""
    return [round(rank**-alpha * 10**12) for rank in range(1, vocabulary + 1)]


def _coded(tag: str, number: int) -> tuple[str, ...]:
    return distinct(partial(letters, count=LETTERS, alphabet=ascii_lowercase), f"{tag}/word", number)


def _coded_text(tag: str, counts: Sequence[int]) -> str:
    words = zip(_coded(tag, len(counts)), counts, strict=True)
    return " ".join(shuffled(tag, [word for word, times in words for _ in range(times)]))


def _asked(needles: int) -> tuple[str, str]:
    return QUESTION.format(count=needles), ANSWER_PREFIX.format(count=needles)


def _names(tag: str, number: int) -> tuple[str, ...]:
    return tuple(map(numbered(tag), range(number)))


def _list(tag: str, common: int, times: tuple[int, int], uncommon: int) -> str:
    """Return a list of ``common`` words, ``times[0]`` of each, and ``uncommon`` entries of others, ``times[1]`` of each, shuffled."""
    common_times, uncommon_times = times
    name = numbered(tag)
    entries = [name(index) for index in range(common) for _ in range(common_times)]
    entries += [name(common + index // uncommon_times) for index in range(uncommon)]
    return ", ".join(shuffled(tag, entries))
