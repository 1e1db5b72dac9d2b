"""The seam refuses what it would answer wrongly."""

from __future__ import annotations

import unittest

import torch

from inside.support import MODERN, folder, model, modern

if MODERN:
    from methods.kv import seam
    from methods.kv.cache import StorageCache
    from methods.kv.family import CacheFamily
    from methods.kv.storage.base import Layout
    from methods.kv.storage.dense import DenseStorage


@modern
class Seam(unittest.TestCase):
    def setUp(self) -> None:
        self.family = CacheFamily()
        self.family.load(model(folder("mistral", self)))
        self.network = self.family._loaded.network

    def cache(self) -> StorageCache:
        layout = Layout(self.family._loaded.shape, (4,), torch.float32, torch.device("cpu"), self.family._loaded.kernel, None)
        storages = [DenseStorage(layout) for _ in range(3)]
        for storage in storages:
            storage.begin(0)
        return StorageCache(storages)

    def test_a_model_without_our_cache(self) -> None:
        with self.assertRaisesRegex(TypeError, "past_key_values"):
            self.network(torch.tensor([[1, 2]]), use_cache=False)

    def test_a_cache_made_for_another_window(self) -> None:
        with self.assertRaisesRegex(ValueError, "within 12 tokens, its cache was made for None"):
            self.network(torch.tensor([[1, 2]]), past_key_values=self.cache())

    def test_a_padding_mask(self) -> None:
        with self.assertRaisesRegex(ValueError, "padding mask"):
            self.network(torch.tensor([[1, 2]]), attention_mask=torch.tensor([[0, 1]]), past_key_values=self.cache())

    def test_attention_of_another_kind(self) -> None:
        view = type("View", (), {"attend": None, "window": None})()
        with self.assertRaisesRegex(ValueError, "s_aux"):
            seam.attention(torch.nn.Identity(), torch.zeros(1, 1, 1, 2), view, view, None, s_aux=torch.zeros(1))

    def test_length_is_the_logical_one(self) -> None:
        from methods.kv.storage.window import Window, WindowStorage

        layout = Layout(self.family._loaded.shape, (9,), torch.float32, torch.device("cpu"), self.family._loaded.kernel, None)
        storage = WindowStorage(layout, Window(local=3, kept=3))
        storage.begin(0)
        storage.append(torch.zeros(1, 2, 9, 8), torch.zeros(1, 2, 9, 8))
        storage.end()
        self.assertEqual((StorageCache([storage]).get_seq_length(), storage.held(0)), (9, 3))


if __name__ == "__main__":
    unittest.main()
