"""Full KV is the model's own greedy decoding, at exactly the model's own cost."""

from __future__ import annotations

import unittest

import torch
from runner.protocol import TooLong

from inside.support import CONFIGS, MODERN, Recorder, folder, model, modern, prompt, tokens

if MODERN:
    from methods.kv.family import CacheFamily as Family

    POLICY = "methods.full_kv.policy:build"
    NAMES = list(CONFIGS)
else:
    from methods.full_kv.native import NativeFamily as Family

    POLICY = "methods.kv.loop:greedy"
    NAMES = ["llama", "mistral", "mistral-full", "qwen2"]


def load(case: unittest.TestCase, name: str, **changes: object) -> Family:
    family = Family()
    family.load(model(folder(name, case), **changes))
    case.addCleanup(family.close)
    return family


def network_of(family: Family) -> object:
    return family._loaded.network if MODERN else family._network


def generated(family: Family, ids: list[int], count: int) -> list[int]:
    """Transformers' own generate() with eager attention."""
    network = network_of(family)
    ours = network.config._attn_implementation
    if MODERN:
        network.set_attn_implementation("eager")
    out = network.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=count, do_sample=False, eos_token_id=None
    )
    if MODERN:
        network.set_attn_implementation(ours)
    return out[0, len(ids) :].tolist()


def answer(family: Family, batch: list, recorder: Recorder | None = None, exact: int | None = None) -> list:
    return list(family.bind("full-kv", POLICY, {}).generate(batch, (recorder or Recorder()).hooks(), exact))


def ids_of(text: str) -> list[int]:
    """Without a tokenizer, text is the ids in digits."""
    return [int(value) for value in text.split()]


