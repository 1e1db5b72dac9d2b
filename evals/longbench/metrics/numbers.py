"""Retrieval and counting: the share of all integers in the prediction that are the right one.

Integers are runs of digits and are compared as text: "03" is not "3", and of "1.5" both 1 and 5 count. No integers: 0.
"""

import re
from collections.abc import Sequence

from .metric import Metric

_INTEGER = re.compile(r"\d+")


def share(prediction: str, right: str) -> float:
    """Return the share of the prediction's integers that equal ``right``."""
    found = _INTEGER.findall(prediction)
    return found.count(right) / len(found) if found else 0.0


def _count(prediction: str, answer: str, classes: Sequence[str] | None) -> tuple[float]:
    return (share(prediction, answer),)


def _english(prediction: str, answer: str, classes: Sequence[str] | None) -> tuple[float]:
    return (share(prediction, _paragraph(answer, r"Paragraph (\d+)", "Paragraph 3")),)


def _chinese(prediction: str, answer: str, classes: Sequence[str] | None) -> tuple[float]:
    return (share(prediction, _paragraph(answer, r"段落(\d+)", "段落3")),)


def _paragraph(answer: str, pattern: str, example: str) -> str:
    found = re.search(pattern, answer)
    if found is None:
        raise ValueError(f"the answer {answer[:60]!r} names no paragraph, such as {example!r}")
    return found[1]


COUNT = Metric(names=("score",), score=_count)
RETRIEVAL = Metric(names=("score",), score=_english)
RETRIEVAL_ZH = Metric(names=("score",), score=_chinese)
