"""StreamingLLM as published (positions inside a rolling cache) and pruned, and the budgets of the 2024 benchmark."""

from __future__ import annotations

import unittest

import torch
import transformers

from inside.support import MODERN, Recorder, _turn, folder, model, modern, prompt, tokens

if MODERN:
    from methods.kv.decoder import CacheDecoder, Rooms
    from methods.kv.family import CacheFamily, _rotary
    from methods.kv.storage.base import Layout
    from methods.streaming_llm.policy import Split, build

POLICY = "methods.streaming_llm.policy:build"


def rolling_forward(network: object, ids: list[int], sinks: int, local: int) -> torch.Tensor:
    """Return the last position's logits, every token having been read alone, in float64.

    Query by query: the cache holds the first ``sinks`` and the last ``local`` tokens, and each stands at its index in that list.
    """
    frequencies = network.base_model.rotary_emb.inv_freq.double()

    def attend(module, query, key, value, attention_mask, scaling=None, softcap=None, sliding_window=None, **kwargs):
        group, length = query.shape[1] // key.shape[1], query.shape[2]
        k, v = key[0].repeat_interleave(group, 0), value[0].repeat_interleave(group, 0)
        near, first = (local, sinks) if not sliding_window or sliding_window > local else (sliding_window, 0)
        out = torch.zeros_like(query)
        for i in range(length):
            cache = [j for j in range(i + 1) if j < first or i - j < near]
            places = torch.arange(len(cache), dtype=torch.float64)
            turned = _turn(k[:, cache], places, frequencies)
            asked = _turn(query[0, :, i : i + 1], places[-1:], frequencies)
            scores = (asked * turned).sum(-1) * scaling
            scores = softcap * torch.tanh(scores / softcap) if softcap else scores
            if sliding_window:
                scores[:, [i - j >= sliding_window for j in cache]] = float("-inf")
            out[0, :, i] = (scores.softmax(-1)[..., None] * v[:, cache]).sum(1)
        return out.transpose(1, 2), None

    transformers.AttentionInterface.register("rolling", attend)
    network.config._attn_implementation = "rolling"
    try:
        with torch.no_grad():
            return network(torch.tensor([ids]), position_ids=torch.zeros(1, len(ids), dtype=torch.long), use_cache=False).logits[0, -1]
    finally:
        network.config._attn_implementation = "longctx"


@modern
class Published(unittest.TestCase):
    def test_logits_equal_those_of_a_cache_whose_positions_are_its_own(self) -> None:
        for name in ("llama", "gemma2", "phi3"):
            family = CacheFamily()
            family.load(model(folder(name, self)))
            network = family._loaded.network
            for length, budget, sinks, chunk, fixed in (
                (23, 9, 3, 7, False),
                (23, 9, 3, 20, True),
                (6, 9, 4, 4, False),
                (6, 9, 4, 4, True),
            ):
                with self.subTest(model=name, length=length, chunk=chunk, fixed=fixed):
                    ids, extra = tokens(length), tokens(7, seed=1)
                    policy = build({"variant": "published", "tokens": budget, "sinks": sinks, "chunk": chunk})
                    device = torch.device("cpu")
                    layout = Layout(
                        family._loaded.shape, (length,), torch.float32, device, family._loaded.kernel, _rotary(network), fixed=fixed
                    )
                    with torch.inference_mode():
                        decoder = CacheDecoder(Rooms(network, policy, layout, lambda *_: None))
                        got = [decoder.prefill(0, ids)]
                        decoder.reserve(7)
                        got += [decoder.step(torch.tensor([value])) for value in extra]
                    network.double()
                    wanted = [rolling_forward(network, ids + extra[:count], *policy.split(length)) for count in range(8)]
                    network.float()
                    for ours, theirs in zip(got, wanted):
                        torch.testing.assert_close(ours[0].double(), theirs, atol=2e-5, rtol=2e-4)

    def test_it_is_not_the_windowed_variant(self) -> None:
        """Queries between window and budget tell them apart: their sinks stand at true distance here."""
        family = CacheFamily()
        family.load(model(folder("llama", self)))
        logits = []
        for variant in ("published", "windowed"):
            bound = family.bind("streaming-llm", POLICY, {"variant": variant, "tokens": 12, "sinks": 6})
            with torch.inference_mode():
                decoder = CacheDecoder(Rooms(family._loaded.network, bound._policy, bound._layout([prompt(tokens(10))]), lambda *_: None))
                logits.append(decoder.prefill(0, tokens(10)))
        self.assertGreater((logits[0] - logits[1]).abs().max(), 1e-5)


@modern
class Pruned(unittest.TestCase):
    def test_kept_are_the_first_and_the_latest_as_the_model_rotated_them(self) -> None:
        family = CacheFamily()
        family.load(model(folder("llama", self)))
        for length, params, places in (
            (20, {"tokens": 7, "sinks": 3}, [0, 1, 2, 16, 17, 18, 19]),
            (20, {"keep": 0.25, "sinks": 0}, [15, 16, 17, 18, 19]),
            (3, {"tokens": 7}, [0, 1, 2]),
            (1, {"keep": 0.5}, [0]),
            (9, {"tokens": 2, "sinks": 4}, [0, 8]),
        ):
            with self.subTest(length=length, params=params):
                held = []
                for method, policy, given in (
                    ("streaming-llm", POLICY, {"variant": "pruned", **params}),
                    ("full-kv", "methods.full_kv.policy:build", {}),
                ):
                    recorder = Recorder()
                    recorder.keep = lambda holding: [tensor.clone() for tensor in holding.parts["dense"]]
                    family.bind(method, policy, given).generate([prompt(tokens(length), max_new_tokens=1)], recorder.hooks())
                    held.append(recorder.kept["a"])
                for ours, theirs in zip(*held):
                    torch.testing.assert_close(ours, theirs[:, :, places])


@modern
class Budgets(unittest.TestCase):
    def test_of_the_2024_benchmark(self) -> None:
        for length, keep, cap, expected in (
            (7500, 0.5, None, (78, 3672)),
            (7500, 0.25, None, (39, 1836)),
            (31500, 0.17, None, (112, 5243)),
            (27200, 0.125, None, (71, 3329)),
            (27200, 0.5, 7500, (78, 3672)),
            (40, 0.5, None, (0, 20)),
        ):
            with self.subTest(length=length, keep=keep):
                split = Split(keep=keep, sinks_share=0.021, cap=cap)
                self.assertEqual(split.of(length), expected)


if __name__ == "__main__":
    unittest.main()
