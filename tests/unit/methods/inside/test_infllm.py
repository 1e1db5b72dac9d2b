"""InfLLM against its definition, query by query with lists of tokens; what it holds, where, and how budgets are divided."""

from __future__ import annotations

import unittest
from dataclasses import replace

import torch
import transformers

from inside.support import MODERN, Recorder, _turn, estimate_of, folder, model, modern, prompt, tokens

if MODERN:
    from methods.infllm.policy import build
    from methods.kv.decoder import CacheDecoder, Rooms
    from methods.kv.family import CacheFamily, _rotary
    from methods.kv.storage.base import Layout
    from methods.kv.storage.blocks import BlockStorage

POLICY = "methods.infllm.policy:build"
TINY = {"sinks": 2, "local": 5, "blocks": 2, "block": 4, "representatives": 2, "chunk": 6}


def load(case: unittest.TestCase, name: str) -> CacheFamily:
    family = CacheFamily()
    family.load(model(folder(name, case)))
    case.addCleanup(family.close)
    return family


def hosted(storages: list, offload: bool) -> None:
    """Let storages keep blocks as they do beside a GPU: the policy refuses to on the CPU."""
    for storage in storages:
        if isinstance(storage, BlockStorage):
            storage._spec = replace(storage._spec, offload=offload)
            storage.begin(0)


