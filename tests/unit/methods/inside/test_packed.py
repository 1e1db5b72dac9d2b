"""Packed entries against lists of vectors: codes, what is packed when, one softmax over all, and what is held."""

from __future__ import annotations

import functools
import unittest
from unittest import mock

import torch

from inside.support import MODERN, Recorder, folder, model, modern, prompt, tokens

if MODERN:
    from methods.flexgen.simulated import rounded
    from methods.knorm.policy import Knorm
    from methods.kv import packed_attention, quantise
    from methods.kv.budget import Budget
    from methods.kv.evicting import Evicting
    from methods.kv.family import CacheFamily
    from methods.kv.packing import holder_of, kivi, per_token
    from methods.kv.quantise import Codes, Scheme, pack, unpack
    from methods.kv.shape import CacheShape
    from methods.kv.storage import packed
    from methods.kv.storage.base import Layout, PromptLayer

SIZE, HEADS, KV_HEADS = 8, 4, 2


def near(numbers: list, bits: int) -> list:
    """Quantise one group the slow way and come back."""
    least, most = min(numbers), max(numbers)
    minimum, scale = (float(torch.tensor(value).half()) for value in (least, (most - least) / (2**bits - 1)))
    codes = [0 if scale == 0 else min(2**bits - 1, max(0, round((number - minimum) / scale))) for number in numbers]
    return [code * scale + minimum for code in codes]


def along_tokens(entries: list, bits: int, group: int) -> list:
    """Quantise vectors, each channel of ``group`` consecutive ones together."""
    out = []
    for low in range(0, len(entries), group):
        columns = [near([entry[channel] for entry in entries[low : low + group]], bits) for channel in range(SIZE)]
        out += [[column[i] for column in columns] for i in range(group)]
    return out


def along_channels(entry: list, bits: int, group: int) -> list:
    """Quantise one vector, ``group`` channels together."""
    return [number for low in range(0, SIZE, group) for number in near(entry[low : low + group], bits)]


class SlowKivi:
    """One KV head as the paper's Algorithm 1 has it: a token is used at full precision first, and packed at the end of its step."""

    def __init__(self, keys: list, values: list, bits: int, group: int, residual: int) -> None:
        self.bits, self.group, self.residual = bits, group, residual
        old, last = len(keys) - len(keys) % residual, max(0, len(values) - residual)
        self.old_keys, self.keys = along_tokens(keys[:old], bits, group), keys[old:]
        self.old_values, self.values = [along_channels(value, bits, group) for value in values[:last]], values[last:]

    def use(self, key: list, value: list, queries: list, cap: float | None) -> list:
        self.keys, self.values = [*self.keys, key], [*self.values, value]
        outs = attend(self.old_keys + self.keys, self.old_values + self.values, queries, cap)
        if len(self.keys) == self.residual:
            self.old_keys, self.keys = self.old_keys + along_tokens(self.keys, self.bits, self.group), []
        if len(self.values) > self.residual:
            self.old_values, self.values = [*self.old_values, along_channels(self.values[0], self.bits, self.group)], self.values[1:]
        return outs


class SlowPerToken:
    """One KV head without a residual: the newest token only is not packed."""

    def __init__(self, keys: list, values: list, bits: int, group: int) -> None:
        self.pack = lambda entry: along_channels(entry, bits, group)
        self.keys, self.values = [self.pack(key) for key in keys], [self.pack(value) for value in values]

    def use(self, key: list, value: list, queries: list, cap: float | None) -> list:
        outs = attend([*self.keys, key], [*self.values, value], queries, cap)
        self.keys, self.values = [*self.keys, self.pack(key)], [*self.values, self.pack(value)]
        return outs


def attend(keys: list, values: list, queries: list, cap: float | None) -> list:
    """Attend from some queries to all of a list, one softmax."""
    outs = []
    for query in queries:
        scores = torch.tensor(keys) @ torch.tensor(query) * 0.5
        scores = scores if cap is None else cap * torch.tanh(scores / cap)
        outs.append((scores.softmax(0) @ torch.tensor(values)).tolist())
    return outs


