"""The real essays and configurations give the original's requests; hashes are of what its algorithm, written once more apart, gave too."""

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from longctx.evals.base import BuildContext, Reference, Request
from longctx.evals.passkey_2024 import EVAL

pytestmark = pytest.mark.data

DATA = Path(os.environ.get("LONGCTX_DATA", "."))
"""Read here, because tests run without the caller's settings."""

LENGTHS = [512, 2730, 4949, 7168, 9386, 11605, 13824, 16042, 18261, 20480]
NEEDLE_WORDS = 12
DEPTHS = [0, *(number / 9 for number in range(1, 9)), 1]


def build(task: str, **params: Any) -> list[tuple[Request, Reference]]:
    return list(EVAL.build(task, EVAL.normalise(task, params), BuildContext(seed=1, data=DATA)))


def prompt(request: Request) -> str:
    return "".join(segment.text for segment in request.segments)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_seven_digits() -> None:
    found = build("7digits")
    assert len(found) == 300
    assert [(r.axes["words"], r.axes["depth"], r.axes["repeat"]) for _, r in found] == [
        (words, pytest.approx(depth), repeat) for words in LENGTHS for depth in DEPTHS for repeat in range(3)
    ]
    assert [reference.answers[0] for _, reference in found[:4]] == ["1043321", "8196001", "3389083", "8637940"]
    assert {request.max_new_tokens for request, _ in found} == {256}
    assert Counter(reference.cluster for _, reference in found) == {f"w{words}": 30 for words in LENGTHS}


def test_words_insertion_and_blanks() -> None:
    for request, reference in build("7digits", repeats=1):
        words, depth = int(str(reference.axes["words"])), float(str(reference.axes["depth"]))
        instruction, *context, question = (segment.text for segment in request.segments)
        assert instruction.endswith("\n")
        assert question.startswith("\n")
        assert question.endswith(" ")
        text = "".join(context)
        (key,) = reference.answers
        assert text.count(key) == 2
        before = context[0].split() if len(context) == 2 else []
        assert len(before) == int(words * depth)
        assert len(text.split()) == words + NEEDLE_WORDS
        assert text.startswith(" ") == (depth == 0)
        assert text.endswith("  ") == (depth == 1)
        assert text.endswith(" ")
        assert (len(context) == 1) == (depth == 0)


@pytest.mark.parametrize(
    ("task", "params", "whole"),
    [
        ("7digits", {}, "278617f62185d2fa6cac92967d324b46"),
        ("64digits", {}, "a72817b153e60f965ad68e3dd24837f0"),
        ("quick", {}, "a0994b34c5db7875ded85aa0bb8d986d"),
        ("7digits", {"instruction": "surfix", "style": "int_n_char", "wrapper": "code"}, "e1d708749f09048375d8b39f2880e8f7"),
        ("7digits", {"style": "char", "wrapper": "double_quotes", "keys": "sequence"}, "7a2e465b32cef0e6986918c6e4ed9edb"),
    ],
)
def test_all_prompts_are_the_originals(task: str, params: dict[str, Any], whole: str) -> None:
    assert sha256("".join(prompt(request) for request, _ in build(task, **params)))[:32] == whole


GOLDEN = {
    "w512-d0-r0": "7d7c5b34149da881",
    "w512-d0.5555555555555556-r0": "c40ed2f06bc6355e",
    "w512-d1-r0": "05a2db2f781f9fdd",
    "w20480-d0-r0": "ff8be53fbb794f96",
    "w20480-d0.5555555555555556-r0": "c0ccbdf2f70d5d36",
    "w20480-d1-r0": "3cbfa28ceacd6a22",
}


def test_single_prompts() -> None:
    found = {
        request.id: sha256(prompt(request))[:16] for request, _ in build("7digits", repeats=1, lengths=[512, 20480], depths=[0, 5 / 9, 1])
    }
    assert found == GOLDEN


def test_quick_has_both_ends() -> None:
    assert [(request.id, reference.answers[0]) for request, reference in build("quick")] == [
        ("w20480-d0-r0", "1043321"),
        ("w20480-d1-r0", "8196001"),
    ]


def test_sixty_four_digits() -> None:
    first = build("64digits", lengths=[512], depths=[0], repeats=1)[0][1].answers[0]
    assert first == "1043321819600133890838637940265423511615594078161849593103413164"


def test_background_longer_than_all_essays_begins_again() -> None:
    ((request, _),) = build("7digits", lengths=[150_000], depths=[0], repeats=1)
    ((beginning, _),) = build("7digits", lengths=[1000], depths=[0], repeats=1)
    text, opening = (one.segments[1].text.split("key. ", 1)[1].strip() for one in (request, beginning))
    assert len(text.split()) == 150_000
    assert text.count(opening) == 2
