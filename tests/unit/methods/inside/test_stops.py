"""When the loop stops, against a decoder whose next token is written down beforehand."""

from __future__ import annotations

import unittest
from collections.abc import Sequence

import torch
from methods.kv.loop import greedy
from runner.protocol import Holding

from inside.support import Recorder, prompt

LETTERS = "abcdefghij"


class Scripted:
    """Says a text for each row, letter by letter; where a letter is forbidden, ``j``."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.steps = 0
        self.reserved: list[int] = []

    def _logits(self, texts: Sequence[str], place: int) -> torch.Tensor:
        logits = torch.zeros(len(texts), len(LETTERS))
        logits[:, -1] = 0.5
        for row, text in enumerate(texts):
            logits[row, LETTERS.index(text[place])] = 1.0
        return logits

    def prefill(self, row: int, ids: Sequence[int]) -> torch.Tensor:
        return self._logits([self.texts[row]], 0)

    def holding(self, row: int) -> Holding:
        return Holding("prefill", 0, 0.0, None, None, [], {})

    def reserve(self, new_tokens: int) -> None:
        self.reserved.append(new_tokens)

    def step(self, token: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        return self._logits(self.texts, self.steps)


def decode(ids: Sequence[int]) -> str:
    return "".join(LETTERS[value] for value in ids)


def run(text: str, exact: int | None = None, **limits: object) -> tuple:
    scripted = Scripted([text])
    got = greedy(lambda: scripted, [prompt([1], **limits)], Recorder().hooks(), decode, exact)[0]
    return got.text, got.finish, got.generated, scripted.steps


class Stops(unittest.TestCase):
    def test_length(self) -> None:
        self.assertEqual(run("abcdefgh", max_new_tokens=4), ("abcd", "length", 4, 3))

    def test_one_token_takes_no_step(self) -> None:
        scripted = Scripted(["abc"])
        got = greedy(lambda: scripted, [prompt([1], max_new_tokens=1)], Recorder().hooks(), decode)[0]
        self.assertEqual((got.text, got.finish, scripted.steps, scripted.reserved), ("a", "length", 0, []))

    def test_stop_id_counts_and_ends_at_once(self) -> None:
        self.assertEqual(run("abcdefgh", max_new_tokens=8, stop_ids=(2, 5)), ("abc", "stop", 3, 2))

    def test_stop_id_at_the_limit_is_a_stop(self) -> None:
        self.assertEqual(run("abc", max_new_tokens=3, stop_ids=(2,)), ("abc", "stop", 3, 2))

    def test_stop_string_is_cut_off(self) -> None:
        self.assertEqual(run("abcdefgh", max_new_tokens=8, stop_strings=("de", "z")), ("abc", "stop", 5, 4))

    def test_the_earliest_stop_string_wins(self) -> None:
        self.assertEqual(run("abcdefgh", max_new_tokens=8, stop_strings=("cd", "bcd")), ("a", "stop", 4, 3))

    def test_least_tokens_forbid_stop_ids(self) -> None:
        self.assertEqual(run("abcbh", max_new_tokens=4, min_new_tokens=2, stop_ids=(1,)), ("ajcb", "stop", 4, 3))

    def test_a_stop_string_inside_the_least_tokens_does_not_count(self) -> None:
        self.assertEqual(run("abcabcgh", max_new_tokens=8, min_new_tokens=4, stop_strings=("bc",)), ("abca", "stop", 6, 5))

    def test_exact_ignores_every_stop(self) -> None:
        self.assertEqual(run("abcdefgh", exact=6, max_new_tokens=2, stop_ids=(1,), stop_strings=("c",)), ("abcdef", "length", 6, 5))

    def test_rows_stop_by_themselves(self) -> None:
        scripted = Scripted(["abcd", "dcba", "aaaa"])
        batch = [
            prompt([1], "x", max_new_tokens=4, stop_ids=(1,)),
            prompt([1, 2], "y", max_new_tokens=3),
            prompt([1], "z", max_new_tokens=4, stop_strings=("aa",)),
        ]
        got = greedy(lambda: scripted, batch, Recorder().hooks(), decode)
        self.assertEqual(
            [(item.id, item.text, item.finish) for item in got], [("x", "ab", "stop"), ("y", "dcb", "length"), ("z", "", "stop")]
        )
        self.assertEqual(scripted.steps, 2)


if __name__ == "__main__":
    unittest.main()
