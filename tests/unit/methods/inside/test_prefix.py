"""What the requests of a group share: read once, kept until the group ends, and without a trace in any answer."""

from __future__ import annotations

import gc
import unittest
import weakref
from collections.abc import Iterator
from dataclasses import replace

import torch
from runner.protocol import Prompt

from inside.support import MODERN, Recorder, folder, model, modern, prompt, tokens

if MODERN:
    from methods.kv import prefill
    from methods.kv.decoder import CacheDecoder, Rooms
    from methods.kv.family import CacheBound, CacheFamily
    from methods.kv.prefix import shared_tokens

COMMON = tokens(30, seed=8)
VARIANTS = {
    "full_kv": {},
    "knorm": {"keep": 0.5},
    "h2o": {"keep": 0.5},
    "adakv": {"keep": 0.5, "window": 6},
    "snapkv": {"tokens": 12, "window": 40},
}


def asking(size: int, group: str = "g", common: list | None = None, **more: object) -> Prompt:
    """Make a prompt of a group with a question of some tokens behind what all share."""
    start = COMMON if common is None else common
    spans = ({"role": "template", "start": 0, "end": 2}, {"role": "context", "start": 2, "end": len(start)})
    ids = start + tokens(size, seed=size)
    return prompt(ids, name=f"{group}{size}", spans=spans, group={"id": group, "shared_segments": 1}, max_new_tokens=3, **more)


