"""What each task's prompt says, read back from the prompt itself."""

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.evals.base import BuildContext, ParameterError, Reference, Request
from longctx.evals.ruler import EVAL
from longctx.evals.ruler.counting import zipf
from longctx.evals.ruler.task import NOISE


def build(task: str, **params: Any) -> list[tuple[Request, Reference]]:
    given: Mapping[str, Any] = {"lengths": {"words": [300]}, "repeats": 3, **params}
    return list(EVAL.build(task, EVAL.normalise(task, given), BuildContext(seed=1)))


def parts(request: Request) -> dict[str, str]:
    assert [segment.role for segment in request.segments] == ["instruction", "context", "question", "answer_prefix"]
    return {segment.role: segment.text for segment in request.segments}


def codes(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"a code of (\S+) is (\S+)\.", text):
        found.setdefault(key, []).append(value)
    return found


def asked(question: str) -> list[str]:
    return re.split(r", | and ", re.split(r"codes? of ", question)[1].split(" that it gave")[0].split(" did it give")[0])


@pytest.mark.parametrize(("keys", "values"), list(itertools.product(("word", "uuid"), ("word", "uuid", "number"))))
@pytest.mark.parametrize(
    ("task", "needles", "names", "queries"),
    [
        ("niah-single", 1, 1, 1),
        ("niah-multikey", 6, 6, 1),
        ("niah-multivalue", 6, 1, 1),
        ("niah-multiquery", 6, 6, 6),
        ("niah-multiquery", 1, 1, 1),
    ],
)
def test_needles(task: str, needles: int, names: int, queries: int, keys: str, values: str) -> None:
    many = {} if task == "niah-single" else {"needles": [needles]}
    for request, reference in build(task, keys=keys, values=values, **many):
        prompt = parts(request)
        found = codes(prompt["context"])
        assert len(found) == names
        assert sum(map(len, found.values())) == needles
        wanted = asked(prompt["question"])
        assert len(wanted) == queries
        assert all(name in prompt["answer_prefix"] for name in wanted)
        assert sorted(reference.answers) == sorted(value for name in wanted for value in found[name])
        assert len(prompt["context"].split()) == 300 + 8 * needles
        assert not any(answer in prompt["question"] + prompt["instruction"] + prompt["answer_prefix"] for answer in reference.answers)


def test_haystacks() -> None:
    texts = {kind: parts(build("niah-multikey", haystack=kind)[0][0])["context"] for kind in ("text", "noise", "needles")}
    assert texts["noise"].count(NOISE[0]) > 10
    assert len(codes(texts["text"])) == len(codes(texts["noise"])) == 4
    assert len(codes(texts["needles"])) > 30
    assert {len(text.split()) for text in texts.values()} == {300 + 8 * 4}
    assert len(set(re.split(r"(?<=\.) ", texts["text"]))) == len(re.split(r"(?<=\.) ", texts["text"]))


def test_further_needles_never_take_the_name_that_is_asked_for() -> None:
    for request, reference in build("niah-single", haystack="needles", lengths={"words": [3000]}):
        found = codes(parts(request)["context"])
        (name,) = asked(parts(request)["question"])
        assert tuple(found[name]) == reference.answers


def test_needles_stand_at_all_depths() -> None:
    places = []
    for request, _ in build("niah-single", repeats=60):
        words = parts(request)["context"].split()
        places.append(words.index("Take") / len(words))
    assert min(places) < 0.15
    assert max(places) > 0.85


