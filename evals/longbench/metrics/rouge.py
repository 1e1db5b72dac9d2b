"""ROUGE-L of summaries: the package ``rouge`` 1.0.1 as LongBench calls it, and beside it that of the package ``rouge-score``.

Both are computed here, on bits, in a few milliseconds where the packages take up to seconds; tests hold them against the packages
themselves, bit for bit.

**score** follows ``rouge`` 1.0.1. Sentences end at each ".", wherever it stands. For each pair of an answer's and a prediction's sentence
a longest common subsequence is read out; all its words go into one *set*. Recall and precision are the size of that set over the number of
different words of the answer and of the prediction.

That package reads a subsequence out by recursion, one call a step, and LongBench turns the RecursionError of long sentences into a
score of 0: a summary without full stops scores 0. Where the error strikes depends on how deep the caller stands, and by a call or two on
Python. Here that is a rule: ``DEEPEST`` calls are what LongBench's own eval.py has left of Python's 1,000.

**rougeL** and **rougeLsum** follow ``rouge-score`` (Lin 2004): words are runs of a–z and 0–9 in lower case, not stemmed; rougeLsum takes
the union over sentences, counting each word as often as both have it. There sentences are lines; as answers are not written so, ours end at
full stops, question and exclamation marks that a blank follows, too. In Chinese words are jieba's, and sentences end at 。！？.
"""

import re
from collections import Counter
from collections.abc import Sequence

from . import chinese
from .metric import Metric
from .subsequence import length, places, walk

DEEPEST = 990
"""Calls, of which the last one finds that a sentence is used up."""

_ENGLISH = re.compile(r"[a-z0-9]+")
_ENGLISH_ENDS = re.compile(r"(?<=[.!?])\s+|\n")
_CHINESE_ENDS = re.compile(r"(?<=[。！？])|(?<=[.!?])\s+|\n")


def compatible(prediction: str, answer: str) -> float:
    """Return the F of ``rouge`` 1.0.1's rouge-l; 0 where it raises: a text empty or of nothing but full stops, sentences too long."""
    hypothesis, reference = _between_stops(prediction), _between_stops(answer)
    if not hypothesis or not reference:
        return 0.0
    indexed = [(places(words), len(words)) for words in hypothesis]
    union: set[str] = set()
    for words in reference:
        for where, width in indexed:
            # The shorter of the two is used up in as many steps at least; this spares a long walk.
            if min(len(words), width) >= DEEPEST:
                return 0.0
            found = walk(words, where, width)
            if found.steps + 1 > DEEPEST:
                return 0.0
            union.update(words[place] for place in found.xs)
    recall = len(union) / len(set().union(*reference))
    precision = len(union) / len(set().union(*hypothesis))
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))


def _between_stops(text: str) -> list[list[str]]:
    # A sentence of blanks alone has one word, which is empty, and it counts: the package splits at single blanks.
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def rouge_l(prediction: Sequence[str], answer: Sequence[str]) -> float:
    """Return F of the longest common subsequence of two lists of words."""
    if not prediction or not answer:
        return 0.0
    return _f(length(answer, prediction), len(prediction), len(answer))


def rouge_l_sum(prediction: Sequence[Sequence[str]], answer: Sequence[Sequence[str]]) -> float:
    """Return F of the union of the longest common subsequences of all pairs of sentences, each a list of words."""
    in_prediction = Counter(word for words in prediction for word in words)
    in_answer = Counter(word for words in answer for word in words)
    hits = 0
    for words in answer:
        where = places(words)
        # x is the prediction here: of several subsequences, rouge-score reads out the other one than rouge does.
        common = {place for sentence in prediction for place in walk(sentence, where, len(words)).ys}
        for place in sorted(common):
            word = words[place]
            if in_prediction[word] > 0 and in_answer[word] > 0:
                hits += 1
                in_prediction[word] -= 1
                in_answer[word] -= 1
    return _f(hits, sum(map(len, prediction)), sum(map(len, answer)))


def _f(hits: int, predicted: int, wanted: int) -> float:
    if not hits:
        return 0.0
    precision, recall = hits / predicted, hits / wanted
    return 2 * precision * recall / (precision + recall)


def english(text: str) -> list[str]:
    """Return the words that ``rouge-score`` finds without a stemmer."""
    return _ENGLISH.findall(text.lower())


def _chinese(text: str) -> list[str]:
    return [word.lower() for word in chinese.words(text) if any(character.isalnum() for character in word)]


def _score(prediction: str, answer: str, classes: Sequence[str] | None) -> tuple[float, float, float]:
    sentences = [[english(part) for part in _ENGLISH_ENDS.split(text)] for text in (prediction, answer)]
    return compatible(prediction, answer), rouge_l(english(prediction), english(answer)), rouge_l_sum(*sentences)


def _score_chinese(prediction: str, answer: str, classes: Sequence[str] | None) -> tuple[float, float, float]:
    spaced = [" ".join(chinese.words(text)) for text in (prediction, answer)]
    sentences = [[_chinese(part) for part in _CHINESE_ENDS.split(text)] for text in (prediction, answer)]
    return compatible(*spaced), rouge_l(_chinese(prediction), _chinese(answer)), rouge_l_sum(*sentences)


ENGLISH = Metric(names=("score", "rougeL", "rougeLsum"), score=_score)
CHINESE = Metric(names=("score", "rougeL", "rougeLsum"), score=_score_chinese)
