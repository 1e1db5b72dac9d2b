"""H2O and TOVA, layer by layer, against loops over whole attention matrices: what is kept, what takes whose place, what is answered."""

from __future__ import annotations

import unittest

import torch

from inside.support import MODERN, modern

if MODERN:
    from methods.h2o.policy import build as h2o
    from methods.kv import attention
    from methods.kv.observe import Attended
    from methods.kv.shape import CacheShape
    from methods.kv.storage.base import Layout, PromptLayer
    from methods.tova.policy import build as tova

HEADS, KV_HEADS, SIZE, STEPS = 4, 2, 8, 16
SCALING = SIZE**-0.5


class Layer:
    """One layer of one request: random queries, keys and values of a prompt and of the steps behind it."""

    def __init__(self, length: int, softcap: float | None = None, model_type: str = "llama") -> None:
        torch.manual_seed(length)
        self.length, self.softcap = length, softcap
        self.query = torch.randn(1, HEADS, length + STEPS, SIZE) * 1.5
        self.keys, self.values = torch.randn(2, 1, KV_HEADS, length + STEPS, SIZE)
        self.keys[..., 0, :] *= 1.5
        shape = CacheShape(KV_HEADS, SIZE, (None,), model_type=model_type, heads=HEADS)
        self.layout = Layout(shape, (length,), torch.float32, torch.device("cpu"), attention.BLOCKED, None)

    def run(self, policy: object, chunk: int = 1000) -> tuple:
        """Read the prompt as the library does and take the steps; return the storage, what was kept of the prompt, and the outputs."""
        observers = policy.observers(self.layout, 0)
        for first in range(0, self.length, chunk):
            last = min(self.length, first + chunk)
            query, keys, values = self.query[:, :, first:last], self.keys[:, :, :last], self.values[:, :, :last]
            _, lse = attention.causal(attention.BLOCKED, query, keys, values, scaling=SCALING, softcap=self.softcap)
            for observer in observers:
                observer.attended(Attended(query, keys, values, lse, first, SCALING, self.softcap, None))
        storage = policy.storages(self.layout)[0]
        keys, values = self.keys[:, :, : self.length], self.values[:, :, : self.length]
        storage.fill(0, PromptLayer(0, keys, values, self.length, observers[0] if observers else None))
        storage.end()
        assert sum(item.nbytes for items in storage.parts().values() for item in items) == storage.analytic()
        kept = held(storage)
        storage.reserve(STEPS)
        outs = []
        for place in range(self.length, self.length + STEPS):
            view = storage.append(self.keys[:, :, place : place + 1], self.values[:, :, place : place + 1])
            outs.append(view.attend(self.query[:, :, place : place + 1], SCALING, self.softcap)[0, :, 0])
        return storage, kept, torch.stack(outs)

    def weights(self, head: int, place: int, seen: list) -> torch.Tensor:
        """Attention of one query head's query at a place to the positions seen, in float64."""
        keys = self.keys[0, head // (HEADS // KV_HEADS)].double()
        scores = keys[seen] @ self.query[0, head, place].double() * SCALING
        return (self.softcap * torch.tanh(scores / self.softcap) if self.softcap else scores).softmax(0)

    def out(self, head: int, place: int, seen: list) -> torch.Tensor:
        """What that query reads."""
        values = self.values[0, head // (HEADS // KV_HEADS)].double()
        return self.weights(head, place, seen) @ values[seen]


def held(storage: object) -> list:
    """Positions that a slotted layer holds, by KV head."""
    slots = getattr(storage, "inner", None)
    return [] if slots is None else [sorted(x for x in row if x >= 0) for row in slots._positions[0].tolist()]


def group(kv_head: int) -> range:
    """Query heads of a KV head."""
    return range(kv_head * (HEADS // KV_HEADS), (kv_head + 1) * (HEADS // KV_HEADS))


def slow_h2o(layer: Layer, entries: int, capacity: int, share: float) -> tuple:
    """Return, by KV head, what is kept of the prompt, and the outputs of the steps; ``share`` of the entries are the latest."""

    def best(scores: dict, count: int) -> list:
        latest = max(1, count - int((1 - share) * count))
        order = sorted(scores)
        rest = sorted(order[: len(order) - latest], key=lambda place: (scores[place], place), reverse=True)
        return sorted(rest[: count - latest] + order[len(order) - latest :])

    kept, outs = [], torch.zeros(STEPS, HEADS, SIZE, dtype=torch.float64)
    for kv_head in range(KV_HEADS):
        scores = dict.fromkeys(range(layer.length), 0.0)
        for place in range(layer.length):
            for head in group(kv_head):
                for other, weight in enumerate(layer.weights(head, place, list(range(place + 1))).tolist()):
                    scores[other] += weight
        scores = {place: scores[place] for place in best(scores, entries)}
        kept.append(sorted(scores))
        for step in range(STEPS):
            place = layer.length + step
            if len(scores) > capacity:
                scores = {other: scores[other] for other in best(scores, capacity)}
            scores[place] = 0.0
            seen = sorted(scores)
            for head in group(kv_head):
                outs[step, head] = layer.out(head, place, seen)
                for other, weight in zip(seen, layer.weights(head, place, seen).tolist()):
                    scores[other] += weight
    return kept, outs


def slow_tova(layer: Layer, entries: int, capacity: int) -> tuple:
    """Return what is kept of the prompt, the same for all heads, and the outputs."""

    def drop(seen: list, place: int, count: int) -> list:
        weights = sum(layer.weights(head, place, seen) for head in range(HEADS))
        order = sorted(range(len(seen)), key=lambda number: (float(weights[number]), seen[number]), reverse=True)
        return sorted(seen[number] for number in order[:count])

    kept = seen = drop(list(range(layer.length)), layer.length - 1, entries)
    outs = torch.zeros(STEPS, HEADS, SIZE, dtype=torch.float64)
    for step in range(STEPS):
        place = layer.length + step
        if len(seen) > capacity:
            seen = drop(seen, place - 1, capacity)
        seen = [*seen, place]
        for head in range(HEADS):
            outs[step, head] = layer.out(head, place, seen)
    return [kept] * KV_HEADS, outs


def slow_bench(layer: Layer, ratio: float, late: bool) -> torch.Tensor:
    """Follow the benchmark's code: of each query head a row of scores and the next step's mask, growing by a column a step."""
    outs = torch.zeros(STEPS, HEADS, SIZE, dtype=torch.float64)
    for head in range(HEADS):
        mask, before, heavy, recent = [1] * (layer.length + 1), None, None, None
        for step in range(STEPS):
            place = layer.length + step
            seen = [column for column in range(place + 1) if mask[column]]
            outs[step, head] = layer.out(head, place, seen)
            if step == 0 and late:
                mask.append(1)
                continue
            current = [0.0] * (place + 1)
            for column, weight in zip(seen, layer.weights(head, place, seen).tolist()):
                current[column] = weight
            if before is None:
                heavy = recent = int(ratio * len(current))
            else:
                current = [now + then for now, then in zip(current, [*before, 0.0])]
            count = len(current)
            mask = [0] * (count + 1)
            chosen = current[: count - recent] if recent else current
            for column in sorted(range(len(chosen)), key=lambda column: chosen[column], reverse=True)[:heavy]:
                mask[column] = 1
            if recent:
                mask[count + 1 - recent :] = [1] * recent
            # the mask of the scores is a view of the other without its newest column
            mask[count - recent if recent else 0 : count] = [1] * (recent or count)
            before = [score * seen_next for score, seen_next in zip(current, mask)]
    return outs


@modern
class Slotted(unittest.TestCase):
    def near(self, found: torch.Tensor, expected: torch.Tensor) -> None:
        torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-4)

    def test_h2o(self) -> None:
        cases = (
            (1, {"keep": 0.5}), (2, {"keep": 0.5}), (7, {"keep": 0.5}), (31, {"keep": 0.3}), (24, {"keep": 0.5, "recent": 0.25}),
            (5, {"tokens": 8}), (8, {"tokens": 8}), (20, {"tokens": 8}), (13, {"tokens": 1}), (16, {"tokens": 6, "recent": 1.0}),
        )  # fmt: skip
        for length, params in cases:
            for softcap in (None, 2.0) if length == 7 else (None,):
                with self.subTest(length=length, params=params, softcap=softcap):
                    layer = Layer(length, softcap)
                    entries = min(length, params.get("tokens") or max(1, int(params["keep"] * length)))
                    capacity = max(entries, params.get("tokens", 0))
                    expected, outs = slow_h2o(layer, entries, capacity, params.get("recent", 0.5))
                    for chunk in (1000, 6):
                        storage, kept, found = layer.run(h2o(params), chunk)
                        self.assertEqual(kept, expected)
                        self.near(found, outs)
                        self.assertLessEqual(storage.inner._keys.shape[2], capacity + 1)

    def test_tova(self) -> None:
        for length, params in ((1, {"keep": 0.5}), (7, {"keep": 0.5}), (31, {"keep": 0.3}), (5, {"tokens": 8}), (20, {"tokens": 8})):
            for softcap in (None, 2.0) if length == 7 else (None,):
                with self.subTest(length=length, params=params, softcap=softcap):
                    layer = Layer(length, softcap)
                    entries = min(length, params.get("tokens") or max(1, int(params["keep"] * length)))
                    capacity = max(entries, params.get("tokens", 0))
                    expected, outs = slow_tova(layer, entries, capacity)
                    for chunk in (1000, 6):
                        _, kept, found = layer.run(tova(params), chunk)
                        self.assertEqual(kept, expected)
                        self.near(found, outs)

    def test_h2o_as_the_2024_benchmark_ran_it(self) -> None:
        for length in (1, 3, 10, 40):
            for ratio in (0.25, 0.083, 0.5):
                for model_type in ("llama", "mistral"):
                    with self.subTest(length=length, ratio=ratio, model=model_type):
                        layer = Layer(length, model_type=model_type)
                        storage, _, found = layer.run(h2o({"variant": "bench2024", "ratio": ratio}))
                        self.near(found, slow_bench(layer, ratio, model_type == "mistral"))
                        self.assertEqual(storage.analytic(), 2 * KV_HEADS * SIZE * length * 4, "it saves nothing")

    def test_the_benchmark_shows_one_more_than_its_budget(self) -> None:
        layer = Layer(40)
        storage, _, _ = layer.run(h2o({"variant": "bench2024", "ratio": 0.25}))
        shown = storage.visible[0, :, : 40 + STEPS].sum(-1).tolist()  # of the next step, less its own token, which has no column
        self.assertEqual(shown, [10 + 10] * HEADS)

    def test_parameters(self) -> None:
        for params, message in (
            ({}, "either keep"),
            ({"keep": 0.5, "tokens": 3}, "either keep"),
            ({"keep": 0.5, "recent": 1.5}, "recent is a share"),
            ({"keep": 0.5, "ratio": 0.1}, "does not take ratio"),
            ({"variant": "bench2024"}, "needs ratio"),
            ({"variant": "bench2024", "ratio": 0.1, "keep": 0.5}, "does not take keep"),
            ({"variant": "other", "keep": 0.5}, "not one of published, bench2024"),
            ({"heavy": 3}, "does not know heavy"),
        ):
            with self.subTest(params=params), self.assertRaisesRegex(ValueError, message):
                h2o(params)
        with self.assertRaisesRegex(ValueError, "tova does not know recent"):
            tova({"keep": 0.5, "recent": 0.5})


if __name__ == "__main__":
    unittest.main()
