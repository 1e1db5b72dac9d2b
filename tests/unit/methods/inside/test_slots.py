"""Slots that new tokens overwrite, against a slow cache of Python lists."""

from __future__ import annotations

import unittest

import torch

from inside.support import MODERN, Recorder, folder, model, modern, prompt, tokens

if MODERN:
    from methods.knorm.policy import Knorm
    from methods.kv.budget import Budget
    from methods.kv.evicting import Evicting
    from methods.kv.family import CacheBound, CacheFamily
    from methods.kv.storage.base import Layout, PromptLayer
    from methods.kv.storage.slots import Slots, SlotStorage


class Accumulated:
    """H2O's kind of rule: the sum of all attention so far; the last two tokens are safe."""

    def renew(self, slots: Slots, weights: torch.Tensor) -> None:
        slots.scores.add_(weights.sum((2, 3)))

    def worth(self, slots: Slots) -> torch.Tensor:
        return slots.scores.masked_fill(slots.positions > slots.now - 2, float("inf"))


class Latest:
    """TOVA's kind of rule: only the latest query's attention, the same for all heads."""

    def renew(self, slots: Slots, weights: torch.Tensor) -> None:
        slots.scores.copy_(weights[:, :, :, -1].mean((1, 2)).unsqueeze(1).expand_as(slots.scores))

    def worth(self, slots: Slots) -> torch.Tensor:
        return slots.scores


def slow(rule: str, entries: list, scores: list, steps: list, limit: int, last: int) -> tuple:
    """One row, one KV head, one query head. ``entries`` are [key, value, position]; returns outputs and the positions that remain."""
    outs, held = [], [[*entry, score] for entry, score in zip(entries, scores)]
    for key, value, query in steps:
        last += 1
        if len(held) > limit:
            candidates = [item for item in held if rule != "sum" or item[2] <= last - 1 - 2]
            worst = min(candidates, key=lambda item: item[3])[2]
            held = [item for item in held if item[2] != worst]
        held.append([key, value, last, 0.0])
        weights = (torch.stack([item[0] for item in held]) @ query).softmax(0)
        outs.append(weights @ torch.stack([item[1] for item in held]))
        for item, weight in zip(held, weights.tolist()):
            item[3] = item[3] + weight if rule == "sum" else weight
    return torch.stack(outs), {item[2] for item in held}


@modern
class Overwriting(unittest.TestCase):
    def test_equals_lists_of_entries(self) -> None:
        torch.manual_seed(0)
        for name, rule in (("sum", Accumulated()), ("last", Latest())):
            for entries, limit in ((6, None), (4, 7), (3, 3)):
                with self.subTest(rule=name, entries=entries, limit=limit):
                    shape = type("Shape", (), {"kv_heads": 1, "head_dim": 4, "token_elements": 8})()
                    layout = Layout(shape, (entries,), torch.float32, torch.device("cpu"), "", None)
                    storage = SlotStorage(layout, (entries,), rule, limit)
                    keys, values = torch.randn(2, 1, 1, entries, 4)
                    scores = torch.rand(1, 1, entries)
                    storage.fill(0, PromptLayer(0, keys, values, entries, scores=scores))
                    storage.end()
                    self.assertEqual(sum(x.nbytes for items in storage.parts().values() for x in items), storage.analytic())
                    storage.reserve(12)
                    drawn = torch.randn(12, 3, 4)
                    outs = []
                    for key, value, query in drawn:
                        view = storage.append(key[None, None, None], value[None, None, None])
                        outs.append(view.attend(query[None, None, None], 1.0, None)[0, 0, 0])
                    listed = [[keys[0, 0, i], values[0, 0, i], i] for i in range(entries)]
                    expected, left = slow(name, listed, scores[0, 0].tolist(), list(drawn), limit or entries, entries - 1)
                    torch.testing.assert_close(torch.stack(outs), expected)
                    self.assertEqual({x for x in storage._positions.flatten().tolist() if x >= 0}, left)

    def test_rows_do_not_see_each_other_and_memory_stays(self) -> None:
        for name in ("llama", "gemma2", "qwen3"):
            family = CacheFamily()
            family.load(model(folder(name, self)))
            for limit in (None, 12):
                with self.subTest(model=name, limit=limit):
                    policy = Evicting(Knorm(), Budget(None, 8), holder=lambda a, b, limit=limit: SlotStorage(a, b, Accumulated(), limit))
                    bound = CacheBound(family._loaded, policy)
                    batch = [prompt(tokens(size, seed=size), name=str(size)) for size in (5, 26, 13)]
                    recorder = Recorder()
                    together = [item.text for item in bound.generate(batch, recorder.hooks())]
                    self.assertEqual(together, [bound.generate([item], Recorder().hooks())[0].text for item in batch])
                    asked = [prompt(item.ids, name=item.id, unseen_from=4) for item in batch]
                    together = [item.text for item in bound.generate(asked, recorder.hooks())]
                    self.assertEqual(together, [bound.generate([item], Recorder().hooks())[0].text for item in asked])

    def test_with_room_for_all_it_is_full_attention(self) -> None:
        family = CacheFamily()
        family.load(model(folder("llama", self)))
        policy = Evicting(Knorm(), Budget(1.0, None), holder=lambda a, b: SlotStorage(a, b, Latest(), 100))
        full = family.bind("full-kv", "methods.full_kv.policy:build", {})
        batch = [prompt(tokens(21))]
        self.assertEqual(CacheBound(family._loaded, policy).generate(batch, Recorder().hooks())[0].text,
                         full.generate(batch, Recorder().hooks())[0].text)  # fmt: skip


if __name__ == "__main__":
    unittest.main()
