"""Lengths as evals take them: ``{words: [...]}``, the same text for every model, or ``{tokens: [...]}``, prompts fitted to a tokenizer."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from .. import parameters
from ..base import ParameterError
from .fit import Count, fit

LONGEST = 10_000_000
LEAST_TOKENS = 128
"""Below this no tokenizer leaves room for text around a needle."""
BATCH_TOKENS = 4_000_000
"""Prompts of about so many tokens in all are fitted together: few calls of the tokenizer, and memory that does not grow with the task."""

T = TypeVar("T")


def lengths(value: Any) -> dict[str, list[int]]:
    """Return the parameter ``lengths``, ascending. Raises ParameterError."""
    shape = "{words: [256, 512, 1024]} or {tokens: [4096, 8192]}"
    if not isinstance(value, Mapping):
        raise ParameterError(("lengths",), "must be given" if value is None else f"{value!r} is not allowed", shape)
    parameters.known(value, ("words", "tokens"), ("lengths",))
    if len(value) != 1:
        raise ParameterError(("lengths",), "takes lengths in one unit", shape)
    ((unit, values),) = value.items()
    return {unit: parameters.integers(values, ("lengths", unit), LEAST_TOKENS if unit == "tokens" else 1, LONGEST)}


def sized(
    items: Iterable[T], prompt: Callable[[T, int], str], unit: str, length: int, *, count: Count | None, path: parameters.Path
) -> Iterator[tuple[T, int]]:
    """Yield each item with the number of words that makes its prompt so long.

    ``prompt(item, words)`` is the whole text. A length in words is that number; one in tokens gives the most words with which the prompt
    has no more tokens. Raises ParameterError naming ``path`` where a prompt without words has more already.
    """
    if unit == "words":
        yield from ((item, length) for item in items)
        return
    if count is None:
        raise ValueError("lengths in tokens need the model's tokenizer, and the host lent none")
    source = iter(items)
    while some := list(itertools.islice(source, max(1, BATCH_TOKENS // length))):
        prompts = [lambda words, item=item: prompt(item, words) for item in some]
        for item, words in zip(some, fit(prompts, length, count), strict=True):
            if words is None:
                raise ParameterError(
                    path, f"{length} tokens cannot hold all that must be in it, with this model's tokenizer", "a greater length"
                )
            yield item, words
