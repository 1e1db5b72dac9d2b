"""The host's estimate, from config.json alone, is what is held in the end."""

from __future__ import annotations

import json
import unittest
from pathlib import Path

import torch

from inside.support import CONFIGS, Recorder, estimate_of, folder, model, modern, prompt, tokens


@modern
class Estimates(unittest.TestCase):
    def test_equal_what_is_measured(self) -> None:
        from methods.kv.family import CacheFamily

        for name in CONFIGS:
            place = folder(name, self)
            config = json.loads((Path(place) / "config.json").read_text(encoding="utf-8"))
            family = CacheFamily()
            family.load(model(place))
            for method, policy, params in (
                ("full_kv", "methods.full_kv.policy:build", {}),
                ("streaming_llm", "methods.streaming_llm.policy:build", {"keep": 0.5, "sinks": 2}),
                ("streaming_llm", "methods.streaming_llm.policy:build", {"tokens": 10}),
                ("streaming_llm", "methods.streaming_llm.policy:build", {"tokens": 30}),
            ):
                if method == "streaming_llm" and name == "gemma3":
                    continue
                for length in (1, 26):
                    with self.subTest(model=name, method=method, params=params, length=length):
                        recorder = Recorder()
                        family.bind(method, policy, params).generate([prompt(tokens(length), max_new_tokens=2)], recorder.hooks())
                        self.assertEqual(estimate_of(method)(config, length, params, 4), recorder.measured["a"])


class Wide(unittest.TestCase):
    def test_half_precision_products_in_float32_round_once(self) -> None:
        from methods.kv import cpu

        torch.manual_seed(0)
        layer = torch.nn.Linear(64, 32).bfloat16()
        x = torch.randn(3, 20, 64).bfloat16()
        exact = torch.nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
        plain = layer(x[:, :1])
        network = torch.nn.Sequential(layer, torch.nn.ReLU())
        cpu.widen(network)
        self.assertIs(type(layer), cpu.WideLinear)
        torch.testing.assert_close(layer(x), exact.bfloat16(), rtol=2**-7, atol=2**-9)
        torch.testing.assert_close(layer(x[:, :1]), plain, rtol=2**-7, atol=2**-9)
        self.assertEqual((layer.weight.dtype, layer(x).dtype), (torch.bfloat16, torch.bfloat16))
        self.assertTrue(cpu.native(torch.float32))


if __name__ == "__main__":
    unittest.main()
