"""Turns what a method hands over into plain values that the contracts accept; research code returns tensors where it means numbers.

Everything here raises ValueError or TypeError, which becomes the method's error for that request.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .failures import clean
from .prompts import ids_sha256
from .protocol import Answer, Holding, Prompt


def checked_answer(answer: Answer, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Return the fields of an answer as a response takes them; ``fed_sha256`` is None where the prompt's own ids were fed."""
    given = next(prompt.ids for prompt in prompts if prompt.id == answer.id)
    if not isinstance(answer.text, str):
        raise TypeError(f"Answer.text is {type(answer.text).__name__}, not a string")
    own = answer.fed_ids is given
    return {
        "text": clean(answer.text),
        "finish": one_of("Answer.finish", answer.finish, ("stop", "length")),
        "generated": count("Answer.generated", answer.generated),
        "compressed": None if answer.compressed is None else count("Answer.compressed", answer.compressed),
        "fed_sha256": None if own else ids_sha256([int(token) for token in answer.fed_ids]),
        "prefill": one_of("Answer.prefill", answer.prefill, ("own", "shared", "forked")),
        "time": {
            "prefill_s": None if answer.prefill_s is None else number("Answer.prefill_s", answer.prefill_s),
            "decode_s": None if answer.decode_s is None else number("Answer.decode_s", answer.decode_s),
        },
    }


def checked_holding(holding: Holding) -> dict[str, Any]:
    """Return the fields of a holding as a response takes them, all but the measured bytes."""
    return {
        "at": one_of("Holding.at", holding.at, ("prefill", "end")),
        "logical": count("Holding.logical", holding.logical),
        "held": number("Holding.held", holding.held),
        "host": None if holding.host is None else count("Holding.host", holding.host),
        "analytic": None if holding.analytic is None else count("Holding.analytic", holding.analytic),
        "full": None if holding.full is None else count("Holding.full", holding.full),
    }


def one_of(what: str, value: Any, allowed: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}; it must be one of {', '.join(allowed)}")
    return str(value)


def count(what: str, value: Any) -> int:
    """Return ``value`` as a whole number that is not negative."""
    whole = int(value)
    if whole < 0 or whole != value:
        raise ValueError(f"{what} is {value!r}; it must be a whole number, 0 or more")
    return whole


def number(what: str, value: Any) -> float:
    """Return ``value`` as a finite number that is not negative."""
    real = float(value)
    if real < 0 or not math.isfinite(real):
        raise ValueError(f"{what} is {value!r}; it must be a finite number, 0 or more")
    return real
