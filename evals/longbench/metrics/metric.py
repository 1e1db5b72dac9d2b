"""What a metric is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Names, and a function of (prediction, one answer, classes) that returns a value for each. The first name is ``score``."""

    names: tuple[str, ...]
    score: Callable[[str, str, Sequence[str] | None], tuple[float, ...]]
