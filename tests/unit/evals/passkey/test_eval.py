"""The passkey eval: parameters, requests, scores."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.evals.base import BuildContext, ParameterError, Reference, Request
from longctx.evals.passkey import EVAL
from longctx.evals.passkey.eval import ANSWER_PREFIX


def build(params: Mapping[str, Any], seed: int = 42, **context: Any) -> dict[str, tuple[Request, Reference]]:
    normalised = EVAL.normalise("default", params)
    return {pair[0].id: pair for pair in EVAL.build("default", normalised, BuildContext(seed=seed, **context))}


def text_of(request: Request) -> str:
    return "".join(segment.text for segment in request.segments)


def digest(request: Request) -> str:
    return hashlib.sha256(json.dumps(asdict(request), sort_keys=True).encode()).hexdigest()


def by_words(texts: Sequence[str]) -> list[int]:
    return [sum(1 + len(word) // 5 for word in text.split()) for text in texts]


LENGTHS = st.lists(st.integers(1, 120), min_size=1, max_size=3, unique=True)
DEPTHS = st.lists(st.floats(0, 1).map(lambda depth: round(depth, 3)), min_size=1, max_size=3, unique=True)


@settings(max_examples=25)
@given(
    lengths=LENGTHS,
    more_lengths=LENGTHS,
    depths=DEPTHS,
    more_depths=DEPTHS,
    repeats=st.integers(1, 2),
    more=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_extending_a_task_leaves_its_requests_as_they_were(
    lengths: list[int], more_lengths: list[int], depths: list[float], more_depths: list[float], repeats: int, more: int, seed: int
) -> None:
    before = build({"lengths": {"words": lengths}, "depths": depths, "repeats": repeats}, seed)
    after = build(
        {
            "lengths": {"words": list(dict.fromkeys([*more_lengths, *lengths]))},
            "depths": list(dict.fromkeys([*more_depths, *depths])),
            "repeats": repeats + more,
        },
        seed,
    )
    assert before.items() <= after.items()


def test_three_requests_are_the_same_everywhere() -> None:
    found = build({"lengths": {"words": [256, 20_000]}, "depths": [0, 0.9], "repeats": 2})
    assert {name: digest(found[name][0])[:16] for name in ("w256-d0-r0", "w256-d0.9-r1", "w20000-d0.9-r0")} == {
        "w256-d0-r0": "86316044e4f06a3a",
        "w256-d0.9-r1": "d622dac67cbc0839",
        "w20000-d0.9-r0": "9cacec4b108442ac",
    }


def test_a_request_has_its_words_its_key_and_a_prefix_that_keeps_its_blank() -> None:
    found = build({"lengths": {"words": [100, 300]}, "depths": [0, 0.5, 1], "repeats": 3})
    assert len(found) == 18
    needle = 16
    for request, reference in found.values():
        roles = {segment.role: segment.text for segment in request.segments}
        assert list(roles) == ["instruction", "context", "question", "answer_prefix"]
        assert roles["answer_prefix"] == ANSWER_PREFIX == "The pass key is "
        (key,) = reference.answers
        assert len(key) == 5
        assert key[0] != "0"
        assert roles["context"].count(key) == 2
        assert key not in roles["instruction"] + roles["question"]
        assert len(roles["context"].split()) == reference.axes["words"] + needle  # type: ignore[operator]
        assert reference.id == request.id == reference.cluster


def test_seed_and_place_decide_the_key() -> None:
    params = {"lengths": {"words": [50, 60]}, "depths": [0.2, 0.4], "repeats": 4}
    keys = [pair[1].answers[0] for pair in build(params).values()]
    assert len(set(keys)) == len(keys) == 16
    assert keys != [pair[1].answers[0] for pair in build(params, seed=43).values()]


def test_long_keys_leave_room_to_be_written() -> None:
    found = build({"lengths": {"words": [50]}, "digits": 64})
    assert all(len(reference.answers[0]) == 64 and request.max_new_tokens >= 64 for request, reference in found.values())


@settings(max_examples=12)
@given(length=st.integers(128, 1500))
def test_lengths_in_tokens_are_kept_by_the_whole_prompt(length: int) -> None:
    for request, reference in build({"lengths": {"tokens": [length]}, "depths": [0, 0.6]}, count=by_words).values():
        assert length - 3 <= by_words([text_of(request)])[0] <= length
        assert reference.axes["tokens"] == length
        assert request.id.startswith(f"t{length}-d")


def test_adding_a_length_in_tokens_leaves_the_others() -> None:
    before = build({"lengths": {"tokens": [400]}, "repeats": 2}, count=by_words)
    after = build({"lengths": {"tokens": [200, 400, 900]}, "depths": [0.1, 0.2, 0.3, 0.5, 0.7, 0.9], "repeats": 3}, count=by_words)
    assert before.items() <= after.items()


def test_a_length_that_cannot_hold_the_needle_is_named() -> None:
    with pytest.raises(ParameterError) as caught:
        build({"lengths": {"tokens": [128, 2000]}}, count=lambda texts: [9 * len(text.split()) for text in texts])
    assert caught.value.path == ("lengths", "tokens", 0)


def test_size_agrees_with_what_is_built() -> None:
    params = EVAL.normalise("default", {"lengths": {"words": [128, 512]}, "repeats": 2})
    size = EVAL.size("default", params, None)
    built = [pair[0] for pair in EVAL.build("default", params, BuildContext(seed=1))]
    assert size.requests == len(built) == 20
    assert size.least_tokens == max(len(text_of(request).split()) for request in built)
    assert {request.max_new_tokens for request in built} == {size.max_new_tokens}
    assert not EVAL.needs_tokenizer("default", params)
    tokens = EVAL.normalise("default", {"lengths": {"tokens": [4096]}})
    assert EVAL.needs_tokenizer("default", tokens)
    assert EVAL.size("default", tokens, None).least_tokens == 4096


def test_defaults_and_order() -> None:
    assert EVAL.normalise("default", {"lengths": {"words": [512, 256]}, "depths": [1, 0]}) == {
        "lengths": {"words": [256, 512]}, "depths": [0.0, 1.0], "repeats": 1, "digits": 5, "max_new_tokens": 16,
    }  # fmt: skip


def test_normalising_twice_changes_nothing() -> None:
    once = EVAL.normalise("default", {"lengths": {"tokens": [512]}, "depths": [0.25], "digits": 7})
    assert EVAL.normalise("default", once) == once


WORDS = {"words": [256]}


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({}, ("lengths",)),
        ({"lengths": [256]}, ("lengths",)),
        ({"lengths": {}}, ("lengths",)),
        ({"lengths": {"words": [1], "tokens": [100]}}, ("lengths",)),
        ({"lengths": {"word": [256]}}, ("lengths", "word")),
        ({"lengths": {"words": []}}, ("lengths", "words")),
        ({"lengths": {"words": 256}}, ("lengths", "words")),
        ({"lengths": {"words": [256, 0]}}, ("lengths", "words", 1)),
        ({"lengths": {"words": [256, 512, 256]}}, ("lengths", "words", 2)),
        ({"lengths": {"words": [True]}}, ("lengths", "words", 0)),
        ({"lengths": {"words": ["256"]}}, ("lengths", "words", 0)),
        ({"lengths": {"tokens": [127]}}, ("lengths", "tokens", 0)),
        ({"lengths": WORDS, "depths": [0.1, 0.2, 1.2]}, ("depths", 2)),
        ({"lengths": WORDS, "depths": [float("nan")]}, ("depths", 0)),
        ({"lengths": WORDS, "depths": [0, 0.0]}, ("depths", 1)),
        ({"lengths": WORDS, "depths": [0.0, -0.0]}, ("depths", 1)),
        ({"lengths": WORDS, "depths": 0.5}, ("depths",)),
        ({"lengths": WORDS, "repeats": 0}, ("repeats",)),
        ({"lengths": WORDS, "repeats": 1.5}, ("repeats",)),
        ({"lengths": WORDS, "digits": 65}, ("digits",)),
        ({"lengths": WORDS, "digits": 7, "max_new_tokens": 6}, ("max_new_tokens",)),
        ({"lengths": WORDS, "depth": [0.5]}, ("depth",)),
    ],
)
def test_a_wrong_parameter_is_named_with_what_would_be_right(params: dict[str, Any], path: tuple[str | int, ...]) -> None:
    with pytest.raises(ParameterError) as caught:
        EVAL.normalise("default", params)
    assert caught.value.path == path
    assert caught.value.allowed


def test_an_unknown_parameter_offers_the_known_ones() -> None:
    with pytest.raises(ParameterError) as caught:
        EVAL.normalise("default", {"lengths": WORDS, "depht": [0.5]})
    assert "depths" in caught.value.options


@pytest.mark.parametrize(
    ("text", "exact", "contained", "partial"),
    [
        ("48213", 1, 1, 1.0),
        ("48213. Do not forget", 1, 1, 1.0),
        ("the number 48213, I believe", 1, 1, 1.0),
        (" 48213", 1, 1, 1.0),
        ("48213 48214", 1, 1, 1.0),
        ("", 0, 0, 0.0),
        ("... !?", 0, 0, 0.0),
        ("I do not know", 0, 0, 0.0),
        ("12345 no: 48213", 0, 1, 1.0),
        ("4 8 2 1 3", 0, 0, 0.2),
        ("48,213", 0, 0, 0.6),
        ("148213", 0, 0, 1.0),  # inside a longer run it is another number
        ("4821348213", 0, 0, 1.0),
        ("048213", 0, 0, 1.0),
        ("48210", 0, 0, 0.8),
        ("x48213y", 1, 1, 1.0),
        ("４８２１３", 0, 0, 0.0),  # full-width digits: not what the text said
        ("48213３", 0, 0, 1.0),  # a foreign digit glued to it
        ("48213²", 1, 1, 1.0),  # a superscript is no decimal digit
        ("٤ 48213", 0, 1, 1.0),
        ("9" * 5000 + "48213", 0, 0, 1.0),
    ],
)
def test_scores(text: str, exact: float, contained: float, partial: float) -> None:
    reference = Reference(id="r", answers=("48213",), cluster="r")
    assert EVAL.score("default", reference, text) == {"exact": exact, "contained": contained, "partial": pytest.approx(partial)}


@settings(max_examples=50)
@given(key=st.integers(1, 10**64 - 1).map(str), text=st.text("0123456789 .,x٤", max_size=60))
def test_scores_stay_between_0_and_1_and_agree(key: str, text: str) -> None:
    scores = EVAL.score("default", Reference(id="r", answers=(key,), cluster="r"), text)
    assert all(0 <= value <= 1 for value in scores.values())
    assert scores["exact"] <= scores["contained"] <= scores["partial"]


def test_its_code_is_what_decides() -> None:
    assert {path.name for path in EVAL.code()} == {"__init__.py", "eval.py", "fit.py", "haystack.py", "lengths.py"}
