"""Loading: RoPE overrides, shapes, text."""

from __future__ import annotations

import json
import unittest

import torch
import transformers
from methods.kv import text, weights
from methods.kv.shape import CacheShape, shape_of

from inside.support import MODERN, folder, model, modern, scratch


def frequencies(network: object) -> torch.Tensor:
    """Inverse frequencies of a Llama in either transformers."""
    holder = network.model.rotary_emb if MODERN else network.model.layers[0].self_attn.rotary_emb
    return holder.inv_freq


class Rope(unittest.TestCase):
    def load(self, rope: dict | None) -> object:
        return weights.load(model(folder("llama", self), rope=rope), "sdpa")

    def test_theta(self) -> None:
        expected = 1.0 / (5000.0 ** (torch.arange(0, 8, 2) / 8))
        torch.testing.assert_close(frequencies(self.load({"rope_theta": 5000.0})).cpu(), expected)
        self.assertFalse(torch.allclose(frequencies(self.load(None)), expected))

    def test_linear_scaling(self) -> None:
        for rope in ({"rope_type": "linear", "factor": 8.0}, {"rope_scaling": {"type": "linear", "factor": 8.0}}):
            network = self.load(rope)
            if MODERN:
                torch.testing.assert_close(frequencies(network) * 8, frequencies(self.load(None)))
            else:
                self.assertEqual(network.model.layers[0].self_attn.rotary_emb.scaling_factor, 8.0)

    def test_unknown_setting(self) -> None:
        with self.assertRaisesRegex(ValueError, "thetta"):
            self.load({"thetta": 1.0})

    @unittest.skipIf(MODERN, "transformers 5 knows yarn")
    def test_what_an_old_version_cannot_do(self) -> None:
        with self.assertRaisesRegex(ValueError, "rope_type and factor"):
            self.load({"rope_type": "yarn", "factor": 2.0, "beta_fast": 1.0})


class Files(unittest.TestCase):
    def test_weights_from_files_equal_those_saved(self) -> None:
        drawn = weights.load(model(folder("llama", self)), "sdpa")
        place = scratch(self)
        drawn.save_pretrained(place)
        loaded = weights.load(model(str(place), weights="files", dtype="bfloat16"), "sdpa")
        for name, value in loaded.named_parameters():
            self.assertEqual(value.dtype, torch.bfloat16)
            torch.testing.assert_close(value, drawn.get_parameter(name).bfloat16(), atol=0, rtol=0)
        self.assertFalse(any(value.requires_grad for value in loaded.parameters()))


class Shapes(unittest.TestCase):
    def test_windows(self) -> None:
        config = transformers.MistralConfig(
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_size=32, sliding_window=7
        )
        self.assertEqual(shape_of(config), CacheShape(2, 8, (7, 7), "mistral", 4))
        config = transformers.Qwen2Config(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, hidden_size=32)
        self.assertEqual(shape_of(config), CacheShape(4, 8, (None, None), "qwen2", 4))

    @modern
    def test_layers_without_keys(self) -> None:
        config = transformers.LlamaConfig()
        config.layer_types = ["linear_attention", "full_attention"]
        with self.assertRaisesRegex(ValueError, "linear_attention"):
            shape_of(config)

    def test_native_bytes(self) -> None:
        self.assertEqual(CacheShape(2, 8, (None, 5)).native_bytes(10, 2), (10 + 4) * 32 * 2)
        self.assertEqual(CacheShape(3, 64, (None,) * 30).native_bytes(1195, 2), 27_532_800)


class Text(unittest.TestCase):
    def test_without_a_tokenizer_ids_are_digits(self) -> None:
        self.assertEqual(text.decoder_of(str(scratch(self)), False)([5, 17]), "5 17")

    def test_special_tokens_are_left_out_and_spaces_left_alone(self) -> None:
        place = scratch(self)
        plain = ("single_word", "lstrip", "rstrip", "normalized")
        vocabulary = {"Ġyes": 0, "Ġ!": 1, "<end>": 2}
        (place / "tokenizer.json").write_text(json.dumps({
            "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
            "added_tokens": [{"id": 2, "content": "<end>", "special": True, **dict.fromkeys(plain, False)}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary, "merges": []},
        }))  # fmt: skip
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
        (place / "tokenizer_config.json").write_text(json.dumps(settings))
        self.assertEqual(text.decoder_of(str(place), False)([0, 1, 2]), " yes !")


if __name__ == "__main__":
    unittest.main()
