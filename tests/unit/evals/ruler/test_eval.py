"""RULER's needles as an eval: parameters, lengths, stability, scores."""

import hashlib
import inspect
import json
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.evals.base import BuildContext, ParameterError, Reference, Request
from longctx.evals.ruler import EVAL

MANY = [task for task in EVAL.tasks if task != "niah-single"]


def build(task: str, params: Mapping[str, Any], seed: int = 42, **context: Any) -> dict[str, tuple[Request, Reference]]:
    return {pair[0].id: pair for pair in EVAL.build(task, EVAL.normalise(task, params), BuildContext(seed=seed, **context))}


def text_of(request: Request) -> str:
    return "".join(segment.text for segment in request.segments)


def by_words(texts: Sequence[str]) -> list[int]:
    return [sum(1 + len(word) // 5 for word in text.split()) for text in texts]


LENGTHS = st.lists(st.integers(100, 250), min_size=1, max_size=2, unique=True)
NEEDLES = st.lists(st.integers(1, 4), min_size=1, max_size=2, unique=True)


@settings(max_examples=40)
@given(
    task=st.sampled_from(MANY), lengths=LENGTHS, more_lengths=LENGTHS, needles=NEEDLES, more_needles=NEEDLES, repeats=st.integers(1, 2),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_extending_a_task_leaves_its_requests_as_they_were(
    task: str, lengths: list[int], more_lengths: list[int], needles: list[int], more_needles: list[int], repeats: int, seed: int
) -> None:
    before = build(task, {"lengths": {"words": lengths}, "needles": needles, "repeats": repeats}, seed)
    more = {
        "lengths": {"words": list({*lengths, *more_lengths})}, "needles": list({*needles, *more_needles}), "repeats": repeats + 1,
    }  # fmt: skip
    assert before.items() <= build(task, more, seed).items()


@pytest.mark.parametrize("task", EVAL.tasks)
def test_lengths_in_tokens_are_kept_and_filled(task: str) -> None:
    found = build(task, {"lengths": {"tokens": [4000, 6000]}, "repeats": 2}, count=by_words)
    for request, reference in found.values():
        length = int(str(reference.axes["tokens"]))
        (tokens,) = by_words([text_of(request)])
        assert length - 6 <= tokens <= length
        assert request.id.startswith(f"t{length}-n")
    one = build(task, {"lengths": {"tokens": [6000]}, "repeats": 1}, count=by_words)
    assert one.items() <= found.items()


GOLDEN = {
    "niah-single": "c8a670fe92d28008",
    "niah-multikey": "1a13fac9114a81b7",
    "niah-multivalue": "32f2fd5b351033ac",
    "niah-multiquery": "c1db436ca1bf42f1",
    "variable-tracking": "4c89682cbb6b0402",
    "common-words": "f6c005f0b0516f97",
    "frequent-words": "7c6ce61ddc06b8c0",
}


def test_requests_are_the_same_everywhere() -> None:
    found = {}
    for task in EVAL.tasks:
        ((request, reference),) = build(task, {"lengths": {"words": [2000]}}).values()
        found[task] = hashlib.sha256(json.dumps([asdict(request), asdict(reference)], sort_keys=True).encode()).hexdigest()[:16]
    assert found == GOLDEN


@pytest.mark.parametrize("task", EVAL.tasks)
def test_places_seeds_and_clusters(task: str) -> None:
    params: dict[str, Any] = {"lengths": {"words": [500, 600]}, "repeats": 3}
    found = build(task, params)
    assert len({reference.answers for _, reference in found.values()}) == len(found) == 6
    assert all(request.id == reference.id == reference.cluster for request, reference in found.values())
    assert {reference.axes["words"] for _, reference in found.values()} == {500, 600}
    other = build(task, params, seed=43)
    assert not {reference.answers for _, reference in found.values()} & {reference.answers for _, reference in other.values()}


@pytest.mark.parametrize("task", EVAL.tasks)
def test_size_agrees_with_what_is_built(task: str) -> None:
    params = EVAL.normalise(task, {"lengths": {"words": [600, 700]}, "repeats": 2, **({"needles": [2, 8]} if task in MANY else {})})
    size = EVAL.size(task, params, None)
    built = [request for request, _ in EVAL.build(task, params, BuildContext(seed=1))]
    assert size.requests == len(built)
    assert size.max_new_tokens == max(request.max_new_tokens for request in built)
    assert size.least_tokens == 700
    assert size.least_tokens <= max(len(text_of(request).split()) for request in built)
    assert not EVAL.needs_tokenizer(task, params)
    assert EVAL.needs_tokenizer(task, EVAL.normalise(task, {"lengths": {"tokens": [4096]}}))


@pytest.mark.parametrize("task", EVAL.tasks)
def test_normalising_twice_changes_nothing(task: str) -> None:
    once = EVAL.normalise(task, {"lengths": {"words": [700, 300]}})
    assert EVAL.normalise(task, once) == once
    assert once["lengths"] == {"words": [300, 700]}


def test_the_answer_has_room() -> None:
    for task in EVAL.tasks:
        for needles in (1, 5, 9) if task in MANY else (1,):
            params = {"lengths": {"words": [3000]}, **({"needles": [needles]} if task in MANY else {})}
            ((request, reference),) = build(task, params).values()
            assert request.max_new_tokens >= max(30, len(" ".join(reference.answers)) // 2)
    ((request, _),) = build("niah-single", {"lengths": {"words": [300]}, "max_new_tokens": 7}).values()
    assert request.max_new_tokens == 7


@pytest.mark.parametrize(
    ("task", "params", "path"),
    [
        ("niah-single", {}, ("lengths",)),
        ("niah-single", {"needles": [2]}, ("needles",)),
        ("niah-single", {"lengths": {"words": [0]}}, ("lengths", "words", 0)),
        ("niah-single", {"lengths": {"tokens": [64]}}, ("lengths", "tokens", 0)),
        ("niah-multikey", {"needles": []}, ("needles",)),
        ("niah-multikey", {"needles": 4}, ("needles",)),
        ("niah-multikey", {"needles": [4, 0]}, ("needles", 1)),
        ("niah-multikey", {"haystack": "essay"}, ("haystack",)),
        ("niah-multikey", {"keys": "number"}, ("keys",)),
        ("niah-multikey", {"values": ["uuid"]}, ("values",)),
        ("niah-multikey", {"chains": 1}, ("chains",)),
        ("niah-multikey", {"repeats": 0}, ("repeats",)),
        ("niah-multikey", {"max_new_tokens": 0}, ("max_new_tokens",)),
        ("variable-tracking", {"haystack": "needles"}, ("haystack",)),
        ("variable-tracking", {"chains": 0}, ("chains",)),
        ("variable-tracking", {"example": 1}, ("example",)),
        ("common-words", {"common_times": 3, "uncommon_times": 3}, ("common_times",)),
        ("common-words", {"common_times": True, "uncommon_times": 3}, ("common_times",)),
        ("common-words", {"common_times": 3, "uncommon_times": 0}, ("uncommon_times",)),
        ("common-words", {"common_times": 3}, ("uncommon_times",)),
        ("common-words", {"uncommon_times": 3}, ("common_times",)),
        ("frequent-words", {"alpha": 0}, ("alpha",)),
        ("frequent-words", {"alpha": 0.1, "vocabulary": 100_000, "needles": [5000]}, ("alpha",)),
        ("frequent-words", {"vocabulary": 3}, ("needles",)),
        ("frequent-words", {"lengths": {"words": [500, 20]}}, ("lengths", "words", 0)),
    ],
)
def test_a_wrong_parameter_is_named_with_what_would_be_right(task: str, params: dict[str, Any], path: tuple[str | int, ...]) -> None:
    lengths = {} if not params else {"lengths": {"words": [500]}}
    with pytest.raises(ParameterError) as caught:
        EVAL.normalise(task, {**lengths, **params})
    assert caught.value.path == path
    assert caught.value.allowed


@pytest.mark.parametrize(("task", "dense"), [("common-words", 8), ("frequent-words", 20)])
def test_a_length_in_tokens_that_is_too_short_is_named(task: str, dense: int) -> None:
    def count(texts: Sequence[str]) -> list[int]:
        return [dense * len(text.split()) for text in texts]

    with pytest.raises(ParameterError) as caught:
        build(task, {"lengths": {"tokens": [4000, 800]}}, count=count)
    assert caught.value.path == ("lengths", "tokens", 0)
    assert caught.value.allowed == "a greater length"


@pytest.mark.parametrize(
    ("answers", "text", "all_of", "any_of"),
    [
        (("1234567",), "1234567", 1, 1),
        (("1234567",), " The code is 1234567.", 1, 1),
        (("1234567",), "", 0, 0),
        (("1234567",), "?!", 0, 0),
        (("1234567",), "1,234,567", 0, 0),
        (("1234567",), "912345678", 1, 1),
        (("1", "2", "3", "4"), "1, 3", 0.5, 1),
        (("1", "2", "3", "4"), "4 3 2 1", 1, 1),
        (("QWERT", "ASDFG"), "qwert and Asdfg", 1, 1),
        (("quiet-lantern", "red-bell"), "Quiet-Lantern, red bell", 0.5, 1),
    ],
)
def test_scores(answers: tuple[str, ...], text: str, all_of: float, any_of: float) -> None:
    reference = Reference(id="r", answers=answers, cluster="r")
    assert EVAL.score("niah-single", reference, text) == {"string_match": all_of, "string_match_part": any_of}


@given(answers=st.lists(st.text("ABab1", min_size=1, max_size=3), min_size=1, max_size=4), text=st.text("ABab1 ", max_size=20))
def test_scores_are_shares_and_the_part_is_never_less(answers: list[str], text: str) -> None:
    scores = EVAL.score("common-words", Reference(id="r", answers=tuple(answers), cluster="r"), text)
    assert 0 <= scores["string_match"] <= scores["string_match_part"] <= 1
    assert (scores["string_match"] > 0) == bool(scores["string_match_part"])
    assert EVAL.score("common-words", Reference(id="r", answers=tuple(answers), cluster="r"), " ".join(answers))["string_match"] == 1


def test_requests_are_made_one_by_one_in_flat_memory() -> None:
    params = EVAL.normalise("niah-multikey", {"lengths": {"words": [60]}, "repeats": 1500})
    made = EVAL.build("niah-multikey", params, BuildContext(seed=1))
    assert inspect.isgenerator(made)
    next(made)
    tracemalloc.start()
    for _ in made:
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_its_code_is_what_decides() -> None:
    own = {"__init__.py", "counting.py", "eval.py", "needles.py", "task.py", "tracking.py", "vocabulary.py"}
    assert {path.name for path in EVAL.code()} == own | {"fit.py", "haystack.py", "lengths.py"}
