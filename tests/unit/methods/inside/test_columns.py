"""Column sums of attention weights, by every kernel, against the whole matrix."""

from __future__ import annotations

import importlib.util
import os
import unittest
from unittest import mock

import torch
from methods.kv import columns

from inside.support import modern

CASES = (  # heads, kv_heads, queries, keys, head_dim, softcap
    (4, 2, 1, 1, 8, None),
    (4, 2, 70, 100, 16, None),
    (4, 1, 300, 300, 96, 3.0),
    (2, 2, 130, 515, 64, None),
    (2, 1, 5, 400, 32, None),
)


def drawn(case: tuple, dtype: torch.dtype, device: str = "cpu") -> tuple:
    """Draw queries and keys; return them with the log-sum-exp, the arguments and the sums, from the whole matrix in float64."""
    heads, kv_heads, rows, length, size, softcap = case
    torch.manual_seed(rows)
    query, keys = torch.randn(1, heads, rows, size).to(dtype), torch.randn(1, kv_heads, length, size).to(dtype)
    scores = query.double() @ keys.double().repeat_interleave(heads // kv_heads, 1).transpose(-1, -2) * size**-0.5
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(torch.arange(length) > torch.arange(length - rows, length)[:, None], -torch.inf)
    expected = scores.softmax(-1).sum(2).unflatten(1, (kv_heads, -1)).sum(2)
    tensors = tuple(item.to(device) for item in (query, keys, scores.logsumexp(-1).float()))
    return tensors, {"scaling": size**-0.5, "softcap": softcap}, expected


class Columns(unittest.TestCase):
    def check(self, kernel: str, dtype: torch.dtype, device: str = "cpu") -> None:
        for case in CASES:
            with self.subTest(kernel=kernel, case=case):
                tensors, options, expected = drawn(case, dtype, device)
                found = columns.sums(kernel, *tensors, **options)
                self.assertEqual(found.dtype, torch.float32)
                torch.testing.assert_close(found.cpu().double(), expected, atol=2e-5, rtol=2e-5)
                self.assertAlmostEqual(float(found.sum()), case[0] * case[2], delta=1e-4 * case[0] * case[2])

    def test_torch(self) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            self.check(columns.TORCH, dtype)

    def test_torch_in_small_blocks(self) -> None:
        for elements in (1, 4000):
            with mock.patch.object(columns, "_BLOCK_ELEMENTS", elements):
                self.check(columns.TORCH, torch.float32)

    @unittest.skipUnless(importlib.util.find_spec("triton") and os.environ.get("TRITON_INTERPRET") == "1", "needs TRITON_INTERPRET=1")
    def test_triton_interpreted(self) -> None:
        for dtype in (torch.float32, torch.float16):  # the interpreter multiplies no bfloat16
            self.check(columns.TRITON, dtype)

    @unittest.skipUnless(torch.cuda.is_available(), "needs a CUDA GPU")
    def test_on_cuda(self) -> None:
        for kernel in {columns.TORCH, columns.choose("cuda")}:
            for dtype in (torch.float32, torch.bfloat16):
                self.check(kernel, dtype, "cuda")

    def test_the_kernel_is_one_that_can_run(self) -> None:
        self.assertEqual(columns.choose("cpu"), columns.TORCH)

    @modern
    def test_a_window_is_refused_and_one_sum_serves_all(self) -> None:
        from methods.kv.observe import Attended

        (query, keys, lse), options, _ = drawn(CASES[1], torch.float32)
        chunk = Attended(query, keys, keys, lse, keys.shape[2] - query.shape[2], window=None, **options)
        self.assertIs(chunk.column_sums, chunk.column_sums)
        with self.assertRaisesRegex(ValueError, "sliding window"):
            _ = Attended(query, keys, keys, lse, 30, window=5, **options).column_sums


if __name__ == "__main__":
    unittest.main()
