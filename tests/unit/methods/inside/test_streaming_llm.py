"""StreamingLLM's windowed variant against its definition, query by query and key by key."""

from __future__ import annotations

import unittest

import torch

from inside.support import MODERN, Recorder, folder, model, modern, prompt, streaming_reference, tokens

if MODERN:
    from methods.kv.family import CacheFamily
    from methods.streaming_llm.policy import build

POLICY = "methods.streaming_llm.policy:build"


def load(case: unittest.TestCase, name: str, **changes: object) -> CacheFamily:
    family = CacheFamily()
    family.load(model(folder(name, case), **changes))
    case.addCleanup(family.close)
    return family


def answer(family: CacheFamily, ids: list[int], params: dict, recorder: Recorder | None = None, new: int = 6) -> list[int]:
    got = family.bind("streaming-llm", POLICY, params).generate([prompt(ids, max_new_tokens=new)], (recorder or Recorder()).hooks())
    return [int(value) for value in got[0].text.split()]


def full(family: CacheFamily, ids: list[int], new: int = 6) -> list[int]:
    got = family.bind("full-kv", "methods.full_kv.policy:build", {}).generate([prompt(ids, max_new_tokens=new)], Recorder().hooks())
    return [int(value) for value in got[0].text.split()]


def kept_positions(family: CacheFamily, ids: list[int], params: dict) -> list[list[int]]:
    """Which tokens a layer holds when the prompt is complete: values carry their position, keys are whatever they are."""
    from methods.kv.family import _rotary
    from methods.kv.storage.base import Layout

    shape = family._loaded.shape
    layout = Layout(shape, (len(ids),), torch.float32, torch.device("cpu"), family._loaded.kernel, _rotary(family._loaded.network))
    found = []
    for storage in build(params).storages(layout):
        storage.begin(0)
        for first in range(0, len(ids), 5):
            size = min(5, len(ids) - first)
            marks = torch.arange(first, first + size, dtype=torch.float32)[None, None, :, None].expand(
                1, shape.kv_heads, size, shape.head_dim
            )
            storage.append(torch.randn(1, shape.kv_heads, size, shape.head_dim), marks)
        storage.end()
        found.append(storage.parts()["dense"][1][0, 0, :, 0].int().tolist())
    return found


