"""F1 over words, as a multiset: SQuAD's measure (Rajpurkar et al., 2016), and the same over jieba's words.

There is nothing to mend in it: ``f1`` is ``score`` under its own name.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

from .chinese import words
from .metric import Metric

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_ASCII = str.maketrans("", "", string.punctuation)
_WIDE = (
    (0xFF01, 0xFF0D), (0xFF0F, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF64), (0x3001, 0x3003), (0x300B, 0x3011),
    (0x3014, 0x301F), (0x3030, 0x3030), (0x303E, 0x303F), (0x2013, 0x2014), (0x2018, 0x2019), (0x201B, 0x201F), (0x2026, 0x2027),
    (0xFE4F, 0xFE4F),
)  # fmt: skip
_CHINESE = {point: None for first, last in _WIDE for point in range(first, last + 1)} | dict(_ASCII)
"""Upstream's punctuation, in ranges (first, last). It has no wide full stop, no 〈, 〉 or 《, and no ·: they count as words."""


def english_words(text: str) -> list[str]:
    """Return lower-case words without ASCII punctuation; a, an and the are dropped."""
    return _ARTICLES.sub(" ", text.lower().translate(_ASCII)).split()


def chinese_words(text: str) -> list[str]:
    """Return jieba's words in lower case; punctuation and blanks are taken out of each, and what is empty then is dropped."""
    bare = ("".join(word.lower().translate(_CHINESE).split()) for word in words(text))
    return [word for word in bare if word]


def f1(prediction: Sequence[str], answer: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall of the words; 0 when none is shared, so also for two empty texts."""
    same = sum((Counter(prediction) & Counter(answer)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(prediction), same / len(answer)
    return (2 * precision * recall) / (precision + recall)


def _english(prediction: str, answer: str, classes: Sequence[str] | None) -> tuple[float, float]:
    value = f1(english_words(prediction), english_words(answer))
    return value, value


def _chinese(prediction: str, answer: str, classes: Sequence[str] | None) -> tuple[float, float]:
    value = f1(chinese_words(prediction), chinese_words(answer))
    return value, value


ENGLISH = Metric(names=("score", "f1"), score=_english)
CHINESE = Metric(names=("score", "f1"), score=_chinese)
