"""Checks that evals share for their parameters: each raises ParameterError with the path to what is wrong and what would be right."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from .base import ParameterError

Path = tuple[str | int, ...]
N = TypeVar("N", int, float)


def known(params: Mapping[str, Any], names: Iterable[str], path: Path = ()) -> None:
    """Refuse keys that are not among ``names``; the error offers these as options."""
    allowed = tuple(names)
    for key in params:
        if key not in allowed:
            raise ParameterError((*path, key), f"unknown parameter {key!r}", f"one of {', '.join(allowed)}", allowed)


def integer(value: Any, path: Path, low: int, high: int) -> int:
    """Return a whole number, ``low`` … ``high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ParameterError(path, f"{value!r} is not allowed", f"a whole number from {low:,} to {high:,}")
    return value


def number(value: Any, path: Path, low: float, high: float) -> float:
    """Return a finite number, ``low`` … ``high``, as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
        raise ParameterError(path, f"{value!r} is not allowed", f"a number from {low:g} to {high:g}")
    return float(value) + 0.0  # -0.0 becomes 0.0, so that equal values are written alike


def integers(value: Any, path: Path, low: int, high: int) -> list[int]:
    """Return a list of different whole numbers in ascending order."""
    return _ascending([integer(item, (*path, place), low, high) for place, item in _items(value, path, "whole numbers")], path)


def numbers(value: Any, path: Path, low: float, high: float) -> list[float]:
    """Return a list of different numbers in ascending order."""
    return _ascending([number(item, (*path, place), low, high) for place, item in _items(value, path, "numbers")], path)


def _items(value: Any, path: Path, what: str) -> list[tuple[int, Any]]:
    if not isinstance(value, list | tuple) or not value:
        raise ParameterError(path, f"{value!r} is not allowed", f"a list of one or more {what}, such as [...]")
    return list(enumerate(value))


def _ascending(values: list[N], path: Path) -> list[N]:
    seen: set[N] = set()
    for place, value in enumerate(values):
        if value in seen:
            raise ParameterError((*path, place), f"{value!r} stands here twice", "each value once")
        seen.add(value)
    return sorted(values)
