"""The passkey eval: parameters, requests and scores. What the prompt says stands at the top, word for word."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from .. import parameters, text
from ..base import BuildContext, Reference, Request, Segment, Size
from ..text.haystack import draw, haystack, insert
from ..text.lengths import lengths, sized

INSTRUCTION = (
    "One line of the following text gives a pass key. Read everything and keep the pass key in mind, because you will be asked for it.\n\n"
)
NEEDLE = "Take note: the pass key is {key}. Do not forget that {key} is the pass key."
QUESTION = "\n\nThe text has ended. Which pass key did it give?\n"
ANSWER_PREFIX = "The pass key is "

NAMES = ("lengths", "depths", "repeats", "digits", "max_new_tokens")
DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True, kw_only=True)
class Place:
    """One request's place on the axes; all that is drawn for it follows from this and the seed."""

    unit: str
    length: int
    depth: float
    repeat: int
    digits: int
    seed: int

    @property
    def id(self) -> str:
        """Such as ``w1024-d0.9-r1``."""
        return f"{self.unit[0]}{self.length}-d{_plain(self.depth)}-r{self.repeat}"

    @property
    def tag(self) -> str:
        """What the text is drawn from."""
        return f"passkey/{self.seed}/{self.id}"

    @property
    def key(self) -> str:
        """The pass key: ``digits`` digits, the first not 0."""
        least = 10 ** (self.digits - 1)
        return str(least + draw(f"{self.tag}/key/{self.digits}") % (9 * least))

    def segments(self, words: int) -> tuple[Segment, ...]:
        """The prompt with a haystack of ``words`` words; the needle's words come on top."""
        text = insert(haystack(self.tag, words), NEEDLE.format(key=self.key), self.depth)
        return (
            Segment(role="instruction", text=INSTRUCTION),
            Segment(role="context", text=text),
            Segment(role="question", text=QUESTION),
            Segment(role="answer_prefix", text=ANSWER_PREFIX),
        )

    def prompt(self, words: int) -> str:
        """The whole text."""
        return "".join(segment.text for segment in self.segments(words))


class Passkey:
    """``passkey/default``. Every request has a text of its own, so that each counts by itself in an interval."""

    name: str = "passkey"
    tasks: tuple[str, ...] = ("default",)
    metric: str = "exact"
    axes: tuple[str, ...] = ("words", "tokens", "depth")
    summary: str = "a number hidden in generated text, to be given back exactly; by length and depth"

    def normalise(self, task: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in defaults; lists come back ascending. Raises ParameterError."""
        parameters.known(params, NAMES)
        digits = parameters.integer(params.get("digits", 5), ("digits",), 1, 64)
        return {
            "lengths": lengths(params.get("lengths")),
            "depths": parameters.numbers(params.get("depths", DEPTHS), ("depths",), 0, 1),
            "repeats": parameters.integer(params.get("repeats", 1), ("repeats",), 1, 100_000),
            "digits": digits,
            # A tokenizer may take a token for each digit, and a model may write a few words more.
            "max_new_tokens": parameters.integer(params.get("max_new_tokens", 2 * digits + 6), ("max_new_tokens",), digits, 4096),
        }

    def needs_tokenizer(self, task: str, params: Mapping[str, Any]) -> bool:
        """Whether lengths are in tokens."""
        return "tokens" in params["lengths"]

    def size(self, task: str, params: Mapping[str, Any], data: Path | None) -> Size:
        """Everything is known beforehand.

        ``least_tokens`` in words is the number of words of the longest prompt: tokenizers of language models cut at white space
        before they merge, so a word is one token or more.
        """
        ((unit, wanted),) = params["lengths"].items()
        around = len("".join((INSTRUCTION, NEEDLE, QUESTION, ANSWER_PREFIX)).split()) if unit == "words" else 0
        return Size(
            requests=len(wanted) * len(params["depths"]) * params["repeats"],
            least_tokens=max(wanted) + around,
            max_new_tokens=params["max_new_tokens"],
        )

    def build(self, task: str, params: Mapping[str, Any], context: BuildContext) -> Iterator[tuple[Request, Reference]]:
        """Yield requests by length, depth, repeat. Raises ParameterError where a length in tokens is too short for this tokenizer."""
        ((unit, wanted),) = params["lengths"].items()
        for which, length in enumerate(wanted):
            places = (
                Place(unit=unit, length=length, depth=depth, repeat=repeat, digits=params["digits"], seed=context.seed)
                for depth in params["depths"]
                for repeat in range(params["repeats"])
            )
            for place, words in sized(places, Place.prompt, unit, length, count=context.count, path=("lengths", unit, which)):
                yield _pair(place, words, params)

    def score(self, task: str, reference: Reference, text: str) -> dict[str, float]:
        """Score one answer; README.md says what each metric is."""
        key = reference.answers[0]
        # \d takes digits of every script: a key with a foreign digit glued to it is another number, and so counts as wrong.
        runs = re.findall(r"\d+", text)
        common = SequenceMatcher(None, key, text, autojunk=False).find_longest_match().size
        return {"exact": float(runs[:1] == [key]), "contained": float(key in runs), "partial": common / len(key)}

    def code(self) -> tuple[Path, ...]:
        """All modules of this folder, and those that make the text."""
        return (*sorted(Path(__file__).parent.glob("*.py")), *text.CODE)


def _pair(place: Place, words: int, params: Mapping[str, Any]) -> tuple[Request, Reference]:
    request = Request(id=place.id, segments=place.segments(words), max_new_tokens=params["max_new_tokens"])
    axes = {place.unit: place.length, "depth": place.depth, "repeat": place.repeat}
    return request, Reference(id=place.id, answers=(place.key,), cluster=place.id, axes=axes)


def _plain(depth: float) -> str:
    """0.5 as ``0.5``, 1.0 as ``1``: the shortest text that reads back as the same number."""
    return repr(depth).removesuffix(".0")


EVAL = Passkey()
