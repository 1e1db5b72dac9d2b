"""AdaKV: the shared budget and the ragged entries, both against loops over lists."""

from __future__ import annotations

import unittest
from dataclasses import replace

import torch

from inside.support import MODERN, Recorder, folder, model, modern, prompt, tokens

if MODERN:
    from methods.adakv.policy import adaptive, build, shares
    from methods.kv import varlen
    from methods.kv.family import CacheFamily
    from methods.kv.shape import CacheShape
    from methods.kv.storage.base import Layout, PromptLayer, part_bytes
    from methods.kv.storage.ragged import RaggedStorage

HEADS, KV_HEADS, SIZE = 4, 2, 8


def layout_of(*lengths: int, **more: object) -> Layout:
    shape = CacheShape(kv_heads=KV_HEADS, head_dim=SIZE, windows=(None,))
    return Layout(shape, lengths, torch.float32, torch.device("cpu"), "eager-blocked", None, **more)


def plain(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float, softcap: float | None) -> torch.Tensor:
    """One query, its own keys: softmax as written in a book."""
    scores = keys.double() @ query.double() * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return (scores.softmax(0) @ values.double()).float()


@modern
class Adaptive(unittest.TestCase):
    def by_hand(self, scores: list, entries: int, window: int, alpha: float) -> list:
        heads, length = len(scores), len(scores[0])
        safe = min(window, entries)
        free = entries - safe
        ranked = sorted((-scores[head][key], head, key) for head in range(heads) for key in range(length - safe))[: free * heads]
        found = [sum(one[1] == head for one in ranked) for head in range(heads)]
        exact = [alpha * free + (1 - alpha) * count for count in found]
        given = [int(value) for value in exact]
        while sum(given) < free * heads:
            given[max(range(heads), key=lambda head: (exact[head] - given[head], -head))] += 1
        kept = []
        for head in range(heads):
            order = sorted(range(length - safe), key=lambda key: -scores[head][key])[: given[head]]
            kept.append(sorted(order) + list(range(length - safe, length)))
        return kept

    def test_equals_sorting_by_hand(self) -> None:
        torch.manual_seed(2)
        for heads, length, entries, window, alpha in (
            (2, 20, 8, 3, 0.2), (4, 33, 10, 4, 0.2), (3, 15, 6, 2, 0.0), (3, 15, 6, 2, 1.0),
            (2, 9, 3, 5, 0.2), (2, 9, 9, 3, 0.2), (2, 1, 1, 4, 0.2),
        ):  # fmt: skip
            with self.subTest(heads=heads, entries=entries, alpha=alpha):
                scores = torch.rand(heads, length) * torch.arange(1, heads + 1)[:, None]  # later heads have the better ones
                mask = adaptive(scores, entries, window, alpha)
                kept = [row.nonzero().flatten().tolist() for row in mask]
                self.assertEqual(kept, self.by_hand(scores.tolist(), entries, window, alpha))
                self.assertEqual(sum(map(len, kept)), entries * heads)
                if alpha == 1.0:
                    self.assertEqual({len(row) for row in kept}, {entries})

    def test_the_safeguard_is_what_a_head_without_good_entries_is_left(self) -> None:
        scores = torch.stack((torch.rand(50) + 2, torch.rand(50)))
        for alpha, weak in ((0.0, 4), (0.2, 6), (0.5, 9)):
            self.assertEqual(adaptive(scores, 14, 4, alpha).sum(1).tolist(), [28 - weak, weak])

    def test_rounding_loses_nothing(self) -> None:
        for found in ([0, 21], [7, 7, 7], [1, 2, 18], [0, 0, 0, 20]):
            free = sum(found) // len(found)
            for alpha in (0.0, 0.1, 0.2, 1 / 3, 0.99, 1.0):
                given = shares(found, free, alpha)
                self.assertEqual(sum(given), sum(found))
                for count, got in zip(found, given):
                    self.assertLess(abs(got - (alpha * free + (1 - alpha) * count)), 1 + len(found) * alpha)

    def test_parameters_that_do_not_fit(self) -> None:
        for params, told in (
            ({}, "either keep"), ({"keep": 0.5, "kernel": 4}, "odd"), ({"keep": 0.5, "window": 0}, "window"),
            ({"keep": 0.5, "alpha": 2}, "alpha"), ({"tokens": 3, "sinks": 1}, "sinks"),
        ):  # fmt: skip
            with self.assertRaisesRegex(ValueError, told):
                build(params)


