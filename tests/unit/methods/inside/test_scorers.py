"""What SnapKV, PyramidKV, KeyDiff and ExpectedAttention keep, against loops over tokens and against the models' own eager attention."""

from __future__ import annotations

import math
import unittest
from types import SimpleNamespace

import torch

from inside.support import MODERN, Recorder, estimate_of, folder, model, modern, prompt, tokens

if MODERN:
    from methods.expected_attention.policy import Distribution
    from methods.expected_attention.policy import build as expected_attention
    from methods.keydiff.policy import build as keydiff
    from methods.kv import attention
    from methods.kv.evicting import select
    from methods.kv.family import CacheFamily
    from methods.kv.observe import Attended
    from methods.kv.prefill import Reader
    from methods.kv.rotary import Rotary
    from methods.kv.storage.base import PromptLayer
    from methods.kv.votes import LastQueries
    from methods.pyramidkv.policy import Pyramid
    from methods.pyramidkv.policy import build as pyramidkv
    from methods.snapkv.policy import build as snapkv


def slow_votes(weights: torch.Tensor, kv_heads: int, window: int, kernel: int, pooling: str) -> torch.Tensor:
    """Score (kv_heads, m) from all attention weights (heads, n, n), token by token."""
    heads, length, _ = weights.shape
    older = max(0, length - window)
    scores = torch.full((kv_heads, length), math.inf)
    for kv_head in range(kv_heads):
        group = range(kv_head * heads // kv_heads, (kv_head + 1) * heads // kv_heads)
        for place in range(older):
            near = [other for other in range(place - kernel // 2, place + kernel // 2 + 1) if 0 <= other < older]
            total = 0.0
            for head in group:
                votes = [float(weights[head, older:, other].mean()) for other in near]
                total += max(votes) if pooling == "max" else sum(votes) / kernel
            scores[kv_head, place] = total / len(group)
    return scores


def kept_by_hand(scores: torch.Tensor, entries: int) -> list:
    """Return the places of the highest scores of each head; of equal ones the later."""
    return [sorted(sorted(range(len(row)), key=lambda place: (float(row[place]), place))[-entries:]) for row in scores]


@modern
class Votes(unittest.TestCase):
    def test_equal_loops_over_tokens_whatever_the_chunks(self) -> None:
        torch.manual_seed(0)
        for length in (1, 5, 6, 7, 23):
            query, keys, values = torch.randn(1, 4, length, 8), torch.randn(1, 2, length, 8), torch.randn(1, 2, length, 8)
            hidden = torch.ones(length, length).triu(1).bool()
            raw = (query[0].double() @ keys[0].repeat_interleave(2, 0).double().transpose(1, 2) * 0.5).masked_fill(hidden, -math.inf)
            for pooling, kernel in (("max", 3), ("mean", 5), ("mean", 1)):
                policy = snapkv({"tokens": 9, "window": 6, "kernel": kernel, "pooling": pooling})
                expected = slow_votes(raw.softmax(-1), 2, 6, kernel, pooling)
                for chunk in (1, 4, length):
                    with self.subTest(length=length, pooling=pooling, kernel=kernel, chunk=chunk):
                        observer = policy.scorer.observer(None, 0, 0)
                        for first in range(0, length, chunk):
                            last = min(length, first + chunk)
                            seen = keys[:, :, :last], values[:, :, :last]
                            _, lse = attention.causal(attention.BLOCKED, query[:, :, first:last], *seen, scaling=0.5)
                            observer.attended(Attended(query[:, :, first:last], *seen, lse, first, 0.5, None, None))
                        scores = policy.scorer.scores(PromptLayer(0, keys, values, length, observer))
                        torch.testing.assert_close(scores[0], expected, atol=1e-6, rtol=1e-5)
                        entries = policy.budget.entries(length)
                        if kernel == 1:  # no ties by pooling
                            self.assertEqual(select(scores, entries)[0].tolist(), kept_by_hand(expected, entries))

    def test_hold_the_last_queries_only(self) -> None:
        observer = LastQueries(3)
        for first in range(0, 40, 8):
            query, keys = torch.randn(1, 4, 8, 8), torch.randn(1, 2, first + 8, 8)
            observer.attended(Attended(query, keys, keys, torch.zeros(1, 4, 8), first, 1.0, None, None))
        held = observer._held
        self.assertEqual((held.first, held.query.shape[2], held.keys.numel()), (37, 3, 0))
        self.assertEqual(held.query.untyped_storage().nbytes(), 4 * 3 * 8 * 4)

    def test_refuse_what_makes_no_sense(self) -> None:
        for build, params, said in (
            (snapkv, {"keep": 0.5, "kernel": 4}, "snapkv: .*odd"),
            (snapkv, {"keep": 0.5, "window": 0}, "at least 1"),
            (snapkv, {"keep": 0.5, "pooling": "sum"}, "max, mean"),
            (snapkv, {"keep": 0.5, "beta": 2}, "does not know beta"),
            (pyramidkv, {"keep": 0.5, "beta": 0.5}, "beta is at least 1"),
            (keydiff, {}, "keep .* or tokens"),
            (expected_attention, {"keep": 0.5, "future": 0}, "future is at least 1"),
        ):
            with self.subTest(params=params), self.assertRaisesRegex(ValueError, said):
                build(params)


@modern
class Budgets(unittest.TestCase):
    def test_a_pyramid_falls_in_equal_steps_and_holds_what_a_flat_one_would(self) -> None:
        for tokens_, wanted, window, beta, layers in (
            (1000, 200, 8, 20.0, 32), (1000, 700, 8, 20.0, 32), (50, 9, 3, 4.0, 5), (50, 50, 8, 20.0, 6), (50, 4, 8, 20.0, 6),
            (9, 5, 2, 1.0, 1),
        ):  # fmt: skip
            with self.subTest(tokens=tokens_, wanted=wanted, layers=layers):
                budget = pyramidkv({"tokens": wanted}).budget
                shares = [Pyramid(window, beta)(budget, tokens_, layer, layers) for layer in range(layers)]
                self.assertEqual(sum(shares), layers * wanted)
                self.assertEqual(shares, sorted(shares, reverse=True))
                self.assertTrue(all(min(window, wanted) <= share <= tokens_ for share in shares))
                steps = [one - other for one, other in zip(shares, shares[1:])]
                self.assertLessEqual(max(steps, default=0) - min(steps, default=0), 1)
        self.assertEqual(Pyramid(8, 20.0)(pyramidkv({"tokens": 208}).budget, 9999, 31, 32), 8 + 10)

    def test_packed_layers_of_different_lengths_hold_what_is_estimated(self) -> None:
        family = CacheFamily()
        family.load(model(folder("llama", self)))
        params = {"tokens": 12, "window": 3, "beta": 4.0, "bits": 2, "group": 4, "residual": 8}
        bound = family.bind("pyramidkv", "methods.pyramidkv.policy:build", params)
        for length in (1, 12, 40):
            recorder = Recorder()
            bound.generate([prompt(tokens(length), max_new_tokens=3)], recorder.hooks())
            holding = recorder.holdings["a"]
            self.assertEqual(estimate_of("pyramidkv")(family.describe()["config"], length, params, 4), holding.analytic)
            self.assertEqual(recorder.measured["a"], holding.analytic)
            self.assertEqual(holding.held, min(12, length))

    def test_only_evicted_layers_count(self) -> None:
        family = CacheFamily()
        family.load(model(folder("gemma2", self)))  # three layers, the second alone has full attention
        policy = pyramidkv({"tokens": 10, "window": 2})
        layout = family.bind("pyramidkv", "methods.pyramidkv.policy:build", {"tokens": 10})._layout([prompt(tokens(30))])
        self.assertEqual(policy.entries(layout, 1, 0), 10)


@modern
class KeyDirections(unittest.TestCase):
    def test_equal_loops_over_tokens(self) -> None:
        torch.manual_seed(1)
        for length in (1, 2, 17):
            keys = torch.randn(1, 2, length, 8) + 1
            policy = keydiff({"tokens": 5})
            expected = torch.zeros(2, length)
            for head in range(2):
                rows = [row / row.norm() for row in keys[0, head].double()]
                anchor = sum(rows) / length
                for place, row in enumerate(rows):
                    expected[head, place] = -float(row @ anchor / anchor.norm())
            scores = policy.scorer.scores(PromptLayer(0, keys, keys, length))
            torch.testing.assert_close(scores[0], expected, atol=1e-6, rtol=1e-5)
            entries = policy.budget.entries(length)
            self.assertEqual(select(scores, entries)[0].tolist(), kept_by_hand(expected, entries))


def turned(row: torch.Tensor, position: int, frequencies: torch.Tensor) -> torch.Tensor:
    """Rotate one vector."""
    half = len(row) // 2
    angle = position * frequencies
    first, second = row[:half], row[half:]
    return torch.cat((first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()))


def slow_expected(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rotation: torch.Tensor, options: dict) -> torch.Tensor:
    """Score (kv_heads, m) from queries before rotation (heads, n, d) and the mean rotation as a matrix, in float64, key by key."""
    kv_heads, length = keys.shape[:2]
    group = queries.shape[0] // kv_heads
    sinks, epsilon = options["sinks"], options["epsilon"]
    scores = torch.full((kv_heads, length), math.inf)
    if length <= sinks:
        return scores
    for kv_head in range(kv_heads):
        shares = torch.zeros(length - sinks, dtype=torch.float64)
        for head in range(kv_head * group, (kv_head + 1) * group):
            seen = queries[head, sinks:].double()
            mean = seen.mean(0)
            covariance = sum(torch.outer(row - mean, row - mean) for row in seen) / len(seen)
            mean, covariance = rotation @ mean, rotation @ covariance @ rotation.T
            logits = []
            for key in keys[kv_head, sinks:].double() * options["scaling"]:
                logits.append(mean @ key + (key @ covariance @ key / 2 if options["covariance"] else 0))
            shares += torch.stack(logits).softmax(0) / group
        scores[kv_head, sinks:] = ((shares + epsilon) * values[kv_head, sinks:].double().norm(dim=-1)).float()
    return scores


@modern
class Expectations(unittest.TestCase):
    def test_equal_loops_over_tokens_whatever_the_chunks(self) -> None:
        torch.manual_seed(2)
        frequencies = torch.tensor([1.0, 0.3, 0.05, 0.01], dtype=torch.float64)
        module = SimpleNamespace(
            head_dim=8, config=SimpleNamespace(num_attention_heads=4), q_proj=torch.nn.Linear(16, 32).requires_grad_(False)
        )
        for length in (1, 3, 4, 21):
            states, keys, values = torch.randn(1, length, 16), torch.randn(1, 2, length, 8), torch.randn(1, 2, length, 8)
            queries = module.q_proj(states)[0].unflatten(-1, (4, 8)).transpose(0, 1)
            columns = torch.eye(8, dtype=torch.float64)
            rotation = torch.stack(
                [sum(turned(column, length + ahead, frequencies) for ahead in range(6)) / 6 for column in columns], dim=1
            )
            for covariance, epsilon in ((True, 0.0), (False, 0.1)):
                policy = expected_attention({"tokens": 9, "sinks": 3, "future": 6, "covariance": covariance, "epsilon": epsilon})
                options = {"sinks": 3, "epsilon": epsilon, "scaling": 0.4, "covariance": covariance}
                expected = slow_expected(queries, keys[0], values[0], rotation, options)
                for chunk in (1, 4, length):
                    with self.subTest(length=length, covariance=covariance, chunk=chunk):
                        observer = Distribution(3, Rotary(frequencies))
                        for first in range(0, length, chunk):
                            last = min(length, first + chunk)
                            observer.hidden(module, states[:, first:last], first)
                            nothing = torch.zeros(1, 2, 0, 8)
                            observer.attended(Attended(nothing, nothing, nothing, nothing, first, 0.4, None, None))
                        scores = policy.scorer.scores(PromptLayer(0, keys, values, length, observer))
                        torch.testing.assert_close(scores[0], expected, atol=1e-6, rtol=1e-4)
                        entries = policy.budget.entries(length)
                        self.assertEqual(select(scores, entries)[0].tolist(), kept_by_hand(expected, entries))

    def test_the_closed_form_is_what_drawn_queries_pay_on_average(self) -> None:
        torch.manual_seed(3)
        root, mean, keys = torch.randn(4, 4).double() * 0.5, torch.randn(4).double(), torch.randn(6, 4).double() * 0.5
        drawn = mean + torch.randn(400_000, 4).double() @ root.T
        paid = (drawn @ keys.T).exp().mean(0)
        observer = Distribution(0, Rotary(torch.zeros(2)))  # no rotation
        observer.count, observer.mean, observer.spread = 10, mean.float()[None, None], (root @ root.T).float()[None] * 10
        scorer = expected_attention({"keep": 0.5, "sinks": 0, "values": False}).scorer
        scores = scorer.scores(PromptLayer(0, keys.float()[None, None], keys.float()[None, None], 6, observer))
        torch.testing.assert_close(scores[0, 0].double(), paid / paid.sum(), rtol=0.03, atol=0)


def sharpened(family: object) -> torch.nn.Module:
    """Make the projections of a model larger: with those it was drawn with, attention is the same everywhere, and nothing is told apart."""
    network = family._loaded.network
    for name, parameter in network.named_parameters():
        if "self_attn" in name and "_proj.weight" in name and "o_proj" not in name:
            parameter.mul_(12)
    return network


@modern
class OnModels(unittest.TestCase):
    """What the hooks see inside real layers: softcaps, norms of queries, joint projections, several rotations, scaled ones."""

    def read(self, family: object, policy: object, ids: list) -> tuple:
        layout = family.bind("any", "methods.keydiff.policy:build", {"keep": 0.5})._layout([prompt(ids)])
        observers = policy.observers(layout, 0)
        with torch.inference_mode():
            prefill = Reader(family._loaded.network, layout, lambda *_: None).read(ids, [observers], shared=True, chunk=11)
        full = [number for number, window in enumerate(layout.shape.windows) if window is None]
        return full, {number: PromptLayer(number, *prefill.layers[number].parts()["dense"], len(ids), observers[number]) for number in full}

    def test_votes_are_those_of_eager_attention(self) -> None:
        ids = tokens(30)
        for name in ("llama", "gemma2", "qwen3", "phi3", "gemma3"):
            with self.subTest(model=name):
                family = CacheFamily()
                family.load(model(folder(name, self), seed=5))
                network = sharpened(family)
                policy = snapkv({"keep": 0.5, "window": 5, "kernel": 3})
                full, layers = self.read(family, policy, ids)
                network.config._attn_implementation = "eager"
                with torch.inference_mode():
                    weights = network(torch.tensor([ids]), output_attentions=True, use_cache=False).attentions
                for number in full:
                    expected = slow_votes(weights[number][0].double(), 2, 5, 3, "max")
                    torch.testing.assert_close(policy.scorer.scores(layers[number])[0], expected, atol=1e-6, rtol=1e-4)

    def test_expectations_are_of_the_models_own_queries_and_rotation(self) -> None:
        ids = tokens(24)
        for name in ("llama", "gemma2", "qwen3", "phi3", "gemma3", "yarn"):
            with self.subTest(model=name):
                family = CacheFamily()
                family.load(model(folder(name, self), seed=5))
                network = sharpened(family)
                policy = expected_attention({"keep": 0.5, "sinks": 2, "future": 7})
                full, layers = self.read(family, policy, ids)
                for number in full:
                    module = network.model.layers[number].self_attn
                    queries = self.queries(network, number, ids)
                    rotation = self.rotation(network, name, len(ids), 7)
                    options = {"sinks": 2, "epsilon": 0.0, "scaling": module.scaling, "covariance": True}
                    given = layers[number]
                    expected = slow_expected(queries, given.keys[0], given.values[0], rotation, options)
                    torch.testing.assert_close(policy.scorer.scores(given)[0], expected, atol=1e-7, rtol=1e-3)

    def queries(self, network: object, number: int, ids: list) -> torch.Tensor:
        """What the model's own projection, or norm after it, gave while it read the prompt: (heads, n, head_dim)."""
        module, seen = network.model.layers[number].self_attn, []
        source = getattr(module, "q_norm", None) or getattr(module, "q_proj", None) or module.qkv_proj
        handle = source.register_forward_hook(lambda _, args, out: seen.append(out))
        network.config._attn_implementation = "eager"
        try:
            with torch.inference_mode():
                network(torch.tensor([ids]), use_cache=False)
        finally:
            handle.remove()
            network.config._attn_implementation = "longctx"
        out = seen[0][0]
        if out.dim() == 2:
            out = out[:, : 4 * module.head_dim].unflatten(-1, (4, -1))
        return out if out.shape[0] == 4 else out.transpose(0, 1)

    def rotation(self, network: object, name: str, first: int, count: int) -> torch.Tensor:
        """The mean of the model's own rotations as a matrix, in float64."""
        kind = ("full_attention",) if name == "gemma3" else ()
        positions = torch.arange(first, first + count)[None]
        cos, sin = (part[0].double() for part in network.model.rotary_emb(torch.zeros(1, 1, 1), positions, *kind))
        half = cos.shape[-1] // 2
        swap = torch.zeros(2 * half, 2 * half, dtype=torch.float64)
        swap[:half, half:], swap[half:, :half] = -torch.eye(half), torch.eye(half)
        return torch.diag(cos.mean(0)) + sin.mean(0)[:, None] * swap


if __name__ == "__main__":
    unittest.main()
