"""Lets a method work on one batch: what it is lent, what is noted meanwhile, and what its exceptions mean."""

from __future__ import annotations

import gc
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .attempt import Attempt
from .checks import checked_answer, checked_holding
from .ending import Failed
from .failures import classify, describe
from .measure import device_bytes
from .protocol import Bound, Holding, Hooks, Prompt


@dataclass
class Failure:
    """Why requests of a batch have no answer. Holds no exception: its frames would keep the device's memory alive."""

    kind: str
    """``too_long``, ``oom``, ``gpu_lost``, ``disk_full`` or ``error``."""
    detail: dict[str, str]
    ids: tuple[str, ...] = ()
    """Those concerned; empty: all that were not answered."""


@dataclass
class Watch:
    """What is noted while a method works on a batch: its place, its answers, its caches."""

    attempt: Attempt
    members: Sequence[str]
    measuring: bool
    phase: str = "prefill"
    tokens: int = 0
    base: int | None = None
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    kv: dict[str, dict[str, Any]] = field(default_factory=dict)
    _paused: float = 0.0

    def hooks(self) -> Hooks:
        """Return what the method is lent."""
        return Hooks(
            clock=self._clock, holding=self._holding, before_cache=self.before_cache, phase=self._phase,
            stopping=lambda: self.attempt.stop.asked, piece=self._piece if self.measuring and self.attempt.job.data.get("stream") else None,
        )  # fmt: skip

    def before_cache(self) -> None:
        """Note what is allocated without any cache: garbage of the batch before must not be freed inside the difference."""
        if self.attempt.device.kind == "cuda":
            gc.collect()
        self.attempt.device.synchronise()
        self.base = self.attempt.device.allocated()

    def _clock(self) -> float:
        """Return seconds, without the time that measuring a cache took."""
        self.attempt.device.synchronise()
        return time.perf_counter() - self._paused

    def _phase(self, phase: str, tokens: int) -> None:
        self.phase, self.tokens = ("decode" if phase == "decode" else "prefill"), int(tokens)

    def _piece(self, name: str, text: str) -> None:
        self.attempt.events.send("piece", id=name, text=text)

    def _holding(self, name: str, holding: Holding) -> None:
        if name not in self.members:
            raise ValueError(f"holding was called for {name!r}, which is not in the batch")
        if not self.measuring:
            return
        self.attempt.device.synchronise()
        started = time.perf_counter()
        self.kv[name] = {
            **checked_holding(holding),
            "device": device_bytes(holding, self.attempt.device, self.base, len(self.members)),
        }
        self._paused += time.perf_counter() - started


def generate(bound: Bound, prompts: Sequence[Prompt], watch: Watch, exact_new_tokens: int | None, shared: Any = None) -> Failure | None:
    """Let a method work; its answers land in ``watch``. Returns what went wrong, with the traceback on stderr.

    ``shared`` is a prefill of these prompts to fork from, by a bound that can.
    """
    options = {} if shared is None else {"shared": shared}
    try:
        for answer in bound.generate(prompts, watch.hooks(), exact_new_tokens, **options):
            if answer.id not in watch.members or answer.id in watch.answers:
                raise ValueError(f"the method answered {answer.id!r}, which is not in the batch or was answered before")
            watch.answers[answer.id] = checked_answer(answer, prompts)
    except (Exception, SystemExit) as error:
        kind = classify(error)
        if kind == "too_long":
            print(f"too long: {', '.join(watch.members)}: {error}", file=sys.stderr)
        else:
            traceback.print_exc(file=sys.stderr)
        named = tuple(getattr(error, "ids", ())) if kind == "too_long" else ()
        return Failure(kind, describe(error), named)
    if len(watch.answers) < len(prompts):
        return Failure("error", {"type": "NoAnswer", "message": f"the method answered {len(watch.answers)} of {len(prompts)} requests"})
    return None


def settle(attempt: Attempt, failure: Failure) -> None:
    """Free what a failure left behind. Raises Failed when the process cannot go on: GPU lost, disk full."""
    if failure.kind in ("gpu_lost", "disk_full"):
        raise Failed(failure.kind, f"{failure.detail['type']}: {failure.detail['message']}")
    if failure.kind == "too_long":
        return
    try:
        attempt.device.release()
        attempt.device.synchronise()
    except RuntimeError as error:  # the error before it was the GPU's, under another name
        if classify(error) != "gpu_lost" and "CUDA" not in str(error):
            raise
        raise Failed("gpu_lost", f"after {failure.detail['type']}: {error}") from error
