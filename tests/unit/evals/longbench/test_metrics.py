"""LongBench's metrics at their edges. The figures were worked out by hand, but for those of long sentences: see test_metrics_rouge.py."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.evals.longbench.metrics import METRICS, classification, code, score
from longctx.evals.longbench.metrics.rouge import DEEPEST
from longctx.evals.registry import get

ONE = 2.0 * (1 / (2 + 1e-8))
"""What rouge 1.0.1 gives for equal texts."""
TYPES = ("Other", "location", "Other location", "Food")


def words(count: int, prefix: str = "w") -> str:
    return " ".join(f"{prefix}{number}" for number in range(count))


TABLE: Sequence[tuple[str, str, str, dict[str, float]]] = [
    # F1 over words
    ("qasper", "", "Ozalj", {"score": 0, "f1": 0}),
    ("qasper", "", "", {"score": 0, "f1": 0}),
    ("qasper", "?!. -", "Ozalj", {"score": 0, "f1": 0}),
    ("qasper", "the", "A", {"score": 0, "f1": 0}),
    ("qasper", "The cat, the cat!", "cat", {"score": 2 / 3, "f1": 2 / 3}),
    ("qasper", "U.S.A", "usa", {"score": 1, "f1": 1}),
    ("qasper", "Ozalj", "Ozalj", {"score": 1, "f1": 1}),
    ("multifieldqa_zh", "", "厦门大学。", {"score": 0, "f1": 0}),
    ("multifieldqa_zh", "。，！", "厦门大学。", {"score": 0, "f1": 0}),
    ("multifieldqa_zh", "厦门大学。", "厦门大学。", {"score": 1, "f1": 1}),
    ("multifieldqa_zh", "厦门大学", "《厦门大学》。", {"score": 2 / 3, "f1": 2 / 3}),  # upstream's list has no opening 《
    # ROUGE-L
    ("qmsum", "", "a", {"score": 0, "rougeL": 0, "rougeLsum": 0}),
    ("qmsum", "...", "a", {"score": 0, "rougeL": 0, "rougeLsum": 0}),
    ("qmsum", "!?", "a", {"score": 0, "rougeL": 0, "rougeLsum": 0}),
    ("qmsum", "a", "", {"score": 0, "rougeL": 0, "rougeLsum": 0}),
    ("qmsum", "a b. c", "a b. c", {"score": ONE, "rougeL": 1, "rougeLsum": 1}),
    ("qmsum", "a. ", "a", {"score": 2 * (0.5 / (1.5 + 1e-8)), "rougeL": 1, "rougeLsum": 1}),  # a blank after the last stop is a word
    ("qmsum", "a a a", "a", {"score": ONE, "rougeL": 0.5, "rougeLsum": 0.5}),  # words count once
    ("qmsum", "B c. A b!", "a b. b c", {"score": 2 * (1 / 12 / (7 / 12 + 1e-8)), "rougeL": 0.5, "rougeLsum": 1}),  # case and "!" tell
    ("qmsum", words(600), words(600), {"score": ONE, "rougeL": 1, "rougeLsum": 1}),
    ("qmsum", words(DEEPEST - 1), words(DEEPEST - 1), {"score": ONE, "rougeL": 1, "rougeLsum": 1}),
    ("qmsum", words(DEEPEST), words(DEEPEST), {"score": 0, "rougeL": 1, "rougeLsum": 1}),
    ("qmsum", words(1200), words(1200), {"score": 0, "rougeL": 1, "rougeLsum": 1}),
    ("qmsum", words(2200), words(2200), {"score": 0, "rougeL": 1, "rougeLsum": 1}),
    ("qmsum", words(2200), "w0", {"score": 0, "rougeL": 2 / 2201, "rougeLsum": 2 / 2201}),
    ("qmsum", words(2200), "w2199", {"score": 2 * (1 / 2200 / (1 + 1 / 2200 + 1e-8)), "rougeL": 2 / 2201, "rougeLsum": 2 / 2201}),
    ("qmsum", words(1200), words(1200, "v"), {"score": 0, "rougeL": 0, "rougeLsum": 0}),
    ("qmsum", f"{words(1200)}. b", "b", {"score": 0, "rougeL": 2 / 1202, "rougeLsum": 2 / 1202}),  # one long sentence spoils all
    ("dureader", "", "天气。", {"score": 0, "rougeL": 0, "rougeLsum": 0}),
    ("dureader", "。", "天气", {"score": 0, "rougeL": 0, "rougeLsum": 0}),
    ("vcsum", "天气很好。", "天气很好。", {"score": ONE, "rougeL": 1, "rougeLsum": 1}),
    ("samsum", "\n\na b\nDialogue: c", "a b", {"score": ONE, "rougeL": 1, "rougeLsum": 1}),
    # classification
    ("trec", "", "Other location", {"score": 0, "classes": 0}),
    ("trec", "?", "Other location", {"score": 0, "classes": 0}),
    ("trec", "Other location", "Other location", {"score": 0.5, "classes": 1}),  # "location" is passed over
    ("trec", "Food", "Food", {"score": 1, "classes": 1}),
    ("trec", "Other location or Food", "Other location", {"score": 1 / 3, "classes": 0.5}),
    ("trec", "location", "Other location", {"score": 0, "classes": 0}),
    ("trec", "Food\nOther location", "Other location", {"score": 0, "classes": 0}),  # the first line is the answer
    ("trec", "Food", "Drink", {"score": 0, "classes": 0}),
    # numbers
    ("passage_count", "", "3", {"score": 0}),
    ("passage_count", "three!", "3", {"score": 0}),
    ("passage_count", "3", "3", {"score": 1}),
    ("passage_count", "3 of 10", "3", {"score": 0.5}),
    ("passage_count", "03", "3", {"score": 0}),
    ("passage_retrieval_en", "", "Paragraph 3", {"score": 0}),
    ("passage_retrieval_en", "Paragraph", "Paragraph 3", {"score": 0}),
    ("passage_retrieval_en", "Paragraph 3", "Paragraph 3", {"score": 1}),
    ("passage_retrieval_en", "3, not 13 or 2.5", "Paragraph 3", {"score": 0.25}),
    ("passage_retrieval_zh", "", "段落3", {"score": 0}),
    ("passage_retrieval_zh", "。", "段落3", {"score": 0}),
    ("passage_retrieval_zh", "段落3", "段落3", {"score": 1}),
    # code
    ("lcc", "", "x = 1;", {"score": 0, "indel": 0}),
    ("lcc", "# x = 1;\n`x`\n// x", "x = 1;", {"score": 0, "indel": 0}),
    ("lcc", ";", "x = 1;", {"score": 0.29, "indel": 2 / 7}),
    ("lcc", "\n\nx = 1;\ny", "x = 1;", {"score": 1, "indel": 1}),
    ("repobench-p", "x = 2;", "x = 1;", {"score": 0.83, "indel": 10 / 12}),
]


@pytest.mark.parametrize("depth", [0, 800], ids=["here", "deep"])
@pytest.mark.parametrize(("task", "text", "answer", "expected"), TABLE, ids=[f"{one[0]}-{n}" for n, one in enumerate(TABLE)])
def test_edges(task: str, text: str, answer: str, expected: dict[str, float], depth: int) -> None:
    """The same wherever the caller stands: nothing here may rest on how many calls Python still allows."""

    def call(left: int) -> dict[str, float]:
        return call(left - 1) if left else score(task, text, [answer], TYPES)

    found = call(depth)
    assert found == pytest.approx(expected, rel=1e-14, abs=0)


@settings(max_examples=150, deadline=None)
@given(task=st.sampled_from(sorted(METRICS)), text=st.text(max_size=80), other=st.text(max_size=80))
def test_whatever_the_text_the_keys_are_the_same_and_the_values_shares(task: str, text: str, other: str) -> None:
    answer = {"passage_retrieval_en": "Paragraph 3", "passage_retrieval_zh": "段落3"}.get(task, other)
    found = score(task, text, [answer], ["a", "b"])
    assert tuple(found) == METRICS[task].names
    assert next(iter(found)) == "score"
    assert all(0 <= value <= 1 for value in found.values())


def test_half_a_surrogate_is_a_character_like_any_other() -> None:
    """JSON can hold one, and a model's bytes may decode to one."""
    for task in METRICS:
        answer = {"passage_retrieval_en": "Paragraph 3", "passage_retrieval_zh": "段落3"}.get(task, "\ud800 a")
        score(task, "\ud800 天气 a", [answer], ["\ud800"])


