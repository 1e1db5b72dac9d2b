"""The needle metrics."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longctx.evals.passkey_2024.metrics import exact, normalised, partial

KEY = "1043321"


@pytest.mark.parametrize(
    ("key", "answer", "found", "shared"),
    [
        (KEY, KEY, 1, 7),
        (KEY, "", 0, 0),
        (KEY, "...!?", 0, 0),
        (KEY, "I cannot find it.", 0, 0),
        (KEY, "The pass key is 1043321. Remember it.", 1, 7),
        (KEY, "910433219", 1, 7),  # inside a longer number
        (KEY, "1,043,321", 1, 3),  # punctuation is taken out before comparing, but not for partial
        (KEY, "104 3321", 0, 4),
        (KEY, "104332", 0, 6),
        (KEY, "1234567", 0, 1),
        (KEY, "1043 the 321", 0, 4),
        (KEY, "1043\n321", 0, 4),
        (KEY, "x" * 400 + KEY + "y" * 400, 1, 7),  # difflib's autojunk, if on, would lose it in an answer of more than 200 characters
        ("0043321", "43321", 0, 5),  # zeros in front count
        ("abcdefg", "ABCDEFG", 1, 0),
        ("theabcd", "The abcd", 0, 4),
        ("a", "b", 1, 0),  # the original's quirk: a key that is nothing but an article is found in every answer
        ("1111", "111111", 1, 4),
    ],
)
def test_what_counts(key: str, answer: str, found: float, shared: int) -> None:
    assert exact(key, answer) == found
    assert partial(key, answer) == pytest.approx(shared / len(key))


def test_normalised() -> None:
    assert normalised("  The KEY, (an 'A'):\n\tis `12`!  ") == "key is 12"


@given(key=st.text("ab1, the", min_size=1, max_size=10), answer=st.text("ab1, the", max_size=40))
def test_a_key_that_stands_in_the_answer_is_found_and_shares_are_shares(key: str, answer: str) -> None:
    assert 0 <= partial(key, answer) <= 1
    assert (partial(key, answer) == 1) == (key in answer)
    assert exact(key, key) == 1


@given(key=st.text("0123456789", min_size=1, max_size=10), before=st.text("01 x", max_size=20), after=st.text("01 x", max_size=20))
def test_digits_are_found_wherever_they_stand(key: str, before: str, after: str) -> None:
    assert exact(key, before + key + after) == partial(key, before + key + after) == 1