@modern
class Ragged(unittest.TestCase):
    def filled(self, layout: Layout, contexts: tuple, kept: list, follow: bool = False) -> tuple:
        """Fill rows with drawn entries; ``kept[row][head]`` are the places that stay. Returns the storage and lists of what it holds."""
        storage = RaggedStorage(layout, [sum(map(len, row)) for row in kept], lambda row, _: self.mask(contexts[row], kept[row]))
        lists = []
        for row, context in enumerate(contexts):
            keys, values = torch.randn(2, 1, KV_HEADS, context, SIZE)
            storage.fill(row, PromptLayer(0, keys, values, context))
            lists.append([[list(keys[0, head, places]), list(values[0, head, places])] for head, places in enumerate(kept[row])])
            if follow and layout.after[row]:
                new_keys, new_values = torch.randn(2, 1, KV_HEADS, 3, SIZE)
                query = torch.randn(1, HEADS, 3, SIZE)
                got = storage.append(new_keys, new_values).attend(query, 0.3, None)
                for place in range(3):
                    for head in range(HEADS):
                        held = lists[row][head // 2]
                        if head % 2 == 0:
                            held[0].append(new_keys[0, head // 2, place])
                            held[1].append(new_values[0, head // 2, place])
                        wanted = plain(query[0, head, place], torch.stack(held[0]), torch.stack(held[1]), 0.3, None)
                        torch.testing.assert_close(got[0, head, place], wanted)
            storage.end()
        return storage, lists

    def mask(self, length: int, kept: list) -> torch.Tensor:
        mask = torch.zeros(KV_HEADS, length, dtype=torch.bool)
        for head, places in enumerate(kept):
            mask[head, places] = True
        return mask

    def test_steps_equal_softmax_over_each_heads_own_list(self) -> None:
        torch.manual_seed(3)
        block = varlen.BLOCK
        cases = {
            "one token": ((1,), [[[0], [0]]]),
            "very unequal": ((200,), [[list(range(190)), [3]]]),
            "an empty head": ((9,), [[[], [1, 4, 8]]]),
            "exactly a block": ((block,), [[list(range(block)), list(range(block - 3))]]),
            "rows": ((5, 80, 12), [[[4], [1, 2, 3]], [list(range(70)), [0, 79]], [[0, 11], list(range(12))]]),
        }
        for name, (contexts, kept) in cases.items():
            for fixed in (False, True):
                for softcap in (None, 2.0):
                    with self.subTest(case=name, fixed=fixed, softcap=softcap):
                        layout = layout_of(*contexts, fixed=fixed)
                        storage, lists = self.filled(layout, contexts, kept)
                        self.assertEqual(part_bytes(storage.parts()), storage.analytic())
                        storage.reserve(5)
                        shapes = {tensor.shape for tensor in storage.parts()["dense"]}
                        if fixed:
                            room = sum(-(-(len(places) + 5) // block) * block for row in kept for places in row)
                            self.assertEqual(shapes, {(room, SIZE)})
                        for _ in range(5):
                            new_keys, new_values = torch.randn(2, len(contexts), KV_HEADS, 1, SIZE)
                            query = torch.randn(len(contexts), HEADS, 1, SIZE)
                            got = storage.append(new_keys, new_values).attend(query, 0.3, softcap)
                            for row, held in enumerate(lists):
                                for head, (keys, values) in enumerate(held):
                                    keys.append(new_keys[row, head, 0])
                                    values.append(new_values[row, head, 0])
                                    for mate in (2 * head, 2 * head + 1):
                                        wanted = plain(query[row, mate, 0], torch.stack(keys), torch.stack(values), 0.3, softcap)
                                        torch.testing.assert_close(got[row, mate, 0], wanted)
                        self.assertEqual({tensor.shape for tensor in storage.parts()["dense"]}, shapes)

    def test_what_follows_the_context_goes_behind_each_heads_entries(self) -> None:
        torch.manual_seed(4)
        contexts, kept = (12, 7), [[[0, 5, 11], [10]], [[], [2, 3]]]
        storage, lists = self.filled(layout_of(15, 10, after=(3, 3)), contexts, kept, follow=True)
        self.assertEqual(part_bytes(storage.parts()), storage.analytic())
        self.assertEqual([storage.held(0), storage.held(1)], [5.0, 4.0])
        storage.reserve(1)
        new, query = torch.randn(2, 2, KV_HEADS, 1, SIZE), torch.randn(2, HEADS, 1, SIZE)
        got = storage.append(*new).attend(query, 0.3, None)
        for row, held in enumerate(lists):
            for head in range(HEADS):
                keys, values = (torch.stack([*held[head // 2][part], new[part][row, head // 2, 0]]) for part in (0, 1))
                torch.testing.assert_close(got[row, head, 0], plain(query[row, head, 0], keys, values, 0.3, None))

    def test_a_choice_that_is_not_what_was_claimed(self) -> None:
        storage = RaggedStorage(layout_of(4), [3], lambda *_: torch.ones(KV_HEADS, 4, dtype=torch.bool))
        with self.assertRaisesRegex(ValueError, "keeps 8 entries over its KV heads; its storage was made for 3"):
            storage.fill(0, PromptLayer(0, *torch.randn(2, 1, KV_HEADS, 4, SIZE), 4))

    def test_heads_of_a_model_hold_different_numbers(self) -> None:
        family = CacheFamily()
        family.load(model(folder("llama", self)))
        bound = family.bind("adakv", "methods.adakv.policy:build", {"tokens": 16, "window": 2, "alpha": 0.1})
        lengths: list = []
        recorder = Recorder()
        recorder.keep = lambda holding: lengths.extend(storage._lengths.clone() for storage in holding.roots[0])
        bound.generate([replace(prompt(tokens(60)), max_new_tokens=1)], recorder.hooks())
        self.assertEqual({int(one.sum()) for one in lengths}, {16 * KV_HEADS})
        self.assertTrue(any(len(set(one.flatten().tolist())) > 1 for one in lengths), "all heads hold the same")


if __name__ == "__main__":
    unittest.main()
