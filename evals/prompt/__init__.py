"""``prompt/text``: one prompt of a person's own. Nothing to compare with, so its score only says whether there was an answer."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import parameters
from ..base import BuildContext, ParameterError, Reference, Request, Segment, Size


class Prompt:
    """One request whose text is given as a parameter."""

    name: str = "prompt"
    tasks: tuple[str, ...] = ("text",)
    metric: str = "answered"
    axes: tuple[str, ...] = ()
    summary: str = "one prompt of your own (params: text); shows what a method answers, holds and takes"

    def normalise(self, task: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in defaults. Raises ParameterError."""
        parameters.known(params, ("text", "max_new_tokens"))
        text = params.get("text")
        if not isinstance(text, str) or not text:
            raise ParameterError(("text",), "must be given" if text is None else f"{text!r} is not allowed", "a text that is not empty")
        return {"text": text, "max_new_tokens": parameters.integer(params.get("max_new_tokens", 128), ("max_new_tokens",), 1, 1_000_000)}

    def needs_tokenizer(self, task: str, params: Mapping[str, Any]) -> bool:
        """Never: the text is as it is."""
        return False

    def size(self, task: str, params: Mapping[str, Any], data: Path | None) -> Size:
        """One request, of at least a token a word."""
        return Size(requests=1, least_tokens=len(params["text"].split()), max_new_tokens=params["max_new_tokens"])

    def build(self, task: str, params: Mapping[str, Any], context: BuildContext) -> Iterator[tuple[Request, Reference]]:
        """Yield the one request."""
        segment = Segment(role="context", text=params["text"])
        request = Request(id="prompt", segments=(segment,), max_new_tokens=params["max_new_tokens"])
        yield request, Reference(id="prompt", answers=(), cluster="prompt")

    def score(self, task: str, reference: Reference, text: str) -> dict[str, float]:
        """Whether anything but blanks was answered."""
        return {"answered": float(bool(text.strip()))}

    def code(self) -> tuple[Path, ...]:
        """This file."""
        return (Path(__file__),)


EVAL = Prompt()