def layout_of(*lengths: int, fixed: bool = False, dtype: torch.dtype = torch.float32) -> Layout:
    shape = CacheShape(kv_heads=KV_HEADS, head_dim=SIZE, windows=(None,))
    return Layout(shape, lengths, dtype, torch.device("cpu"), "eager-blocked", None, fixed=fixed)


def filled(holder: object, rows: list, fixed: bool) -> object:
    """Make a storage of prompts, each ``(keys, values)``."""
    lengths = [keys.shape[2] for keys, _ in rows]
    storage = holder(layout_of(*lengths, fixed=fixed, dtype=rows[0][0].dtype), lengths)
    for row, (keys, values) in enumerate(rows):
        storage.fill(row, PromptLayer(0, keys, values, keys.shape[2]))
        storage.end()
    return storage


def draw(length: int) -> tuple:
    return torch.randn(1, KV_HEADS, length, SIZE), torch.randn(1, KV_HEADS, length, SIZE)


@modern
class Storing(unittest.TestCase):
    def setUp(self) -> None:
        torch.manual_seed(0)

    def check(self, holder: object, slow: object, length: int, steps: int, *, fixed: bool, cap: float | None = None) -> object:
        keys, values = draw(length)
        storage = filled(holder, [(keys, values)], fixed)
        self.assertEqual(sum(x.nbytes for items in storage.parts().values() for x in items), storage.analytic())
        heads = [slow(keys[0, head].tolist(), values[0, head].tolist()) for head in range(KV_HEADS)]
        storage.reserve(steps)
        for _ in range(steps):
            key, value = draw(1)
            query = torch.randn(1, HEADS, 1, SIZE)
            out = storage.append(key, value).attend(query, 0.5, cap)[0, :, 0]
            expected = [
                one
                for head, state in enumerate(heads)
                for one in state.use(
                    key[0, head, 0].tolist(), value[0, head, 0].tolist(), query[0, 2 * head : 2 * head + 2, 0].tolist(), cap
                )
            ]
            torch.testing.assert_close(out, torch.tensor(expected), atol=1e-5, rtol=1e-4)
        return storage

    def test_kivi_equals_its_algorithm(self) -> None:
        for bits, group, residual in ((2, 4, 8), (3, 2, 4), (4, 8, 8), (8, 4, 12)):
            slow = functools.partial(SlowKivi, bits=bits, group=group, residual=residual)
            for number, length in enumerate((1, group, residual - 1, residual, residual + 1, 2 * residual, 2 * residual + 3)):
                for fixed in (False, True) if bits == 2 else (bool(number % 2),):
                    with self.subTest(bits=bits, residual=residual, length=length, fixed=fixed):
                        self.check(kivi(bits, group, residual), slow, length, residual + 3, fixed=fixed)

    def test_per_token_equals_its_definition_in_blocks_and_with_capped_scores(self) -> None:
        for bits in (2, 4):
            for length in (1, 2, 9):
                for fixed in (False, True):
                    for block in (1, 1 << 20):
                        told = self.subTest(bits=bits, length=length, fixed=fixed, block=block)
                        with told, mock.patch.object(packed_attention, "_BLOCK_ELEMENTS", block):
                            slow = functools.partial(SlowPerToken, bits=bits, group=4)
                            self.check(per_token(bits, 4), slow, length, 5, fixed=fixed, cap=2.0)

    def test_kivi_in_blocks_of_one_group(self) -> None:
        with mock.patch.object(packed_attention, "_BLOCK_ELEMENTS", 1), mock.patch.object(packed, "_SPAN_ELEMENTS", 1):
            self.check(kivi(2, 4, 8), functools.partial(SlowKivi, bits=2, group=4, residual=8), 29, 12, fixed=False)

    def test_what_is_packed_is_never_packed_again(self) -> None:
        for fixed in (False, True):
            storage = filled(kivi(2, 4, 8), [draw(21)], fixed)
            before = [part.clone() for kind in ("codes", "scales") for part in storage.parts()[kind]]
            storage.reserve(20)
            for _ in range(20):
                storage.append(*draw(1)).attend(torch.randn(1, HEADS, 1, SIZE), 0.5, None)
            after = [part for kind in ("codes", "scales") for part in storage.parts()[kind]]
            self.assertEqual([part.shape[2] for part in before], [16, 13, 4, 4, 13, 13])
            for old, new in zip(before, after):
                self.assertTrue(torch.equal(old, new[:, :, : old.shape[2]]))

    def test_rows_do_not_see_each_other(self) -> None:
        lengths = (1, 8, 21, 13)
        for holder in (kivi(2, 4, 8), per_token(4, 8)):
            for fixed in (False, True):
                rows = [draw(length) for length in lengths]
                together, alone = filled(holder, rows, fixed), [filled(holder, [row], False) for row in rows]
                for storage in (together, *alone):
                    storage.reserve(19)
                for step in range(19):
                    keys, values = (torch.randn(4, KV_HEADS, 1, SIZE) for _ in range(2))
                    query = torch.randn(4, HEADS, 1, SIZE)
                    out = together.append(keys, values).attend(query, 0.5, None)
                    single = [
                        storage.append(keys[row : row + 1], values[row : row + 1]).attend(query[row : row + 1], 0.5, None)
                        for row, storage in enumerate(alone)
                    ]
                    torch.testing.assert_close(out, torch.cat(single), msg=lambda text, at=(fixed, step): f"{at}: {text}")

    def test_a_question_behind_the_context(self) -> None:
        """Chunks attend to the packed context; in the end the same is packed as if all had come at once."""
        for holder, residual in ((kivi(4, 4, 8), 8), (per_token(4, 4), 0)):
            for context in (1, 7, 8, 21):
                with self.subTest(residual=residual, context=context):
                    keys, values = draw(context + 10)
                    storage = holder(layout_of(context + 10), (context + 10,))
                    storage.fill(0, PromptLayer(0, keys[:, :, :context], values[:, :, :context], context))
                    old = [x.tolist() for x in (keys[0, 0, :context], values[0, 0, :context])]
                    slow = SlowKivi(*old, 4, 4, 8) if residual else SlowPerToken(*old, 4, 4)
                    seen = [*(slow.old_keys if residual else []), *slow.keys], [*(slow.old_values if residual else []), *slow.values]
                    for low, high in ((0, 6), (6, 10)):
                        place = slice(context + low, context + high)
                        query = torch.randn(1, HEADS, high - low, SIZE)
                        out = storage.append(keys[:, :, place], values[:, :, place]).attend(query, 0.5, None)
                        for i in range(high - low):
                            at = context + low + i + 1
                            held = [past + new[0, 0, context:at].tolist() for past, new in zip(seen, (keys, values))]
                            expected = attend(*held, query[0, :2, i].tolist(), None)
                            torch.testing.assert_close(out[0, :2, i], torch.tensor(expected), atol=1e-5, rtol=1e-4)
                    storage.end()
                    whole = filled(holder, [(keys, values)], False)
                    for kind, items in whole.parts().items():
                        for one, other in zip(items, storage.parts()[kind]):
                            self.assertTrue(torch.equal(one, other), kind)

    def test_half_precision_is_held_as_such(self) -> None:
        rows = [draw(length) for length in (21, 6)]
        for dtype, tolerance in ((torch.float16, 5e-3), (torch.bfloat16, 4e-2)):
            for holder in (kivi(8, 4, 8), per_token(8, 4)):
                for fixed in (False, True):
                    exact, half = (filled(holder, [(k.to(to), v.to(to)) for k, v in rows], fixed) for to in (torch.float32, dtype))
                    self.assertEqual(sum(x.nbytes for items in half.parts().values() for x in items), half.analytic())
                    self.assertEqual({x.dtype for x in half.parts()["dense"]}, {dtype})
                    for storage in (exact, half):
                        storage.reserve(10)
                    for _ in range(10):
                        key, value = (torch.randn(2, KV_HEADS, 1, SIZE) for _ in range(2))
                        query = torch.randn(2, HEADS, 1, SIZE)
                        wanted = exact.append(key, value).attend(query, 0.5, None)
                        got = half.append(key.to(dtype), value.to(dtype)).attend(query.to(dtype), 0.5, None)
                        self.assertEqual(got.dtype, dtype)
                        torch.testing.assert_close(got.float(), wanted, atol=tolerance, rtol=tolerance)

    def test_wrong_numbers_of_entries_are_refused(self) -> None:
        storage = kivi(2, 4, 8)(layout_of(10), (10,))
        storage.fill(0, PromptLayer(0, *draw(9), 9))
        with self.assertRaisesRegex(ValueError, "row 0 has 9 entries; its storage was made for 10"):
            storage.end()
        with self.assertRaisesRegex(ValueError, "more entries than the 10"):
            storage.append(*draw(2))
        with self.assertRaisesRegex(TypeError, "shares_prefill"):
            storage.begin(0)

    def test_only_blocks_are_unpacked(self) -> None:
        storage, sizes = filled(kivi(2, 4, 8), [draw(800)], False), []
        storage.reserve(1)
        unpacked = Codes.all

        def noting(codes: Codes, dtype: torch.dtype) -> torch.Tensor:
            sizes.append(codes.codes.shape[2])
            return unpacked(codes, dtype)

        with mock.patch.object(Codes, "all", noting), mock.patch.object(packed_attention, "_BLOCK_ELEMENTS", 64 * KV_HEADS * SIZE):
            storage.append(*draw(1)).attend(torch.randn(1, HEADS, 1, SIZE), 0.5, None)
        self.assertLessEqual(max(sizes), 64)
        self.assertGreaterEqual(sum(sizes), 2 * 792)