@modern
class Groups(unittest.TestCase):
    def setUp(self) -> None:
        self.family = CacheFamily()
        self.family.load(model(folder("mistral-full", self)))

    def bound(self, method: str) -> CacheBound:
        return self.family.bind(method, f"methods.{method}.policy:build", VARIANTS[method])

    def read(self, run: object) -> int:
        """Count the prompt tokens that enter the model while something runs."""
        seen: list[int] = []
        handle = self.family._loaded.network.base_model.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )
        try:
            run()
        finally:
            handle.remove()
        return sum(size for size in seen if size > 1) + sum(size for size in seen[:1] if size == 1)

    def test_the_common_tokens_are_read_once(self) -> None:
        bound = self.bound("knorm")
        for batch, expected in (
            ([asking(5)], 35), ([asking(7)], 7), ([asking(4), asking(6)], 10), ([asking(5, "other", tokens(11))], 16), ([asking(3)], 33),
        ):  # fmt: skip
            self.assertEqual(self.read(lambda batch=batch: bound.generate(batch, Recorder().hooks())), expected)

    def test_logits_are_the_same_to_the_bit_whether_it_was_there(self) -> None:
        before = dict(prefill._CHUNK)
        for name in VARIANTS:
            for chunk in (2048, 8):
                prefill._CHUNK["cpu"] = chunk
                try:
                    with self.subTest(method=name, chunk=chunk):
                        bound = self.bound(name)
                        first = self.logits(bound, asking(9))
                        for size in (3, 50):
                            self.logits(bound, asking(size))
                        self.assertTrue(torch.equal(first, self.logits(bound, asking(9))))
                        bound.forget()
                        self.assertTrue(torch.equal(first, self.logits(bound, asking(9))))
                        self.assertTrue(torch.equal(first, self.logits(bound, asking(9), keep=False)))
                        whole = self.logits(bound, replace(asking(9), group=None))
                        torch.testing.assert_close(first, whole, atol=2e-5, rtol=1e-4)
                finally:
                    prefill._CHUNK.update(before)

    def logits(self, bound: CacheBound, one: Prompt, keep: bool = True) -> torch.Tensor:
        """Return the logits of the prompt's end and of a step."""
        starts = bound._starts([one], (bound._policy,), lambda *_: None, keep=keep)
        self.assertEqual((starts[0].prefill is not None, starts[0].at), (keep and one.group is not None, 30 if one.group else 0))
        with torch.inference_mode():
            decoder = CacheDecoder(Rooms(self.family._loaded.network, bound._policy, bound._layout([one]), lambda *_: None, starts=starts))
            end = decoder.prefill(0, one.ids).clone()
            decoder.reserve(1)
            return torch.cat((end, decoder.step(torch.tensor([7]))))

    def test_a_context_that_all_share_is_compressed_for_each_from_one_reading(self) -> None:
        for name in VARIANTS:
            with self.subTest(method=name):
                bound = self.bound(name)
                batches = [[asking(size, unseen_from=30)] for size in (4, 9)]
                alone = [bound.generate([replace(one, group=None) for one in batch], Recorder().hooks())[0].text for batch in batches]
                recorder = Recorder()
                together = [bound.generate(batch, recorder.hooks())[0] for batch in batches]
                self.assertEqual([answer.text for answer in together], alone)
                self.assertEqual(self.read(lambda bound=bound, batches=batches: bound.generate(batches[0], Recorder().hooks())), 4)
                for one, holding in recorder.holdings.items():  # nothing of what is kept counts as the cache's own
                    self.assertEqual(recorder.measured[one], holding.analytic)

    def test_a_stop_that_is_forbidden_to_one_is_not_to_the_next(self) -> None:
        bound, common = self.bound("full_kv"), [COMMON, COMMON]
        free, held = (asking(0, common=start) for start in common)
        likely = int(self.logits(bound, free)[0].argmax())
        held = replace(held, stop_ids=(likely,), min_new_tokens=1)
        texts = [bound.generate([one], Recorder().hooks())[0].text.split()[0] for one in (held, free)]
        self.assertEqual((texts[0] == str(likely), texts[1] == str(likely)), (False, True))

    def kept(self) -> Iterator[weakref.ref]:
        for one in self.family._loaded.prefixes._kept.values():
            yield from (weakref.ref(storage) for storage in one.prefill.layers)

    def test_memory_is_released_when_the_group_ends(self) -> None:
        for ends in (
            lambda bound: bound.generate([asking(5, "other")], Recorder().hooks()),
            lambda bound: bound.generate([prompt(tokens(5))], Recorder().hooks()),
            lambda bound: bound.generate([asking(5)], Recorder().hooks(), 2),
            lambda bound: self.bound("h2o").generate([asking(5)], Recorder().hooks()),
            lambda bound: bound.forget(),
            lambda bound: self.family.close(),
        ):
            bound = self.bound("knorm")
            bound.generate([asking(3)], Recorder().hooks())
            alive = list(self.kept())
            self.assertEqual(len(alive), 3)
            ends(bound)
            del bound
            gc.collect()
            self.assertEqual([one() for one in alive if one() is not None], [])

    def test_timing_shares_nothing(self) -> None:
        bound = self.bound("knorm")
        bound.generate([asking(3)], Recorder().hooks())
        answers: list = []
        self.assertEqual(self.read(lambda: answers.extend(bound.generate([asking(5)], Recorder().hooks(), 2))), 35)
        self.assertEqual(answers[0].prefill, "own")
        self.assertIsNotNone(answers[0].prefill_s)

    def test_other_tokens_under_the_same_name_are_read(self) -> None:
        bound = self.bound("knorm")
        bound.generate([asking(3)], Recorder().hooks())
        one = asking(5, common=[*COMMON[:-1], 5])
        expected = bound.generate([replace(one, group=None)], Recorder().hooks())[0].text
        bound.generate([asking(3)], Recorder().hooks())
        answers: list = []
        self.assertEqual(self.read(lambda: answers.extend(bound.generate([one], Recorder().hooks()))), 35)
        self.assertEqual(answers[0].text, expected)

    def test_variants_together(self) -> None:
        bounds = [self.bound(name) for name in VARIANTS]
        batches = [[asking(4)], [asking(9), asking(2)]]
        alone = [
            [[bound.generate([replace(one, group=None)], Recorder().hooks())[0].text for one in batch] for bound in bounds]
            for batch in batches
        ]  # fmt: skip
        for batch, expected, tokens_read in zip(batches, alone, (34, 11)):
            shared: list = []
            self.assertEqual(
                self.read(lambda batch=batch, to=shared: to.append(bounds[0].share(bounds, batch, lambda *_: None))), tokens_read
            )
            for bound, texts in zip(bounds, expected):
                answers = bound.generate(batch, Recorder().hooks(), shared=shared[0])
                self.assertEqual({answer.prefill for answer in answers}, {"forked"})
                self.assertEqual([answer.text for answer in answers], texts)

    def test_without_memory_for_it_each_reads_its_own(self) -> None:
        bound = self.bound("knorm")
        bound.generate([asking(3)], Recorder().hooks())
        expected = bound.generate([asking(5)], Recorder().hooks())[0].text
        alive, failed = list(self.kept()), []

        def tight(name: str, holding: object) -> None:
            if not failed:
                failed.append(name)
                raise torch.OutOfMemoryError("CUDA out of memory")
            gc.collect()
            self.assertEqual([one() for one in alive if one() is not None], [])

        hooks = Recorder().hooks()
        hooks.holding = tight
        answer = bound.generate([asking(5)], hooks)[0]
        self.assertEqual((answer.text, answer.prefill, failed), (expected, "own", ["g5"]))
        failed.clear()
        with self.assertRaises(torch.OutOfMemoryError):  # nothing was kept: there is nothing to give up
            bound.generate([replace(asking(5), group=None)], hooks)

    def test_where_a_group_parts(self) -> None:
        self.assertEqual(shared_tokens(asking(5)), 30)
        self.assertEqual(shared_tokens(replace(asking(5), group=None)), 0)
        self.assertEqual(shared_tokens(replace(asking(5), unseen_from=20)), 20)
        self.assertEqual(shared_tokens(replace(asking(5), group={"id": "g", "shared_segments": 0})), 0)


if __name__ == "__main__":
    unittest.main()
