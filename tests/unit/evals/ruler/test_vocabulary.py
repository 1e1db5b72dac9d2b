"""Names, numbers, words."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.evals.ruler.vocabulary import ADJECTIVES, MADE, NAMES, NOUNS, distinct, letters, number, numbered, shuffled


def test_no_name_is_found_inside_another() -> None:
    assert len(set(ADJECTIVES)) == len(ADJECTIVES)
    assert len(set(NOUNS)) == len(NOUNS)
    assert not [(a, b) for a in ADJECTIVES for b in ADJECTIVES if a != b and b.endswith(a)]
    assert not [(a, b) for a in NOUNS for b in NOUNS if a != b and b.startswith(a)]
    assert all(word.isascii() and word.isalpha() and word.islower() for word in ADJECTIVES + NOUNS)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("number", r"[1-9]\d{6}"),
        ("word", r"[a-z]+-[a-z]+"),
        ("uuid", r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"),
    ],
)
def test_what_each_kind_looks_like(kind: str, shape: str) -> None:
    made = [MADE[kind](f"t/{place}") for place in range(300)]
    assert all(re.fullmatch(shape, text) for text in made)
    assert len(set(made)) > 290
    assert made == [MADE[kind](f"t/{place}") for place in range(300)]


def test_letters() -> None:
    assert len({letters(f"t/{place}", 5) for place in range(200)}) == 200
    assert set("".join(letters(f"t/{place}", 5) for place in range(200))) == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


@given(few=st.integers(0, 8), more=st.integers(0, 2), tag=st.text(max_size=3))
def test_distinct_texts_stay_when_there_are_more(few: int, more: int, tag: str) -> None:
    def digit(text: str) -> str:
        return number(text, digits=1)

    short = distinct(digit, tag, few)
    long = distinct(digit, tag, min(9, few + more))
    assert len(set(short)) == few
    assert long[:few] == short


@settings(max_examples=10)
@given(tag=st.text(max_size=3))
def test_numbers_have_names_of_their_own(tag: str) -> None:
    name: Callable[[int], str] = numbered(tag)
    assert len({name(index) for index in range(NAMES)}) == NAMES
    beyond = [name(NAMES * layer + 5) for layer in (0, 1, 108, 109, 20_000)]
    assert len(set(beyond)) == 5
    assert [text.count("-") for text in beyond] == [1, 2, 2, 3, 4]


@given(items=st.lists(st.integers().map(str), max_size=30, unique=True), more=st.lists(st.integers().map(str), max_size=10))
def test_a_shuffled_list_grows_without_changing_its_order(items: list[str], more: list[str]) -> None:
    new = [f"new{item}" for item in more]
    assert sorted(shuffled("t", items)) == sorted(items)
    assert [item for item in shuffled("t", items + new) if item not in new] == shuffled("t", items)
