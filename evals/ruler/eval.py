"""RULER's needle variants as an eval: tasks, requests and scores."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .. import parameters, text
from ..base import BuildContext, ParameterError, Reference, Request, Size
from ..text.lengths import lengths, sized
from .counting import CommonWords, FrequentWords
from .needles import Needles
from .task import MOST_NEEDLES, Draft, Place, Task
from .tracking import Tracking

TASKS: Mapping[str, Task] = {
    "niah-single": Needles(many="none", needles=(1,)),
    "niah-multikey": Needles(many="keys", needles=(4,)),
    "niah-multivalue": Needles(many="values", needles=(4,)),
    "niah-multiquery": Needles(many="queries", needles=(4,)),
    "variable-tracking": Tracking(),
    "common-words": CommonWords(),
    "frequent-words": FrequentWords(),
}
SINGLE = "niah-single"


class Ruler:
    """Every request has a text of its own, and so is a cluster of its own."""

    name: str = "ruler"
    tasks: tuple[str, ...] = tuple(TASKS)
    metric: str = "string_match"
    axes: tuple[str, ...] = ("words", "tokens", "needles")
    summary: str = "RULER's needles (several keys, values, questions), variable tracking and common words, over generated text"

    def normalise(self, task: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in defaults; lists come back ascending. Raises ParameterError."""
        one = TASKS[task]
        shared = ("lengths", "repeats", "max_new_tokens", *(() if task == SINGLE else ("needles",)))
        parameters.known(params, (*shared, *one.defaults))
        given = params.get("max_new_tokens")
        found = {
            "lengths": lengths(params.get("lengths")),
            "repeats": parameters.integer(params.get("repeats", 1), ("repeats",), 1, 100_000),
            "max_new_tokens": None if given is None else parameters.integer(given, ("max_new_tokens",), 1, 1_000_000),
            **one.normalise({**one.defaults, **{name: params[name] for name in one.defaults if name in params}}),
        }
        if task != SINGLE:
            found["needles"] = parameters.integers(params.get("needles", one.needles), ("needles",), 1, MOST_NEEDLES)
        least = {needles: one.least_words(found, needles) for needles in found.get("needles", one.needles)}
        for place, words in enumerate(found["lengths"].get("words", ())):
            _enough(words, max(least.values()), ("lengths", "words", place))
        return found

    def needs_tokenizer(self, task: str, params: Mapping[str, Any]) -> bool:
        """Whether lengths are in tokens."""
        return "tokens" in params["lengths"]

    def size(self, task: str, params: Mapping[str, Any], data: Path | None) -> Size:
        """Everything is known beforehand. A word of filler is a token or more for every tokenizer of a language model."""
        ((_, wanted),) = params["lengths"].items()
        needles = params.get("needles", TASKS[task].needles)
        return Size(
            requests=len(wanted) * len(needles) * params["repeats"],
            least_tokens=max(wanted),
            max_new_tokens=max(_most(task, params, some) for some in needles),
        )

    def build(self, task: str, params: Mapping[str, Any], context: BuildContext) -> Iterator[tuple[Request, Reference]]:
        """Yield requests by length, needles, repeat. Raises ParameterError where a length in tokens is too short for this tokenizer."""
        one = TASKS[task]
        draft = partial(_draft, task, params, context.seed)

        def prompt(place: Place, words: int) -> str:
            return draft(place).text(words)

        ((unit, wanted),) = params["lengths"].items()
        for which, length in enumerate(wanted):
            path = ("lengths", unit, which)
            for needles in params.get("needles", one.needles):
                least = one.least_words(params, needles)
                places = (Place(unit=unit, length=length, needles=needles, repeat=repeat) for repeat in range(params["repeats"]))
                for place, words in sized(places, prompt, unit, length, count=context.count, path=path):
                    _enough(words, least, path)
                    yield _pair(place, draft(place), words, _most(task, params, needles))

    def score(self, task: str, reference: Reference, text: str) -> dict[str, float]:
        """Score one answer as RULER does: the share of the expected strings that occur in it, whatever their case; and whether any does."""
        found = [answer.lower() in text.lower() for answer in reference.answers]
        return {"string_match": sum(found) / len(found), "string_match_part": float(any(found))}

    def code(self) -> tuple[Path, ...]:
        """All modules of this folder, and those that make the text."""
        return (*sorted(Path(__file__).parent.glob("*.py")), *text.CODE)


def _draft(task: str, params: Mapping[str, Any], seed: int, place: Place) -> Draft:
    return TASKS[task].draft(f"ruler/{task}/{seed}/{place.id}", params, place)


def _most(task: str, params: Mapping[str, Any], needles: int) -> int:
    given: int | None = params["max_new_tokens"]
    return TASKS[task].max_new_tokens(params, needles) if given is None else given


def _enough(words: int, least: int, path: parameters.Path) -> None:
    if words < least:
        message = f"{words} words of text are too few for one clear answer"
        raise ParameterError(path, message, f"{least:,} words or more" if "words" in path else "a greater length")


def _pair(place: Place, draft: Draft, words: int, max_new_tokens: int) -> tuple[Request, Reference]:
    request = Request(id=place.id, segments=draft.segments(words), max_new_tokens=max_new_tokens)
    axes = {place.unit: place.length, "needles": place.needles, "repeat": place.repeat}
    return request, Reference(id=place.id, answers=draft.answers, cluster=place.id, axes=axes)


EVAL = Ruler()
