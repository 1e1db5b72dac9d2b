"""The CUDA kernels, and what is held there. Skipped without a GPU."""

from __future__ import annotations

import unittest
from collections.abc import Callable

import torch
from methods.kv import attention

from inside.support import Recorder, folder, model, modern, prompt, tokens
from inside.test_kernels import plain
from inside.variants import VARIANTS


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

    def test_a_step_can_be_captured(self) -> None:
        """A replayed step goes on from where the captured one stood: every place and length is on the device."""
        from methods.knorm.policy import Knorm
        from methods.kv.budget import Budget
        from methods.kv.decoder import CacheDecoder, Rooms
        from methods.kv.evicting import Evicting
        from methods.kv.family import CacheBound, CacheFamily
        from methods.kv.storage.slots import SlotStorage

        from inside.test_slots import Accumulated

        slots = Evicting(Knorm(), Budget(None, 9), holder=lambda layout, entries: SlotStorage(layout, entries, Accumulated()))
        for name in ("llama", "gemma2"):
            family = CacheFamily()
            family.load(model(folder(name, self), device="cuda:0", dtype="bfloat16"))
            bounds = {
                f"{variant}": family.bind(variant.method, variant.policy, variant.params) for variant in VARIANTS if name in variant.models
            }
            for label, bound in [*bounds.items(), ("slots", CacheBound(family._loaded, slots))]:
                sizes = (30, 12) if bound._policy.batch else (30,)
                batch, extra = [prompt(tokens(size), name=str(size)) for size in sizes], tokens(8, seed=4)
                with self.subTest(model=name, variant=label), torch.inference_mode():
                    eager, captured = (self.ready(CacheDecoder, Rooms, family, bound, batch) for _ in range(2))
                    expected = [eager.step(torch.full((len(sizes),), value, device="cuda")).clone() for value in extra]
                    given = torch.full((len(sizes),), extra[0], device="cuda")
                    stream = torch.cuda.Stream()
                    stream.wait_stream(torch.cuda.current_stream())
                    with torch.cuda.stream(stream):
                        captured.step(given)
                    torch.cuda.current_stream().wait_stream(stream)
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graph):
                        logits = captured.step(given)
                    for value, wanted in zip(extra[1:], expected[1:]):
                        given.fill_(value)
                        graph.replay()
                        torch.testing.assert_close(logits, wanted, atol=2e-2, rtol=2e-2)

    def ready(self, decoder_class: type, rooms: type, family: object, bound: object, batch: list) -> object:
        """Read the prompts; return the decoder with room for eight steps."""
        decoder = decoder_class(rooms(family._loaded.network, bound._policy, bound._layout(batch), lambda *_: None))
        for row, item in enumerate(batch):
            decoder.prefill(row, item.ids)
        decoder.reserve(8)
        return decoder

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
