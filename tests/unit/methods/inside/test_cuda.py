"""The CUDA kernels, and what is held there. Skipped without a GPU."""

from __future__ import annotations

import unittest
from collections.abc import Callable

import torch
from methods.kv import attention

from inside.support import Recorder, folder, model, modern, prompt, tokens
from inside.test_kernels import plain


def _noting(seen: list, inner: Callable) -> Callable:
    def holding(name: str, held: object) -> None:
        seen.append(torch.cuda.memory_allocated())
        inner(name, held)

    return holding


@modern
@unittest.skipUnless(torch.cuda.is_available(), "needs a CUDA GPU")
class Cuda(unittest.TestCase):
    def draw(self, rows: int, columns: int, batch: int = 1) -> tuple:
        torch.manual_seed(rows * 1000 + columns)

        def make(length: int, heads: int) -> torch.Tensor:
            return torch.randn(batch, length, heads, 64).to("cuda", torch.bfloat16).transpose(1, 2)

        return make(rows, 6), make(columns, 2), make(columns, 2)

    def near(self, got: tuple, drawn: tuple, window: int | None) -> None:
        expected, sums = plain(*(item.cpu() for item in drawn), 0.125, window, None)
        torch.testing.assert_close(got[0].double().cpu(), expected, atol=2e-2, rtol=2e-2)
        torch.testing.assert_close(got[1].double().cpu(), sums, atol=2e-2, rtol=1e-2)

    def test_causal(self) -> None:
        for kernel in (attention.FLASH_CUDA, attention.BLOCKED):
            for rows, columns in ((1, 1), (5, 5), (7, 20), (600, 900)):
                for window in (None, 1, 4, 300, 5000):
                    with self.subTest(kernel=kernel, rows=rows, columns=columns, window=window):
                        drawn = self.draw(rows, columns)
                        self.near(attention.causal(kernel, *drawn, scaling=0.125, window=window), drawn, window)

    def test_single(self) -> None:
        drawn = self.draw(1, 700, batch=3)
        for kernel in (attention.FLASH_CUDA, attention.BLOCKED):
            self.near(attention.single(kernel, *drawn, scaling=0.125), drawn, None)
            valid = (torch.arange(700, device="cuda") >= torch.tensor([[0], [5], [699]], device="cuda"))[:, None, None]
            out, _ = attention.single(kernel, *drawn, scaling=0.125, valid=valid)
            for row, first in enumerate((0, 5, 699)):
                alone = (drawn[0][row : row + 1], drawn[1][row : row + 1, :, first:], drawn[2][row : row + 1, :, first:])
                expected, _ = plain(*(item.cpu() for item in alone), 0.125, None, None)
                torch.testing.assert_close(out[row : row + 1].double().cpu(), expected, atol=2e-2, rtol=2e-2)

    def test_padded_rows(self) -> None:
        drawn = self.draw(1, 700, batch=3)
        starts = (0, 5, 699)
        valid = (torch.arange(700, device="cuda") >= torch.tensor(starts, device="cuda")[:, None])[:, None, None]
        out = attention.padded(attention.FLASH_CUDA, *drawn, scaling=0.125, softcap=None, starts=starts, valid=valid)
        masked, _ = attention.single(attention.BLOCKED, *drawn, scaling=0.125, valid=valid)
        torch.testing.assert_close(out, masked, atol=2e-2, rtol=2e-2)

    def test_answers_in_float32_equal_those_of_the_cpu(self) -> None:
        from methods.kv.family import CacheFamily

        for name in ("llama", "gemma2"):
            for policy, params in (("full_kv", {}), ("streaming_llm", {"tokens": 14})):
                with self.subTest(model=name, policy=policy):
                    texts = []
                    for device in ("cpu", "cuda:0"):
                        family = CacheFamily()
                        family.load(model(folder(name, self)))
                        family._loaded.network.to(device)
                        object.__setattr__(family._loaded.model, "device", device)
                        family._loaded.kernel = attention.BLOCKED
                        bound = family.bind(policy, f"methods.{policy}.policy:build", params)
                        texts.append(bound.generate([prompt(tokens(50))], Recorder().hooks())[0].text)
                    self.assertEqual(*texts)

    def test_the_allocator_sees_exactly_what_is_claimed(self) -> None:
        from methods.kv.family import CacheFamily

        family = CacheFamily()
        family.load(model(folder("llama", self), device="cuda:0", dtype="bfloat16"))
        self.assertEqual(family.describe()["attention"], attention.FLASH_CUDA)
        for policy, params in (("full_kv", {}), ("streaming_llm", {"keep": 0.25})):
            with self.subTest(policy=policy):
                bound = family.bind(policy, f"methods.{policy}.policy:build", params)
                bound.generate([prompt(tokens(400))], Recorder().hooks())  # workspaces are allocated once
                recorder = Recorder()
                hooks = recorder.hooks()
                seen: list[int] = []
                hooks.before_cache = lambda seen=seen: seen.append(torch.cuda.memory_allocated())
                hooks.holding = _noting(seen, hooks.holding)
                bound.generate([prompt(tokens(400))], hooks)
                held = seen[1] - seen[0]
                # six buffers, each rounded up to 512 bytes, and a few words: token ids, positions, the first logits
                self.assertLess(abs(held - recorder.holdings["a"].analytic), 6 * 512 + 4096 + 8 * 400)
                self.assertLess(torch.cuda.memory_allocated() - seen[0], 1024)


if __name__ == "__main__":
    unittest.main()
