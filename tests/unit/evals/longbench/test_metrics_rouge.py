"""ROUGE-L against the packages that it equals, to the last bit, and at the depth where ``rouge`` 1.0.1 gives up."""

import random
import subprocess
import sys
import textwrap
import tracemalloc
import warnings

import pytest
from rouge import Rouge

from longctx.evals.longbench.metrics import f1, rouge, score
from longctx.evals.longbench.metrics.subsequence import length, places, walk

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from rouge_score.rouge_scorer import RougeScorer

OFFICIAL = Rouge(metrics=["rouge-l"])
MODERN = RougeScorer(["rougeL", "rougeLsum"])


def official(prediction: str, answer: str) -> float:
    try:
        found: float = OFFICIAL.get_scores([prediction], [answer], avg=True)["rouge-l"]["f"]
    except ValueError:
        return 0.0
    return found


def sample(rng: random.Random, most: int, vocabulary: int, stops: float) -> str:
    parts = []
    for _ in range(rng.randrange(most)):
        stop = rng.choice([".", ".", "!", "?", ". .", ".."]) if rng.random() < stops else ""
        parts.append(f"W{rng.randrange(vocabulary)}{stop}" + rng.choice([" "] * 8 + ["  ", "\n", " . ", "\t", "-"]))
    return "".join(parts)


@pytest.mark.parametrize("seed", range(3))
def test_random_pairs_equal_both_packages(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(150):
        vocabulary, stops = rng.choice([2, 3, 8, 30]), rng.choice([0, 0.05, 0.2, 0.5])
        one, other = (sample(rng, 40, vocabulary, stops) for _ in range(2))
        found = score("qmsum", one, [other], None)
        assert found["score"] == official(one, other), (one, other)
        lines = ["\n".join(rouge._ENGLISH_ENDS.split(text)) for text in (one, other)]
        modern = MODERN.score(lines[1], lines[0])
        assert (found["rougeL"], found["rougeLsum"]) == (modern["rougeL"].fmeasure, modern["rougeLsum"].fmeasure), (one, other)


def test_longer_texts_equal_both_packages() -> None:
    rng = random.Random(5)
    one, other = (sample(rng, 700, 60, 0.04) for _ in range(2))
    lines = ["\n".join(rouge._ENGLISH_ENDS.split(text)) for text in (one, other)]
    modern = MODERN.score(lines[1], lines[0])
    assert score("qmsum", one, [other], None) == {
        "score": official(one, other), "rougeL": modern["rougeL"].fmeasure, "rougeLsum": modern["rougeLsum"].fmeasure,
    }  # fmt: skip
    assert score("qmsum", one, [other], None)["score"] > 0


def test_chinese_is_cut_by_jieba_and_put_together_with_blanks() -> None:
    assert rouge.english("ab 天气 C-3") == ["ab", "c", "3"]
    assert f1.chinese_words("我来到北京清华大学，A。") == ["我", "来到", "北京", "清华大学", "a"]
    assert score("vcsum", "我来到北京", ["我 来到 北京"], None)["score"] == official("我 来到 北京", "我   来到   北京")


EVAL = """
import sys
from rouge import Rouge

def rouge_score(prediction, ground_truth):
    try:
        return Rouge().get_scores([prediction], [ground_truth], avg=True)["rouge-l"]["f"]
    except RecursionError:
        return 0.0

def scorer(prediction, answers):
    for answer in answers:
        found = rouge_score(prediction, answer)
    return found

for count in map(int, sys.argv[1:]):
    text = " ".join(f"w{number}" for number in range(count))
    print(count, scorer(text, [f"w{count - 1}"]), scorer("w0", [text]), scorer(f"w0 {'v ' * (count - 1)}", ["w0"]))
"""


def test_the_package_gives_up_at_that_depth_when_called_as_longbench_calls_it() -> None:
    """Up to Python 3.10 it does so to the word; later ones go a call further. So it is looked at a few words to either side."""
    near, beyond = rouge.DEEPEST - 3, rouge.DEEPEST + 3
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(EVAL), str(near), str(beyond)], capture_output=True, text=True, check=True, timeout=60
    )
    for line in ran.stdout.splitlines():
        count, last, first, behind = (float(part) for part in line.split())
        text = " ".join(f"w{number}" for number in range(int(count)))
        assert rouge.compatible(text, text.rpartition(" ")[2]) == last > 0
        assert rouge.compatible("w0", text) == first
        assert rouge.compatible(f"w0 {'v ' * (int(count) - 1)}", "w0") == behind
        assert (first > 0, behind > 0) == (count == near, count == near)


def test_a_walk_is_a_common_subsequence_of_the_right_length() -> None:
    rng = random.Random(3)
    for _ in range(300):
        x, y = ([rng.choice("abcde") for _ in range(rng.randrange(30))] for _ in range(2))
        found = walk(x, places(y), len(y))
        assert [x[place] for place in found.xs] == [y[place] for place in found.ys]
        assert list(found.xs) == sorted(set(found.xs), reverse=True)
        assert list(found.ys) == sorted(set(found.ys), reverse=True)
        assert len(found.xs) == length(x, y) == length(y, x)
        assert max(0, min(len(x), len(y))) <= found.steps <= len(x) + len(y)


def test_long_sentences_take_little_memory() -> None:
    """A table with an entry a cell would take gigabytes for such a text without full stops."""
    rng = random.Random(9)
    one, other = (" ".join(f"w{rng.randrange(400)}" for _ in range(2200)) for _ in range(2))
    tracemalloc.start()
    score("gov_report", one, [other], None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20
