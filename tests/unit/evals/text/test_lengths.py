"""Lengths in words and in tokens."""

from collections.abc import Iterator, Sequence

import pytest

from longctx.evals.base import ParameterError
from longctx.evals.text import lengths


def prompt(name: str, words: int) -> str:
    return " ".join([name, *["word"] * words])


def count(texts: Sequence[str]) -> list[int]:
    return [2 * len(text.split()) for text in texts]


def test_a_length_in_words_is_that_number() -> None:
    assert list(lengths.sized("ab", prompt, "words", 7, count=None, path=())) == [("a", 7), ("b", 7)]


def test_a_length_in_tokens_is_filled_and_kept() -> None:
    assert list(lengths.sized(["a", "a b"], prompt, "tokens", 200, count=count, path=())) == [("a", 99), ("a b", 98)]


def test_items_come_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "BATCH_TOKENS", 400)
    taken: list[str] = []

    def items() -> Iterator[str]:
        for item in "abcde":
            taken.append(item)
            yield item

    sized = lengths.sized(items(), prompt, "tokens", 200, count=count, path=())
    assert next(sized) == ("a", 99)
    assert taken == ["a", "b"]
    assert [item for item, _ in sized] == ["b", "c", "d", "e"]


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ParameterError) as caught:
        list(lengths.sized(["a " * 200], prompt, "tokens", 200, count=count, path=("lengths", "tokens", 3)))
    assert caught.value.path == ("lengths", "tokens", 3)
    assert caught.value.allowed == "a greater length"


def test_tokens_need_a_tokenizer() -> None:
    with pytest.raises(ValueError, match="lent none"):
        list(lengths.sized(["a"], prompt, "tokens", 200, count=None, path=()))
