"""Every variant on a tiny random model of every architecture: what must hold for any method, whatever it keeps."""

from __future__ import annotations

import gc
import unittest
import weakref
from collections.abc import Iterator
from dataclasses import replace

import torch
from runner.protocol import Prompt

from inside.support import MODERN, Recorder, estimate_of, folder, model, modern, tokens
from inside.support import prompt as prompt_of
from inside.variants import VARIANTS, Variant

if MODERN:
    from methods.kv import prefill
    from methods.kv.decoder import CacheDecoder, Rooms
    from methods.kv.family import CacheFamily


def prompt(ids: list, **changes: object) -> Prompt:
    """Make a prompt with few new tokens: there are many variants."""
    return prompt_of(ids, **{"max_new_tokens": 4, **changes})


NAMES = sorted({name for variant in VARIANTS for name in variant.models})


@modern
class Matrix(unittest.TestCase):
    families: dict

    @classmethod
    def setUpClass(cls) -> None:
        case = unittest.TestCase()
        cls.families = {}
        for name in NAMES:
            family = CacheFamily()
            family.load(model(folder(name, case)))
            cls.families[name] = family
        case.doCleanups()

    def each(self, **wanted: bool) -> Iterator[tuple]:
        for variant in VARIANTS:
            if all(getattr(variant, key) == value for key, value in wanted.items()):
                for name in variant.models:
                    yield variant, self.families[name], self.subTest(variant=str(variant), model=name)

    def answer(self, family: CacheFamily, variant: Variant, batch: list, recorder: Recorder | None = None, **more: object) -> list:
        bound = family.bind(variant.method, variant.policy, variant.params)
        return [item.text for item in bound.generate(batch, (recorder or Recorder()).hooks(), **more)]

    def test_bytes_are_the_analytic_ones_and_the_estimate_and_nothing_else_is_reachable(self) -> None:
        for variant, family, told in self.each():
            with told:
                config = family.describe()["config"]
                for length in (1, 8, 29):
                    recorder = Recorder()
                    self.answer(family, variant, [prompt(tokens(length), max_new_tokens=1)], recorder)
                    holding, reachable = recorder.holdings["a"], recorder.measured["a"]
                    self.assertEqual(reachable - (holding.host or 0), holding.analytic, length)
                    self.assertEqual(recorder.named["a"] + (holding.host or 0), reachable, "a tensor without a part")
                    self.assertLessEqual(set(holding.parts), {"dense", "codes", "scales", "index", "state"})
                    self.assertEqual((holding.logical, holding.full), (length, family._loaded.shape.native_bytes(length, 4)))
                    self.assertEqual(estimate_of(variant.method)(config, length, variant.params, 4), holding.analytic, length)

    def test_nothing_outlives_a_batch(self) -> None:
        for variant in VARIANTS:
            family = self.families[variant.models[0]]
            with self.subTest(variant=str(variant)):
                bound = family.bind(variant.method, variant.policy, variant.params)
                alive: list = []
                hooks = Recorder().hooks()
                hooks.holding = lambda _, holding, alive=alive: alive.extend(weakref.ref(one) for one in holding.roots[0])
                bound.generate([prompt(tokens(9), max_new_tokens=2)], hooks)
                del hooks
                gc.collect()
                self.assertGreater(len(alive), 0)
                self.assertEqual([one() for one in alive if one() is not None], [])

    def test_exact_ones_answer_as_full_attention_does(self) -> None:
        full = VARIANTS[0]
        for variant, family, told in self.each(exact=True):
            with told:
                for length in (1, 25):
                    ids = tokens(length, seed=length)
                    self.assertEqual(self.answer(family, variant, [prompt(ids)]), self.answer(family, full, [prompt(ids)]), length)

    def test_batch_equals_single(self) -> None:
        for variant, family, told in self.each(batch=True):
            with told:
                batch = [prompt(tokens(size, seed=size), name=str(size), max_new_tokens=limit) for size, limit in ((5, 4), (26, 2))]
                recorder = Recorder()
                together = self.answer(family, variant, batch, recorder)
                self.assertEqual(together, [self.answer(family, variant, [item])[0] for item in batch])
                claimed = sum(holding.analytic for holding in recorder.holdings.values())
                device = recorder.measured["5"] - sum(holding.host or 0 for holding in recorder.holdings.values())
                self.assertLess(abs(device - claimed), len(batch))

    def test_batches_are_refused_by_the_others(self) -> None:
        for variant, family, told in self.each(batch=False):
            with told, self.assertRaisesRegex(ValueError, "one request at a time"):
                self.answer(family, variant, [prompt(tokens(3)), prompt(tokens(4), name="b")])

    def test_chunks_do_not_matter(self) -> None:
        before = dict(prefill._CHUNK)
        for variant, family, told in self.each(chunks=True):
            with told:
                ids = tokens(27)
                whole = self.answer(family, variant, [prompt(ids)])
                for size in (4,):
                    prefill._CHUNK["cpu"] = size
                    try:
                        self.assertEqual(self.answer(family, replaced(variant, size), [prompt(ids)]), whole, size)
                    finally:
                        prefill._CHUNK.update(before)

    def test_forked_equals_own_and_holds_no_prefill(self) -> None:
        for name in NAMES:
            family = self.families[name]
            chosen = [variant for variant in VARIANTS if variant.forks and name in variant.models]
            bounds = [family.bind(variant.method, variant.policy, variant.params) for variant in chosen]
            for batch in ([prompt(tokens(23))], [prompt(tokens(5), name="s"), prompt(tokens(19), name="l")]):
                able = [pair for pair in zip(chosen, bounds) if len(batch) == 1 or pair[0].batch]
                shared = able[0][1].share([bound for _, bound in able], batch, lambda *_: None)
                for variant, bound in able:
                    with self.subTest(model=name, variant=str(variant), rows=len(batch)):
                        recorder = Recorder()
                        answers = bound.generate(batch, recorder.hooks(), shared=shared)
                        again = bound.generate(batch, Recorder().hooks(), shared=shared)
                        self.assertEqual([item.text for item in answers], self.answer(family, variant, batch))
                        self.assertEqual([item.text for item in answers], [item.text for item in again])
                        self.assertEqual({(item.prefill, item.prefill_s) for item in answers}, {("forked", None)})
                        holding = recorder.holdings[batch[0].id]
                        self.assertLess(abs(recorder.measured[batch[0].id] - len(batch) * holding.analytic - (holding.host or 0)), 3)

    def test_a_group_is_answered_as_each_of_its_prompts_alone(self) -> None:
        """What was read and observed of a common beginning must not matter, however long the prompts that follow are."""
        common = tokens(17, seed=8)
        group = {"group": {"id": "g", "shared_segments": 1}, "spans": [{"role": "context", "start": 0, "end": 17}]}
        for variant, family, told in self.each(forks=True):
            bound = family.bind(variant.method, variant.policy, variant.params)
            first = family is self.families[variant.models[0]]
            with told:
                for more in ({}, {"unseen_from": 17}) if first else ({},):
                    batch = [prompt(common + tokens(size, seed=size), name=str(size), max_new_tokens=2, **group, **more) for size in (2, 9)]
                    expected = [self.answer(family, variant, [replace(one, group=None)])[0] for one in batch]
                    answers = [bound.generate([one], Recorder().hooks())[0] for one in batch]
                    self.assertEqual([answer.text for answer in answers], expected)
                    self.assertEqual({(answer.prefill, answer.prefill_s) for answer in answers}, {("shared", None)})
                    if variant.batch and first:
                        self.assertEqual(self.answer(family, variant, batch), expected)

    def test_who_forks_says_so(self) -> None:
        for variant, family, told in self.each():
            with told:
                self.assertEqual(family.bind(variant.method, variant.policy, variant.params).shares_with is not None, variant.forks)

    def test_what_is_unseen_does_not_decide_what_is_kept(self) -> None:
        """Two questions behind one context: what a fork of the context keeps of it must not differ."""
        for variant, family, told in self.each(forks=True):
            with told:
                context, held = tokens(20), []
                for seed in (1, 2):
                    recorder = Recorder()
                    ask = prompt(context + tokens(5, seed=seed), max_new_tokens=2, unseen_from=20)
                    recorder.keep = lambda holding: [tensor[..., :3, :].clone() for tensor in holding.parts.get("dense", ())]
                    self.answer(family, variant, [ask], recorder)
                    held.append(recorder.kept["a"])
                    self.assertEqual(recorder.measured["a"] - (recorder.holdings["a"].host or 0), recorder.holdings["a"].analytic)
                windows = family._loaded.shape.windows
                if not any(windows):  # a native window has slid on over the question
                    for one, other in zip(*held):
                        self.assertTrue(torch.equal(one, other))

    def test_an_unseen_question_in_a_batch(self) -> None:
        for variant, family, told in self.each(forks=True, batch=True):
            with told:
                batch = [
                    prompt(tokens(size + after, seed=size), name=str(size), unseen_from=size, max_new_tokens=3)
                    for size, after in ((4, 3), (20, 6))
                ]
                self.assertEqual(self.answer(family, variant, batch), [self.answer(family, variant, [item])[0] for item in batch])

    def test_fixed_shapes_decode_to_the_same(self) -> None:
        """The path that CUDA takes: positions in tensors, whole buffers behind masks, nothing allocated by a storage in a step."""
        for variant, family, told in self.each():
            with told:
                loaded, ids = family._loaded, tokens(18)
                logits = []
                for fixed in (False, True):
                    bound = family.bind(variant.method, variant.policy, variant.params)
                    layout = replace(bound._layout([prompt(ids)]), fixed=fixed)
                    with torch.inference_mode():
                        decoder = CacheDecoder(Rooms(loaded.network, bound._policy, layout, lambda *_: None))
                        decoder.prefill(0, ids)
                        decoder.reserve(5)
                        places = _addresses(decoder)
                        logits.append(torch.stack([decoder.step(torch.tensor([value])) for value in tokens(5, seed=5)]))
                        if fixed:
                            self.assertEqual(_addresses(decoder), places)
                torch.testing.assert_close(logits[0], logits[1], atol=2e-5, rtol=1e-4)


def _addresses(decoder: CacheDecoder) -> list:
    parts = [storage.parts() for storage in decoder._storages]
    return [(kind, tensor.data_ptr(), tensor.shape) for part in parts for kind, items in part.items() for tensor in items]


def replaced(variant: Variant, chunk: int) -> Variant:
    """Set a method's own chunk where it has one."""
    return replace(variant, params={**variant.params, "chunk": chunk}) if variant.method == "streaming_llm" else variant


if __name__ == "__main__":
    unittest.main()