@modern
class Windowed(unittest.TestCase):
    def test_equals_the_slow_reference(self) -> None:
        for name in ("llama", "mistral", "qwen3", "gemma2"):
            family = load(self, name)
            for length, budget, sinks in ((26, 8, 3), (26, 14, 4), (9, 20, 4), (7, 6, 2), (13, 5, 0), (1, 4, 4)):
                with self.subTest(model=name, length=length, budget=budget, sinks=sinks):
                    ids = tokens(length, seed=length)
                    split = build({"tokens": budget, "sinks": sinks}).split(length)
                    expected = streaming_reference(family, ids, split, 4)
                    self.assertEqual(answer(family, ids, {"tokens": budget, "sinks": sinks}, new=4), expected)

    def test_logits_equal_those_of_the_reference(self) -> None:
        from methods.kv.decoder import CacheDecoder, Rooms
        from methods.kv.family import _rotary
        from methods.kv.storage.base import Layout

        from inside.support import _windowed_forward

        for name in ("llama", "mistral", "gemma2", "phi3", "yarn"):
            with self.subTest(model=name):
                family = load(self, name)
                ids, network = tokens(31), family._loaded.network
                policy = build({"tokens": 9, "sinks": 3, "chunk": 7})
                layout = Layout(family._loaded.shape, (31,), torch.float32, torch.device("cpu"), family._loaded.kernel, _rotary(network))
                with torch.inference_mode():
                    decoder = CacheDecoder(Rooms(network, policy, layout, lambda *_: None))
                    got = [decoder.prefill(0, ids)]
                    decoder.reserve(12)
                    extra = tokens(12, seed=1)
                    got += [decoder.step(torch.tensor([value])) for value in extra]
                network.double()
                wanted = [_windowed_forward(network, ids + extra[:count], policy.split(31)) for count in range(13)]
                for ours, theirs in zip(got, wanted):
                    torch.testing.assert_close(ours[0].double(), theirs, atol=2e-5, rtol=2e-4)

    def test_kept_sets(self) -> None:
        family = load(self, "llama")
        for length, params, expected in (
            (40, {"keep": 0.25}, [0, 1, 2, 3, 34, 35, 36, 37, 38, 39]),
            (40, {"tokens": 6, "sinks": 1}, [0, 35, 36, 37, 38, 39]),
            (40, {"tokens": 3, "sinks": 0}, [37, 38, 39]),
            (41, {"keep": 0.1}, [0, 1, 2, 40]),
            (6, {"tokens": 9}, [0, 1, 2, 3, 4, 5]),
            (1, {"keep": 0.5}, [0]),
        ):
            with self.subTest(length=length, params=params):
                self.assertEqual(kept_positions(family, tokens(length), params), [expected] * 3)

    def test_a_layer_with_a_smaller_window_keeps_to_it(self) -> None:
        family = load(self, "gemma2")
        windows = family._loaded.shape.windows
        kept = kept_positions(family, tokens(40), {"tokens": 16})
        for window, positions in zip(windows, kept):
            self.assertEqual(positions, list(range(32, 40)) if window == 9 else [0, 1, 2, 3, *range(28, 40)])

    def test_bytes_are_exactly_the_budgets(self) -> None:
        family = load(self, "llama")
        for length, params, entries in (
            (40, {"keep": 0.25}, 10),
            (41, {"keep": 0.5}, 20),
            (40, {"tokens": 13}, 13),
            (9, {"tokens": 13}, 9),
        ):
            with self.subTest(params=params):
                recorder = Recorder()
                answer(family, tokens(length), {**params, "chunk": 16}, recorder)
                holding = recorder.holdings["a"]
                self.assertEqual((recorder.measured["a"], holding.held, holding.logical), (holding.analytic, entries, length))
                self.assertEqual(holding.analytic, entries * 3 * 2 * 2 * 8 * 4)
                self.assertEqual(holding.full, length * 3 * 2 * 2 * 8 * 4)

    def test_decoding_keeps_the_budget(self) -> None:
        from methods.kv.storage import window

        family = load(self, "llama")
        sizes = []
        plain = window.WindowStorage.append

        def spying(storage: window.WindowStorage, keys: torch.Tensor, values: torch.Tensor) -> window.WindowView:
            view = plain(storage, keys, values)
            if keys.shape[2] == 1:
                sizes.append(tuple(tensor.untyped_storage().nbytes() for tensor in storage.parts()["dense"]))
            return view

        window.WindowStorage.append = spying
        try:
            answer(family, tokens(40), {"tokens": 12}, new=30)
        finally:
            window.WindowStorage.append = plain
        self.assertEqual(set(sizes), {(12 * 2 * 8 * 4,) * 2})
        self.assertEqual(len(sizes), 29 * 3)

    def test_chunks_do_not_matter(self) -> None:
        for name in ("llama", "gemma2"):
            family = load(self, name)
            ids = tokens(61)
            whole = answer(family, ids, {"tokens": 17}, new=9)
            for chunk in (1, 4, 16, 17, 60):
                with self.subTest(model=name, chunk=chunk):
                    self.assertEqual(answer(family, ids, {"tokens": 17, "chunk": chunk}, new=9), whole)

    def test_a_budget_beyond_the_end_is_full_attention(self) -> None:
        for name in ("llama", "gemma2", "qwen3", "yarn"):
            with self.subTest(model=name):
                family = load(self, name)
                ids = tokens(24)
                self.assertEqual(answer(family, ids, {"tokens": 64}, new=9), full(family, ids, new=9))

    def test_a_budget_of_the_prompt_is_not_full_attention_once_sinks_leave_the_window(self) -> None:
        from methods.kv.storage.window import Window

        family = load(self, "llama")
        policy = build({"keep": 1.0})
        self.assertEqual(policy.split(24), (4, 20))
        from methods.kv.storage.base import Layout

        layout = Layout(family._loaded.shape, (24,), torch.float32, torch.device("cpu"), family._loaded.kernel, None)
        self.assertEqual(policy.windows(layout), [Window(local=20, kept=20, sinks=4)] * 3)

    def test_prompts_beyond_the_window_are_taken(self) -> None:
        family = load(self, "llama", window=16)
        self.assertEqual(len(answer(family, tokens(90), {"tokens": 12})), 6)

    def test_batches_are_refused(self) -> None:
        bound = load(self, "llama").bind("streaming-llm", POLICY, {"tokens": 8})
        with self.assertRaisesRegex(ValueError, "one request at a time"):
            bound.generate([prompt(tokens(3)), prompt(tokens(4), name="b")], Recorder().hooks())

    def test_layers_that_rotate_differently_are_refused(self) -> None:
        with self.assertRaisesRegex(ValueError, "one set of frequencies"):
            answer(load(self, "gemma3"), tokens(9), {"tokens": 4})

    def test_bad_parameters_are_named(self) -> None:
        for params, message in (
            ({}, "either keep"), ({"keep": 0.5, "tokens": 4}, "either keep"), ({"keep": 0}, "above 0"), ({"keep": 1.5}, "at most 1"),
            ({"tokens": 0}, "at least 1"), ({"tokens": 4, "sinks": -1}, "at least 0"), ({"tokens": 4, "variant": "other"}, "variant"),
            ({"tokens": 4, "sinks": 1, "sinks_share": 0.1}, "either sinks"),
            ({"tokens": 4, "window": 3}, "window"),
        ):  # fmt: skip
            with self.subTest(params=params), self.assertRaisesRegex(ValueError, message):
                build(params)


if __name__ == "__main__":
    unittest.main()