class FullKV(unittest.TestCase):
    def test_tokens_equal_those_of_eager_generate(self) -> None:
        for name in NAMES:
            with self.subTest(model=name):
                family = load(self, name)
                for length in (1, 7, 33):
                    ids = tokens(length, seed=length)
                    got = answer(family, [prompt(ids, max_new_tokens=14)])[0]
                    self.assertEqual(ids_of(got.text), generated(family, ids, 14), (name, length))
                    self.assertEqual((got.finish, got.generated, list(got.fed_ids)), ("length", 14, ids))

    def test_blocked_attention_gives_the_same(self) -> None:
        family, other = load(self, "llama"), load(self, "llama", attention="eager")
        ids = tokens(40)
        self.assertEqual(answer(family, [prompt(ids)])[0].text, answer(other, [prompt(ids)])[0].text)
        self.assertNotEqual(family.describe()["attention"], other.describe()["attention"])

    def test_bytes_are_exactly_the_analytic_ones(self) -> None:
        for name in NAMES:
            with self.subTest(model=name):
                recorder = Recorder()
                answer(load(self, name), [prompt(tokens(30))], recorder)
                holding = recorder.holdings["a"]
                self.assertEqual(recorder.measured["a"], holding.analytic)
                if MODERN:
                    self.assertEqual(holding.analytic, holding.full)
                self.assertEqual((holding.at, holding.logical), ("prefill", 30))

    def test_a_full_layer_costs_two_tensors_of_every_token(self) -> None:
        recorder = Recorder()
        answer(load(self, "llama"), [prompt(tokens(30))], recorder)
        self.assertEqual(recorder.measured["a"], 30 * 3 * 2 * 2 * 8 * 4)
        self.assertEqual(recorder.holdings["a"].held, 30)

    @modern
    def test_sliding_layers_hold_their_window_only(self) -> None:
        recorder = Recorder()
        family = load(self, "gemma2")
        answer(family, [prompt(tokens(30))], recorder)
        windows = family._loaded.shape.windows
        self.assertEqual(sorted(set(windows), key=str), [9, None])
        entries = sum(30 if window is None else 8 for window in windows)
        self.assertEqual(recorder.holdings["a"].full, entries * 2 * 2 * 16 * 4)

    def test_batch_equals_single(self) -> None:
        for name in NAMES:
            with self.subTest(model=name):
                family = load(self, name)
                batch = [
                    prompt(tokens(length, seed=length), name=str(length), max_new_tokens=limit)
                    for length, limit in ((5, 12), (31, 9), (14, 14))
                ]
                together = answer(family, batch)
                alone = [answer(family, [item])[0] for item in batch]
                self.assertEqual([item.text for item in together], [item.text for item in alone])
                self.assertEqual([item.id for item in together], ["5", "31", "14"])
                self.assertEqual([item.generated for item in together], [12, 9, 14])
                self.assertTrue(all(item.decode_s is None and item.prefill_s is not None for item in together))

    def test_a_batch_is_padded_to_its_longest_row(self) -> None:
        recorder = Recorder()
        answer(load(self, "llama"), [prompt(tokens(5), name="short"), prompt(tokens(20), name="long")], recorder)
        short, long = recorder.holdings["short"], recorder.holdings["long"]
        self.assertEqual(recorder.measured["short"], short.analytic + long.analytic)
        self.assertEqual((short.held, short.logical, short.full * 4), (20, 5, long.full))

    def test_hooks_come_in_order(self) -> None:
        recorder = Recorder()
        answer(load(self, "llama"), [prompt(tokens(6), max_new_tokens=3)], recorder)
        self.assertEqual(recorder.calls, ["before_cache", "prefill", "holding", "decode", "decode"])
        self.assertEqual(recorder.phases, [("prefill", 0), ("decode", 7), ("decode", 8)])

    def test_too_long_is_told_before_anything_is_computed(self) -> None:
        family = load(self, "llama", window=40)
        recorder = Recorder()
        with self.assertRaises(TooLong) as caught:
            answer(family, [prompt(tokens(5), name="fits"), prompt(tokens(31), name="long")], recorder)
        self.assertEqual(list(caught.exception.ids), ["long"])
        self.assertEqual(recorder.calls, [])
        self.assertEqual(answer(family, [prompt(tokens(30))])[0].generated, 10)

    def test_parameters_are_refused(self) -> None:
        with self.assertRaises(ValueError):
            load(self, "llama").bind("full-kv", POLICY, {"keep": 0.5})

    def test_describe_counts_shared_weights_once(self) -> None:
        family = load(self, "llama")
        self.assertEqual(family.describe()["config"]["num_hidden_layers"], 3)
        names = dict(network_of(family).named_parameters())
        self.assertGreaterEqual(family.describe()["weights"], sum(value.nbytes for value in names.values()))

    def test_random_weights_follow_the_seed(self) -> None:
        ids = tokens(20)
        texts = [answer(load(self, "llama", seed=seed), [prompt(ids)])[0].text for seed in (1, 1, 2)]
        self.assertEqual(texts[0], texts[1])
        self.assertNotEqual(texts[0], texts[2])

    @modern
    def test_flash_is_refused_where_scores_are_capped(self) -> None:
        with self.assertRaisesRegex(ValueError, "caps its attention scores"):
            load(self, "gemma2", attention="flash")


class Chunks(unittest.TestCase):
    def test_a_prompt_in_chunks_is_the_whole_prompt(self) -> None:
        if MODERN:
            from methods.kv import prefill as module
        else:
            from methods.full_kv import native as module
        for name in NAMES:
            with self.subTest(model=name):
                family = load(self, name)
                ids = tokens(37)
                whole = answer(family, [prompt(ids)])[0].text
                before = dict(module._CHUNK)
                for size in (1, 5, 36, 37):
                    module._CHUNK["cpu"] = size
                    try:
                        recorder = Recorder()
                        self.assertEqual(answer(family, [prompt(ids)], recorder)[0].text, whole, size)
                        self.assertEqual(recorder.phases[: -(-37 // size)], [("prefill", first) for first in range(0, 37, size)])
                        self.assertEqual(recorder.measured["a"], recorder.holdings["a"].analytic)
                    finally:
                        module._CHUNK.update(before)


if __name__ == "__main__":
    unittest.main()
