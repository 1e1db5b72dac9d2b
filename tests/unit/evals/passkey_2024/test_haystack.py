"""Background of exactly so many words, and needles in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longctx.evals.passkey_2024.haystack import WORD, Background, insert
from longctx.evals.passkey_2024.material import Essay

TEXTS = st.lists(st.text("ab .\n\u00a0", max_size=12).map(lambda text: f"x y{text}"), min_size=1, max_size=4)


def background(*texts: str) -> Background:
    return Background([Essay(name=str(number), text=text) for number, text in enumerate(texts)])


@given(texts=TEXTS, wanted=st.integers(1, 60))
def test_as_many_words_as_wanted_from_the_essays_in_turn(texts: list[str], wanted: int) -> None:
    words, names = background(*texts).words(wanted)
    assert len(words) == wanted == len(WORD.findall("".join(words)))
    assert list(names) == [str(number % len(texts)) for number in range(len(names))]
    everything = "".join(texts[int(name)] for name in names)
    assert everything.startswith("".join(words))


def test_essays_are_glued_and_begin_again() -> None:
    words, names = background("one two\n", "three four", "five ").words(6)
    assert words == ["one ", "two\n", "three ", "fourfive ", "one ", "two"]
    assert names == ("0", "1", "2", "0")


def test_blanks_at_the_beginning_are_not_glued_and_stay() -> None:
    words, _ = background("one", " two").words(4)
    assert words == ["one ", "twoone ", "twoone ", "two"]


@pytest.mark.parametrize(
    ("depth", "before", "rest"),
    [
        (0, "", " N a b\n\nc d e "),
        (0.2, "a", " N b\n\nc d e "),
        (0.39, "a", " N b\n\nc d e "),
        (0.4, "a b", " N c d e "),  # the line breaks after b are stripped
        (0.8, "a b\n\nc d", " N e "),
        (1, "a b\n\nc d e", " N  "),
    ],
)
def test_where_a_needle_stands_and_which_blanks_are_around(depth: float, before: str, rest: str) -> None:
    assert insert(["a ", "b\n\n", "c ", "d ", "e"], [(depth, "N")]) == (before, rest)


def test_several_needles() -> None:
    words = ["a ", "b ", "c ", "d"]
    assert insert(words, [(0.25, "N"), (0.5, "M"), (0.5, "O")]) == ("a", " N b M  O c d ")


@given(count=st.integers(1, 50), depths=st.lists(st.floats(0, 1), min_size=1, max_size=4).map(sorted))
def test_no_word_is_lost(count: int, depths: list[float]) -> None:
    words = [f"w{number} " for number in range(count)]
    before, rest = insert(words, [(depth, f"N{number}") for number, depth in enumerate(depths)])
    found = (before + rest).split()
    assert [word for word in found if word[0] == "w"] == [word.strip() for word in words]
    for number, depth in enumerate(depths):
        at = found.index(f"N{number}")
        assert sum(word[0] == "w" for word in found[:at]) == int(count * depth)
