"""How near a line of code is to the right one.

``score`` is fuzzywuzzy's ``ratio`` as it is without python-Levenshtein, whatever is installed: difflib's ratio (Ratcliff and Obershelp)
as an integer percent. ``indel`` is rapidfuzz's ``ratio``: 1 − insertions and deletions ÷ both lengths, not rounded, symmetric.
"""

import difflib
from collections.abc import Sequence

from .metric import Metric

_NOT_CODE = ("`", "#", "//")


def first_code_line(text: str) -> str:
    """Return the first line with no backtick, # or // in it, newlines at the beginning aside; empty if there is none."""
    lines = text.lstrip("\n").split("\n")
    return next((line for line in lines if not any(mark in line for mark in _NOT_CODE)), "")


def difflib_percent(one: str, other: str) -> int:
    """Return 0 … 100; equal texts are 100, two empty ones as well, and an empty one against another is 0."""
    if one == other:
        return 100
    if not one or not other:
        return 0
    return round(100 * difflib.SequenceMatcher(None, one, other).ratio())


def _score(prediction: str, answer: str, classes: Sequence[str] | None) -> tuple[float, float]:
    from rapidfuzz import fuzz  # not at the top: listing tasks needs no metric

    line = first_code_line(prediction)
    return difflib_percent(line, answer) / 100, fuzz.ratio(line, answer) / 100


SIMILARITY = Metric(names=("score", "indel"), score=_score)