@modern
class Composed(unittest.TestCase):
    def test_a_selection_is_packed(self) -> None:
        torch.manual_seed(0)
        keys, values = draw(40)
        policy = Evicting(Knorm(), Budget(0.5, None), holder=holder_of("knorm", {"bits": 8, "group": 4, "residual": 8}))
        storage = policy.storages(layout_of(40))[0]
        storage.fill(0, PromptLayer(0, keys, values, 40))
        storage.end()
        places = keys[0].norm(dim=-1).sort().indices[:, :20].sort().values
        chosen = torch.stack([keys[0, head, places[head]] for head in range(KV_HEADS)])
        half = storage.inner._keys
        self.assertEqual((half.done, half.codes.shape), ([16], (1, KV_HEADS, 16, SIZE)))
        expected = [along_tokens(chosen[head, :16].tolist(), 8, 4) for head in range(KV_HEADS)]
        torch.testing.assert_close(half.all().all(torch.float32)[0], torch.tensor(expected))
        self.assertTrue(torch.equal(half.ring[0], chosen[:, 16:]))


@modern
class Quantising(unittest.TestCase):
    def test_codes_survive_packing(self) -> None:
        for bits in (2, 3, 4, 8):
            codes = torch.randint(0, 2**bits, (3, 5, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(bits))
            bytes_ = pack(codes, bits)
            self.assertEqual((bytes_.shape, bytes_.dtype), ((3, 5, 24 * bits // 8), torch.uint8))
            self.assertTrue(torch.equal(unpack(bytes_, bits), codes))

    def test_numbers_come_back_within_half_a_step(self) -> None:
        torch.manual_seed(0)
        for along in ("tokens", "channels"):
            for bits in (2, 3, 4, 8):
                scheme = Scheme(bits=bits, group=8, along=along, residual=8)
                states = torch.randn(2, 3, 16, 24)
                codes = quantise.quantise(states, scheme)
                step = codes.scale.float().max()
                rounding = 2**-10 * (states.abs().max() + 1)
                self.assertLessEqual(float((codes.all(torch.float32) - states).abs().max()), float(step / 2 + rounding))
                self.assertEqual(set(unpack(codes.codes, bits).flatten().tolist()) >= {0, 2**bits - 1}, True)

    def test_constant_groups_and_large_numbers_stay_numbers(self) -> None:
        scheme = Scheme(bits=2, group=4, along="channels", residual=0)
        states = torch.tensor([0.0, 0, 0, 0, -3, -3, -3, -3, 1e-9, 0, 0, 0, 1e6, 0, 0, 0]).reshape(1, 1, 2, 8)
        back = quantise.quantise(states, scheme).all(torch.float32)
        self.assertTrue(torch.equal(back[..., 0, :], states[..., 0, :]))
        self.assertTrue(back.isfinite().all())

    def test_what_cannot_be_is_refused(self) -> None:
        for settings, told in (
            ({"bits": 5}, "bits is one of 2, 3, 4, 8"),
            ({"residual": 6}, "multiple of group"),
            ({"residual": 0}, "multiple of group"),
            ({"group": 0}, "at least 1"),
            ({"along": "heads"}, "tokens or channels"),
        ):
            with self.subTest(**settings), self.assertRaisesRegex(ValueError, told):
                Scheme(**{"bits": 2, "group": 4, "along": "tokens", "residual": 8, **settings})
        with self.assertRaisesRegex(ValueError, "no whole bytes"):
            Scheme(bits=3, group=4, along="channels", residual=0).fitted(12)
        with self.assertRaisesRegex(ValueError, "knorm: group say how entries are packed; give bits too"):
            holder_of("knorm", {"group": 4})
        with self.assertRaisesRegex(ValueError, "keys may not keep more"):
            packed.PackedStorage(
                layout_of(4), keys=Scheme(bits=2, group=4, along="tokens", residual=8),
                values=Scheme(bits=2, group=4, along="channels", residual=4),
            )  # fmt: skip


@modern
class Simulated(unittest.TestCase):
    def test_rounding_is_that_of_2024(self) -> None:
        torch.manual_seed(0)
        states = torch.randn(2, 3, 8)
        got = rounded(states, 15, 4)
        for vector, back in zip(states.flatten(0, 1).tolist(), got.flatten(0, 1).tolist()):
            for low in (0, 4):
                part = vector[low : low + 4]
                scale = (max(part) - min(part)) / 15
                for number, value in zip(part, back[low : low + 4]):
                    self.assertAlmostEqual(value, round((number - min(part)) / scale) * scale + min(part), places=5)
        self.assertTrue(rounded(torch.ones(1, 4), 15, 4).isnan().all())

    def test_it_saves_nothing_and_rounds_while_reading(self) -> None:
        family = CacheFamily()
        family.load(model(folder("llama", self)))
        self.addCleanup(family.close)
        ids, held, logits = tokens(30), {}, {}
        for name, params in (("full_kv", {}), ("flexgen", {"bits": 2, "simulated": True}), ("packed", {"bits": 2})):
            method = "flexgen" if name == "packed" else name
            recorder = Recorder()
            recorder.keep = lambda holding: [tensor.clone() for tensor in holding.parts.get("dense", ())]
            bound = family.bind(method, f"methods.{method}.policy:build", params)
            bound.generate([prompt(ids, max_new_tokens=1)], recorder.hooks())
            held[name], logits[name] = recorder.holdings["a"], recorder.kept["a"]
        self.assertEqual(held["flexgen"].analytic, held["full_kv"].analytic)
        self.assertLess(held["packed"].analytic, held["full_kv"].analytic / 3)
        # the first layer's keys are the rounded ones of full KV; deeper ones differ by more, as their inputs came from rounded attention
        expected = rounded(logits["full_kv"][0], 3, 8)
        torch.testing.assert_close(logits["flexgen"][0], expected)
        self.assertFalse(torch.allclose(logits["flexgen"][2], rounded(logits["full_kv"][2], 3, 8)))


if __name__ == "__main__":
    unittest.main()
