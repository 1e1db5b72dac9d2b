"""Every attention kernel of this device against plain matrix algebra."""

from __future__ import annotations

import unittest

import torch
from methods.kv import attention


def plain(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float, window: int | None, softcap: float | None
) -> tuple:
    group = query.shape[1] // keys.shape[1]
    scores = query.double() @ keys.double().repeat_interleave(group, 1).transpose(-1, -2) * scaling
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    rows, columns = scores.shape[-2:]
    distance = torch.arange(columns - rows, columns)[:, None] - torch.arange(columns)
    scores = scores.masked_fill((distance < 0) | (distance >= (window or columns)), float("-inf"))
    return scores.softmax(-1) @ values.double().repeat_interleave(group, 1), scores.logsumexp(-1)


def draw(rows: int, columns: int, heads: int = 6, kv_heads: int = 2, batch: int = 1) -> tuple:
    torch.manual_seed(rows * 1000 + columns)
    # laid out as a model's projections are: heads behind tokens
    make = lambda length, count: torch.randn(batch, length, count, 16).transpose(1, 2)  # noqa: E731
    return make(rows, heads), make(columns, kv_heads), make(columns, kv_heads)


class Causal(unittest.TestCase):
    def test_output_and_log_sum_exp(self) -> None:
        for kernel in (attention.FLASH_CPU, attention.BLOCKED):
            for rows, columns in ((1, 1), (5, 5), (7, 20), (600, 900)):
                for window in (None, 1, 4, 300, 5000):
                    with self.subTest(kernel=kernel, rows=rows, columns=columns, window=window):
                        query, keys, values = draw(rows, columns)
                        out, lse = attention.causal(kernel, query, keys, values, scaling=0.3, window=window)
                        expected, sums = plain(query, keys, values, 0.3, window, None)
                        torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-4)
                        torch.testing.assert_close(lse.double(), sums, atol=1e-5, rtol=1e-5)

    def test_softcap(self) -> None:
        query, keys, values = draw(9, 30)
        out, lse = attention.causal(attention.BLOCKED, query, keys, values, scaling=1.0, softcap=2.0, window=11)
        expected, sums = plain(query, keys, values, 1.0, 11, 2.0)
        torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(lse.double(), sums, atol=1e-5, rtol=1e-5)

    def test_blocks_do_not_change_the_blocked_kernel(self) -> None:
        query, keys, values = draw(50, 80)
        whole = attention.causal(attention.BLOCKED, query, keys, values, scaling=0.3)
        before, attention._BLOCK_ELEMENTS = attention._BLOCK_ELEMENTS, 2000
        try:
            parts = attention.causal(attention.BLOCKED, query, keys, values, scaling=0.3)
        finally:
            attention._BLOCK_ELEMENTS = before
        torch.testing.assert_close(whole[0], parts[0])
        torch.testing.assert_close(whole[1], parts[1])


class Single(unittest.TestCase):
    def test_all_keys_and_some(self) -> None:
        for kernel in (attention.FLASH_CPU, attention.BLOCKED):
            query, keys, values = draw(1, 12, batch=3)
            out, lse = attention.single(kernel, query, keys, values, scaling=0.3)
            expected, sums = plain(query, keys, values, 0.3, None, None)
            torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(lse.double(), sums, atol=1e-5, rtol=1e-5)
            valid = torch.arange(12) >= torch.tensor([0, 5, 11])[:, None]
            out, _ = attention.single(kernel, query, keys, values, scaling=0.3, valid=valid[:, None, None])
            for row, first in enumerate((0, 5, 11)):
                alone, _ = plain(query[row : row + 1], keys[row : row + 1, :, first:], values[row : row + 1, :, first:], 0.3, None, None)
                torch.testing.assert_close(out[row : row + 1].double(), alone, atol=1e-5, rtol=1e-4)

    def test_join_is_one_softmax(self) -> None:
        query, keys, values = draw(1, 12)
        out, lse = attention.single(attention.FLASH_CPU, query, keys[:, :, 5:], values[:, :, 5:], scaling=0.3)
        scores = attention.scores(query, keys[:, :, :5], 0.3)
        joined = attention.join(out, lse, scores, values[:, :, :5])
        torch.testing.assert_close(joined.double(), plain(query, keys, values, 0.3, None, None)[0], atol=1e-5, rtol=1e-4)
        hidden = torch.full_like(scores, float("-inf"))
        torch.testing.assert_close(attention.join(out, lse, hidden, values[:, :, :5]), out)


class Choice(unittest.TestCase):
    def test_by_device_and_model(self) -> None:
        cpu, cuda = torch.device("cpu"), torch.device("cuda")
        for requested, device, dtype, softcap, expected in (
            ("auto", cpu, torch.float32, None, attention.FLASH_CPU), ("sdpa", cpu, torch.bfloat16, None, attention.FLASH_CPU),
            ("auto", cuda, torch.bfloat16, None, attention.FLASH_CUDA), ("auto", cuda, torch.float32, None, attention.BLOCKED),
            ("auto", cpu, torch.float32, 30.0, attention.BLOCKED), ("eager", cuda, torch.bfloat16, None, attention.BLOCKED),
        ):  # fmt: skip
            self.assertEqual(attention.choose(requested, device, dtype, 64, softcap), expected)
        for requested, dtype, size in (("flash", torch.float32, 64), ("sdpa", torch.bfloat16, 512)):
            with self.assertRaisesRegex(ValueError, "Use 'auto' or 'eager'"):
                attention.choose(requested, cuda, dtype, size, None)


if __name__ == "__main__":
    unittest.main()
