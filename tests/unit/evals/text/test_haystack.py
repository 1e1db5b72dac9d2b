"""The text around the needle."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.evals.text.haystack import PATTERNS, haystack, insert, weave


@settings(max_examples=30)
@given(tag=st.text("ab/é", max_size=5), words=st.integers(0, 400))
def test_exactly_as_many_words_as_asked_for(tag: str, words: int) -> None:
    assert len(" ".join(haystack(tag, words)).split()) == words


@settings(max_examples=30)
@given(words=st.integers(1, 300), more=st.integers(1, 300))
def test_a_longer_text_begins_with_the_whole_sentences_of_a_shorter_one(words: int, more: int) -> None:
    short, long = haystack("t", words), haystack("t", words + more)
    assert long[: len(short) - 1] == short[:-1]


def test_a_long_text_hardly_repeats_itself_and_holds_no_digit() -> None:
    lines = haystack("variety", 20_000)
    assert max(Counter(lines).values()) <= 3
    text = " ".join(lines)
    assert not re.search(r"\d", text)
    assert "pass key" not in text


def test_every_pattern_comes_up() -> None:
    openings = {re.split(r"\{", pattern)[0] for pattern in PATTERNS}
    lines = haystack("patterns", 10_000)
    assert all(any(line.startswith(opening) for line in lines) for opening in openings)


def test_different_tags_give_different_texts() -> None:
    assert haystack("a", 100) != haystack("b", 100)


LINES = ["one two three four.", "five six.", "seven eight nine ten."]


@pytest.mark.parametrize(
    ("depth", "before"),
    [
        (0.0, 0),
        (0.1, 0),
        (0.2, 0),  # 2 words lie as near to 0 as to 4: the earlier border
        (0.3, 4),
        (0.5, 4),  # 5 words lie as near to 4 as to 6
        (0.7, 6),
        (1.0, 10),
    ],
)
def test_the_needle_stands_at_the_nearest_border_between_sentences(depth: float, before: int) -> None:
    text = insert(LINES, "NEEDLE", depth)
    assert text.split().index("NEEDLE") == before
    assert text.replace("NEEDLE", "").split() == " ".join(LINES).split()


@settings(max_examples=30)
@given(depth=st.floats(0, 1), words=st.integers(100, 1000))
def test_the_needle_is_never_further_from_its_depth_than_half_a_sentence(depth: float, words: int) -> None:
    text = insert(haystack("d", words), "NEEDLE", depth)
    assert abs(text.split().index("NEEDLE") - depth * words) <= 15


@settings(max_examples=40)
@given(depths=st.lists(st.floats(0, 1), max_size=6), words=st.integers(1, 200))
def test_needles_woven_in_stand_where_each_alone_would(depths: list[float], words: int) -> None:
    lines = haystack("w", words)
    text = weave(lines, [(depth, f"N{number}") for number, depth in enumerate(depths)])
    found = text.split()
    assert [word for word in found if word[0] != "N"] == " ".join(lines).split()
    for number, depth in enumerate(depths):
        before = [word for word in found[: found.index(f"N{number}")] if word[0] != "N"]
        assert len(before) == insert(lines, "N", depth).split().index("N")


def test_needles_of_one_place_keep_their_order() -> None:
    assert weave(LINES, [(0.5, "N"), (0, "M"), (0.45, "O")]) == "M one two three four. N O five six. seven eight nine ten."
    assert weave([], [(0.5, "N"), (0.1, "M")]) == "N M"
