"""The 2024 benchmark's needle metrics, bit for bit."""

import re
import string
from difflib import SequenceMatcher

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Return the text in lower case without ASCII punctuation and English articles, with single blanks."""
    return " ".join(_ARTICLES.sub("", text.lower().translate(_PUNCTUATION)).split())


def exact(key: str, answer: str) -> float:
    """Return 1 if the normalised key is a part of the normalised answer, anywhere, even inside a longer number; else 0."""
    return float(normalised(key) in normalised(answer))


def partial(key: str, answer: str) -> float:
    """Return the length of the longest text that key and answer share, as they are, as a share of the key's."""
    return SequenceMatcher(None, key, answer, autojunk=False).find_longest_match().size / len(key)
