"""Words for a length in tokens."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.evals.text.fit import fit

Count = Callable[[Sequence[str]], list[int]]


def counter(tokens: Callable[[str], int], calls: list[int] | None = None) -> Count:
    def count(texts: Sequence[str]) -> list[int]:
        if calls is not None:
            calls.append(len(texts))
        return [tokens(text) for text in texts]

    return count


def prompt(words: int) -> str:
    return "four words stand before " + " ".join(f"{'x' * (1 + (7 * i) % 11)}" for i in range(words))


TOKENIZERS = {
    "a token a word": lambda text: len(text.split()),
    "by length": lambda text: sum(1 + len(word) // 4 for word in text.split()),
    "a token a letter": lambda text: sum(len(word) for word in text.split()),
    "dense at first": lambda text: sum(6 if i < 50 else 1 for i, _ in enumerate(text.split())),
    "dense at last": lambda text: sum(1 if i < 50 else 6 for i, _ in enumerate(text.split())),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=20)
@given(limit=st.integers(30, 1200))
def test_the_prompt_fits_and_one_word_more_does_not(name: str, limit: int) -> None:
    count = counter(TOKENIZERS[name])
    (words,) = fit([prompt], limit, count)
    if words is None:
        assert count([prompt(0)])[0] > limit
    else:
        here, beyond = count([prompt(words), prompt(words + 1)])
        assert here <= limit < beyond


def test_many_prompts_share_few_calls() -> None:
    calls: list[int] = []
    prompts = [lambda words, i=i: f"{'y ' * i}" + prompt(words) for i in range(10)]
    found = fit(prompts, 8_000, counter(TOKENIZERS["by length"], calls))
    assert len(calls) <= 6
    assert all(words is not None and words > 2_000 for words in found)


def test_a_tokenizer_that_is_not_monotonic_still_ends_below_the_limit() -> None:
    count = counter(lambda text: len(text.split()) + (3 if len(text.split()) % 2 else 0))
    (words,) = fit([prompt], 501, count)
    assert words is not None
    assert count([prompt(words)])[0] <= 501


def test_no_room_at_all_is_none() -> None:
    assert fit([prompt, prompt], 3, counter(TOKENIZERS["a token a word"])) == [None, None]