@pytest.mark.parametrize(("chains", "needles", "haystack"), [(1, 5, "noise"), (3, 4, "text"), (2, 1, "noise")])
def test_variables(chains: int, needles: int, haystack: str) -> None:
    for request, reference in build("variable-tracking", chains=chains, needles=[needles], haystack=haystack):
        prompt = parts(request)
        statements = re.findall(r"LET ([A-Z]{5}) = ([A-Z]{5}|\d{5})\.", prompt["context"])
        assert len(statements) == chains * needles
        known: dict[str, str] = {}
        for name, value in statements:  # each one refers to what was said before
            known[name] = value if value.isdigit() else known[value]
        (value,) = re.findall(r"\d{5}", prompt["question"])
        assert {name for name, held in known.items() if held == value} == set(reference.answers)
        assert len(set(known.values())) == chains
        assert len(reference.answers) == needles
        assert prompt["answer_prefix"] == f"{needles} variables are {value}:"
        assert len(prompt["context"].split()) == 300 + 4 * chains * needles
        shown = prompt["instruction"]
        assert shown.count("LET") == needles
        assert set(re.findall(r"\b[A-Z]{5}\b", shown)).isdisjoint(reference.answers)
        answer = shown.split(":")[-1].split("\n")[0].strip().split(", ")
        assert EVAL.score("variable-tracking", Reference(id="x", answers=tuple(answer), cluster="x"), shown)["string_match"] == 1
        assert len(answer) == needles


def test_without_an_example_the_instruction_stands_alone() -> None:
    for task in ("variable-tracking", "common-words"):
        ((with_one, _),), ((without, _),) = (build(task, repeats=1, example=example) for example in (True, False))
        assert parts(with_one)["instruction"].endswith("\n\n\n" + parts(without)["instruction"])
        assert with_one.segments[1:] == without.segments[1:]


@pytest.mark.parametrize(("common", "uncommon", "needles"), [(30, 3, 10), (4, 1, 3), (2, 1, 1)])
def test_common_words(common: int, uncommon: int, needles: int) -> None:
    for request, reference in build("common-words", common_times=common, uncommon_times=uncommon, needles=[needles]):
        prompt = parts(request)
        counts = Counter(prompt["context"].split(", "))
        assert {word for word, times in counts.items() if times == common} == set(reference.answers)
        assert set(counts.values()) == {common, uncommon}
        assert sum(counts.values()) == common * needles + 300
        assert f"{needles} words" in prompt["question"]
        shown = Counter(prompt["instruction"].split("\n\n")[1].split(", "))
        answer = prompt["instruction"].split("are: ")[1].split("\n")[0].split(", ")
        assert {word for word, times in shown.items() if times == 4} == set(answer)


def test_common_words_come_up_less_often_in_short_prompts_as_in_ruler() -> None:
    def count(texts: Sequence[str]) -> list[int]:
        return [4 * len(text.split()) for text in texts]

    found = {}
    for length in (2048, 4095, 4096):
        params = EVAL.normalise("common-words", {"lengths": {"tokens": [length]}})
        ((request, reference),) = EVAL.build("common-words", params, BuildContext(seed=1, count=count))
        counts = Counter(parts(request)["context"].split(", "))
        assert {times for word, times in counts.items() if word in reference.answers} == {max(counts.values())}
        found[length] = max(counts.values())
    assert found == {2048: 6, 4095: 6, 4096: 30}


@settings(max_examples=25)
@given(needles=st.integers(1, 6), alpha=st.floats(0.8, 4), vocabulary=st.integers(7, 300), more=st.integers(0, 3000))
def test_frequent_words_are_told_apart_from_the_least_length_on(needles: int, alpha: float, vocabulary: int, more: int) -> None:
    given = {"needles": [needles], "alpha": alpha, "vocabulary": vocabulary}
    with pytest.raises(ParameterError) as caught:
        EVAL.normalise("frequent-words", {**given, "lengths": {"words": [1]}})
    least = int(caught.value.allowed.split(" ")[0].replace(",", ""))
    ((request, reference),) = build("frequent-words", **given, repeats=1, lengths={"words": [least + more]})
    counts = Counter(parts(request)["context"].split()).most_common()
    assert sum(times for _, times in counts) == least + more
    assert tuple(word for word, _ in counts[:needles]) == reference.answers
    ranked = [times for _, times in counts[: needles + 1]]
    assert all(high > low for high, low in itertools.pairwise(ranked))


@given(alpha=st.floats(0.1, 10), vocabulary=st.integers(2, 300), words=st.integers(0, 5000))
def test_zipf(alpha: float, vocabulary: int, words: int) -> None:
    counts = zipf(alpha, vocabulary, words)
    assert sum(counts) == words
    assert counts == sorted(counts, reverse=True)
    assert len(counts) <= vocabulary