class Memory:
    """One layer's lists: which tokens are in no block, what each token got of attention, which blocks there are."""

    def __init__(self, keys: torch.Tensor, heads: int, spec: object) -> None:
        self.keys, self.spec = keys, spec
        self.loose: list[int] = []
        self.scores = torch.zeros(heads, keys.shape[1], dtype=torch.float64)
        self.blocks: list[tuple[list[int], torch.Tensor]] = []

    def chosen(self, asked: torch.Tensor) -> list[int]:
        """Return the tokens of the blocks that ``asked`` (heads, n, d) choose."""
        mean = asked.mean(1)
        fit = [float(sum(mean[head] @ mark[head] for head in range(mean.shape[0]))) for _, mark in self.blocks]
        best = sorted(range(len(fit)), key=lambda number: -fit[number])[: self.spec.chosen]
        return [token for number in best for token in self.blocks[number][0]]

    def cut(self, new: range) -> None:
        """Take a slice in; as long as a whole block stands behind the window, make it one."""
        self.loose.extend(new)
        group = self.scores.shape[0] // 2
        while True:
            ready = [token for token in self.loose if token >= self.spec.sinks][: self.spec.block]
            if len([token for token in self.loose if token >= self.spec.sinks]) - self.spec.block < self.spec.local:
                return
            marks = []
            for head in range(self.scores.shape[0]):
                got = self.scores[head] if self.spec.per_query_head else self.scores[head // group * group :][:group].sum(0)
                best = sorted(ready, key=lambda token, got=got: -float(got[token]))[: self.spec.representatives]
                marks.append(self.keys[head, best].mean(0))
            self.blocks.append((ready, torch.stack(marks)))
            self.loose = [token for token in self.loose if token not in ready]


def slow_forward(network: object, ids: list[int], spec: object, read: int) -> torch.Tensor:
    """Return the last position's logits, in float64; the first ``read`` tokens are the prompt, the others came one by one."""
    frequencies = network.base_model.rotary_emb.inv_freq.double()
    ends = {*range(spec.slice, read, spec.slice), *range(read, len(ids) + 1)}
    if spec.lone_last:
        ends.add(read - 1)
    ends = sorted(ends - {0})

    def attend(module, query, key, value, attention_mask, scaling=None, softcap=None, sliding_window=None, **kwargs):
        group, length = query.shape[1] // key.shape[1], query.shape[2]
        k, v = key[0].repeat_interleave(group, 0), value[0].repeat_interleave(group, 0)
        places = torch.arange(length, dtype=torch.float64)
        turned, true = _turn(k, places, frequencies), _turn(query[0], places, frequencies)
        away = _turn(query[0], torch.full_like(places, spec.distance), frequencies)
        memory, out = Memory(k, query.shape[1], spec), torch.zeros_like(query)
        for first, last in zip([0, *ends], ends):
            picked = [] if sliding_window else memory.chosen(away[:, first:last])
            behind = [token for token in memory.loose + list(range(first, last)) if token < last - spec.local]
            for i in range(first, last):
                near = [j for j in range(i + 1) if i - j < (sliding_window or spec.local)]
                far = picked + [j for j in behind if spec.twice or i - j >= spec.local]
                far = [] if sliding_window else far
                scores = torch.cat(((true[:, i, None] * turned[:, near]).sum(-1), (away[:, i, None] * k[:, far]).sum(-1)), -1) * scaling
                weights = (softcap * torch.tanh(scores / softcap) if softcap else scores).softmax(-1)
                out[0, :, i] = (weights[..., None] * v[:, near + far]).sum(1)
                memory.scores[:, near] += weights[:, : len(near)]
            memory.cut(range(first, last))
        return out.transpose(1, 2), None

    transformers.AttentionInterface.register("blocks", attend)
    network.config._attn_implementation = "blocks"
    try:
        with torch.no_grad():
            return network(torch.tensor([ids]), position_ids=torch.zeros(1, len(ids), dtype=torch.long), use_cache=False).logits[0, -1]
    finally:
        network.config._attn_implementation = "longctx"


@modern
class Blocks(unittest.TestCase):
    def test_logits_equal_those_of_the_reference(self) -> None:
        old = {"variant": "bench2024"}
        for name, cases in (
            ("llama", ((31, {}), (31, {**old, "local": 7}), (10, {}), (30, {**old, "blocks": 1}))),
            ("qwen2", ((1, {"local": 2, "block": 2}), (31, {"blocks": 0}))),
            ("qwen3", ((26, {"sinks": 0, "local": 3}),)),
            ("gemma2", ((26, {}), (26, old))),
            ("phi3", ((12, {**old, "chunk": 3}),)),
        ):  # fmt: skip
            family = load(self, name)
            network = family._loaded.network
            for length, changes in cases:
                ids, extra = tokens(length, seed=length), tokens(9, seed=1)
                policy = build({**TINY, **changes})
                network.double()
                wanted = {count: slow_forward(network, ids + extra[:count], policy.spec(length), length) for count in (0, 1, 5, 9)}
                network.float()
                for offload in (False, True):
                    with self.subTest(model=name, length=length, changes=changes, offload=offload), torch.inference_mode():
                        layout = self.layout(family, length)
                        decoder = CacheDecoder(Rooms(network, policy, layout, lambda *_: None))
                        hosted(decoder._storages, offload)
                        got = [decoder.prefill(0, ids)]
                        decoder.reserve(9)
                        got += [decoder.step(torch.tensor([value])) for value in extra]
                        for count, theirs in wanted.items():
                            torch.testing.assert_close(got[count][0].double(), theirs, atol=2e-5, rtol=2e-4)

    def layout(self, family: CacheFamily, length: int) -> Layout:
        loaded = family._loaded
        return Layout(loaded.shape, (length,), torch.float32, torch.device("cpu"), loaded.kernel, _rotary(loaded.network))

    def read(self, length: int, offload: bool = False, **changes: object) -> BlockStorage:
        """Read a prompt whose values carry their places and whose keys are random, in chunks of 7."""
        shape = type("Shape", (), {"kv_heads": 2, "head_dim": 8, "token_elements": 32, "windows": (None,)})()
        rotary = type(_rotary(load(self, "llama")._loaded.network))(torch.tensor([1.0, 0.3, 0.1, 0.03]))
        layout = Layout(shape, (length,), torch.float32, torch.device("cpu"), "eager-blocked", rotary)
        (storage,) = build({**TINY, **changes}).storages(layout)
        hosted([storage], offload)
        torch.manual_seed(0)
        storage.begin(0)
        for first in range(0, length, 7):
            size = min(7, length - first)
            marks = torch.arange(first, first + size, dtype=torch.float32)[None, None, :, None].expand(1, 2, size, 8)
            storage.append(torch.randn(1, 2, size, 8), marks).attend(torch.randn(1, 4, size, 8), 0.5, None)
        storage.end()
        return storage

    def test_which_tokens_are_in_which_block(self) -> None:
        # sinks 2, window 5, blocks of 4: the first block is complete with token 11
        for length, loose, blocks in (
            (1, [0], []),
            (4, [0, 1, 2, 3], []),
            (10, list(range(10)), []),
            (11, [0, 1, 6, 7, 8, 9, 10], [[2, 3, 4, 5]]),
            (14, [0, 1, *range(6, 14)], [[2, 3, 4, 5]]),
            (20, [0, 1, *range(14, 20)], [[2, 3, 4, 5], [6, 7, 8, 9], [10, 11, 12, 13]]),
        ):
            for offload in (False, True):
                with self.subTest(length=length, offload=offload):
                    storage = self.read(length, offload=offload)
                    self.assertEqual(storage._values[0, 0, :, 0].tolist(), loose)
                    self.assertEqual(storage._store.values[:, 1, :, 0].tolist(), blocks)
                    self.assertEqual(storage.held(0), length)
                    parts = {kind: sum(x.nbytes for x in items) for kind, items in storage.parts().items()}
                    self.assertEqual(parts["host"], len(blocks) * 4 * 32 * 4 if offload else 0)
                    self.assertEqual(parts["dense"] + parts["index"], storage.analytic())
                    self.assertEqual(parts["dense"], (len(loose) if offload else length) * 32 * 4)

    def test_blocks_that_nobody_chooses_are_not_held(self) -> None:
        storage = self.read(20, blocks=0)
        self.assertEqual((storage.held(0), storage._store.keys.shape[0]), (8, 0))
        self.assertEqual(sum(x.nbytes for items in storage.parts().values() for x in items), storage.analytic())

    def test_offload_changes_where_and_not_what(self) -> None:
        family = load(self, "gemma2")
        logits, holdings = [], []
        for offload in (False, True):
            with torch.inference_mode():
                layout = self.layout(family, 40)
                decoder = CacheDecoder(Rooms(family._loaded.network, build(TINY), layout, lambda *_: None))
                hosted(decoder._storages, offload)
                decoder.prefill(0, tokens(40))
                holdings.append(decoder.holding(0))
                bytes_ = sum(x.nbytes for items in holdings[-1].parts.values() for x in items)
                self.assertEqual(bytes_, holdings[-1].analytic)
                expected = estimate_of("infllm")(family.describe()["config"], 40, {**TINY, "offload": offload}, 4)
                self.assertEqual(expected, holdings[-1].analytic)
                decoder.reserve(12)
                logits.append(torch.stack([decoder.step(torch.tensor([value])) for value in tokens(12, seed=2)]))
        self.assertTrue(torch.equal(*logits))
        full = sum(window is None for window in family._loaded.shape.windows)
        moved = full * 8 * 4 * family._loaded.shape.token_elements * 4  # eight blocks a layer
        self.assertEqual((holdings[0].host, holdings[1].host), (None, moved))
        self.assertEqual(holdings[0].analytic - holdings[1].analytic, moved)

    def test_offload_is_refused_where_there_is_nothing_to_move_from(self) -> None:
        with self.assertRaisesRegex(ValueError, "set offload to false"):
            load(self, "llama").bind("infllm", POLICY, {**TINY, "offload": True}).generate([prompt(tokens(9))], Recorder().hooks())

    def test_a_question_after_the_context_does_not_choose_for_it(self) -> None:
        """The slice ends where the context does, else the mean query of its last tokens would know the question."""
        family = load(self, "llama")
        held = []
        for seed in (1, 2, 3, 4):
            recorder = Recorder()
            recorder.keep = lambda holding: [storage._store.keys.clone() for storage in holding.roots[0]]
            ids = tokens(26) + tokens(9, seed=seed)
            bound = family.bind("infllm", POLICY, {**TINY, "blocks": 1, "chunk": 20, "local": 3})
            bound.generate([prompt(ids, max_new_tokens=1, unseen_from=26)], recorder.hooks())
            held.append(recorder.kept["a"])
        for others in held[1:]:
            for one, other in zip(held[0], others):
                torch.testing.assert_close(one[:6], other[:6])  # tokens 2 to 25


@modern
class Budgets(unittest.TestCase):
    def test_of_the_2024_benchmark(self) -> None:
        for length, keep, cap, expected in (
            (7500, 0.5, None, (78, 9, 2520)), (7500, 0.25, None, (39, 4, 1324)), (7500, 0.17, None, (26, 3, 865)),
            (7500, 0.125, None, (19, 2, 662)), (31500, 0.5, None, (330, 39, 10428)), (31500, 0.17, None, (112, 13, 3579)),
            (27200, 0.125, None, (71, 8, 2305)), (27200, 0.5, 7500, (78, 9, 2520)), (700, 0.5, None, (7, 0, 512)),
        ):  # fmt: skip
            params = {"variant": "bench2024", "keep": keep, "cap": cap}
            with self.subTest(length=length, keep=keep):
                policy = build(params)
                self.assertEqual(policy.split(length), expected)
                self.assertEqual(policy.spec(length).distance, expected[2] - 1)

    def test_published_divides_a_budget_as_its_own_numbers_are(self) -> None:
        self.assertEqual(build({"tokens": 128 + 2048 + 4096}).split(50_000), (128, 16, 4096))
        self.assertEqual(build({"local": 4096, "blocks": 16}).split(50_000), (128, 16, 4096))
        self.assertEqual(build({"keep": 0.5}).split(100), (49, 0, 1))
        self.assertEqual(build({"keep": 1.0}).split(1), (0, 0, 1))

    def test_bad_parameters_are_named(self) -> None:
        for params, message in (
            ({}, "one of keep"), ({"keep": 0.5, "local": 4}, "one of keep"), ({"keep": 0}, "above 0"), ({"local": 0}, "local is at"),
            ({"local": 4, "blocks": -1}, "blocks is at least"), ({"local": 9, "block": 2, "representatives": 3}, "no 3 representatives"),
            ({"keep": 0.5, "variant": "other"}, "variant"), ({"keep": 0.5, "window": 3}, "window"),
        ):  # fmt: skip
            with self.subTest(params=params), self.assertRaisesRegex(ValueError, message):
                build(params)

    def test_layers_that_rotate_differently_are_refused(self) -> None:
        with self.assertRaisesRegex(ValueError, "one set of frequencies"):
            load(self, "gemma3").bind("infllm", POLICY, TINY).generate([prompt(tokens(9))], Recorder().hooks())


if __name__ == "__main__":
    unittest.main()