def test_the_best_answer_counts_for_each_metric_by_itself() -> None:
    assert score("qasper", "cat", ["dog", "cat", "cat dog"], None) == {"score": 1, "f1": 1}
    assert score("qasper", "cat", [], None) == {"score": 0, "f1": 0}
    one, other = "x" * 50 + "ab", "ba"
    apart = [score("lcc", "ab", [answer], None) for answer in (one, other)]
    assert score("lcc", "ab", [one, other], None) == {key: max(each[key] for each in apart) for key in ("score", "indel")}


def test_longbench_e_is_scored_as_its_set() -> None:
    assert score("trec_e", "Food\nx", ["Food"], TYPES) == score("trec", "Food\nx", ["Food"], TYPES) == {"score": 1, "classes": 1}


def test_every_task_of_the_eval_has_a_metric() -> None:
    one = get("longbench")
    assert {task.removesuffix("_e") for task in one.tasks} == set(METRICS)
    assert all(one.metric in metric.names for metric in METRICS.values())


@pytest.mark.parametrize(
    ("task", "answer", "classes", "error", "said"),
    [
        ("qaspr", "a", None, LookupError, "did you mean 'qasper'"),
        ("", "a", None, LookupError, "there are: narrativeqa"),
        ("trec", "a", None, ValueError, "needs the list of all classes"),
        ("passage_retrieval_en", "3", None, ValueError, "names no paragraph"),
        ("passage_retrieval_zh", "Paragraph 3", None, ValueError, "names no paragraph, such as '段落3'"),
    ],
)
def test_what_cannot_be_scored_is_said(task: str, answer: str, classes: list[str] | None, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        score(task, "a", [answer], classes)


def test_the_skipped_class_is_the_one_after_each_that_was_removed() -> None:
    """Against a walk over a list that changes under the walk, as Python does it."""
    rng = random.Random(7)
    for _ in range(2000):
        names = [rng.choice(["a", "b", "ab", "ba", "aba", "c"]) for _ in range(rng.randrange(7))]
        text = "".join(rng.choice("abc") for _ in range(rng.randrange(6)))
        answer = rng.choice(["aba", "ab", "c"])
        left = [name for name in names if name in text]
        for name in left:
            if name != answer and name in answer:
                left.remove(name)  # this is the rule
        assert classification.compatible(text, answer, names) == (1 / len(left) if answer in left else 0)


def test_ratios_of_code_are_difflibs_in_percent() -> None:
    assert [code.difflib_percent(*pair) for pair in (("", ""), ("", "a"), ("a", ""), ("ab", "ba"), ("abc", "abd"))] == [100, 0, 0, 50, 67]
    # In 200 characters and more difflib passes over common ones: here x and y alone are left, where all but two characters agree.
    assert code.difflib_percent("ab" * 60 + "xy", "xy" + "ab" * 99) == 1
