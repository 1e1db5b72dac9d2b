"""InfLLM (Xiao et al., 2024, arXiv 2402.04617): distant tokens in blocks, of which the queries at hand choose a few by representatives."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from methods.kv.budget import known
from methods.kv.observe import Observer
from methods.kv.storage.base import Layout, Storage
from methods.kv.storage.block_choice import Blocked
from methods.kv.storage.blocks import BlockStorage
from methods.kv.storage.window import Window, WindowStorage

VARIANTS = ("published", "bench2024")
_NAMES = {"variant", "keep", "tokens", "cap", "sinks", "local", "blocks", "block", "representatives", "chunk", "offload"}
_CHUNK = 2048
"""Prompt tokens a forward pass, about: a whole number of slices."""


@dataclass(frozen=True)
class InfLLM:
    """What each query sees: a budget that is divided by the prompt's length (``keep``, ``tokens``), or numbers of their own."""

    variant: str
    block: int
    representatives: int
    slice: int
    offload: bool
    sinks: int
    local: int | None
    blocks: int
    keep: float | None
    tokens: int | None
    cap: int | None
    rotated: bool = False
    batch: bool = False
    extends_window: bool = True
    shares_prefill: bool = False

    @property
    def chunk(self) -> int:
        """Return the tokens of a forward pass."""
        return self.slice * max(1, _CHUNK // self.slice)

    def split(self, prompt_tokens: int) -> tuple[int, int, int]:
        """Return ``(sinks, blocks, local)``. At least the token itself is in the window, however small the budget."""
        if self.local is not None:
            return self.sinks, self.blocks, self.local
        counted = prompt_tokens if self.cap is None else min(prompt_tokens, self.cap)
        total = max(1, self.tokens if self.tokens is not None else int((self.keep or 0.0) * counted))
        if self.variant == "bench2024":
            sinks, blocks = int(0.021 * total), int(total * 0.324) // self.block
            return sinks, blocks, max(512, total - sinks - blocks * self.block)
        sinks = min(self.sinks, total - 1)
        blocks = (total - sinks) // 3 // self.block
        return sinks, blocks, total - sinks - blocks * self.block

    def spec(self, prompt_tokens: int) -> Blocked:
        """Return how full-attention layers are divided."""
        sinks, blocks, local = self.split(prompt_tokens)
        old = self.variant == "bench2024"
        return Blocked(
            sinks=sinks, local=local, chosen=blocks, distance=local - 1 if old else local, block=self.block,
            representatives=self.representatives, slice=self.slice, per_query_head=old, twice=old, lone_last=old, offload=self.offload,
        )  # fmt: skip

    def observers(self, layout: Layout, row: int) -> Sequence[Observer | None]:
        """Observe nothing: the prompt is not read at full precision."""
        return ()

    def storages(self, layout: Layout) -> list[Storage]:
        """Make a storage of blocks a full-attention layer; a layer with a sliding window keeps to it.

        Raises ValueError where layers rotate differently, and for ``offload`` where host memory is the device's.
        """
        if layout.rotary is None:
            raise ValueError("infllm rotates keys itself and knows one set of frequencies; this model's layers have several")
        if self.offload and layout.device.type == "cpu":
            raise ValueError("infllm: offload moves blocks from a GPU to host memory, and this model runs on the CPU; set offload to false")
        spec = self.spec(layout.contexts[0])
        rotary = copy.copy(layout.rotary)  # positions inside the window; those of sliding layers are the prompt's
        return [
            BlockStorage(layout, spec, rotary)
            if own is None
            else WindowStorage(layout, Window(local=own, kept=own - 1, own=own), layout.rotary)
            for own in layout.shape.windows
        ]


def build(params: Mapping[str, Any]) -> InfLLM:
    """Build the policy. Raises ValueError for parameters that do not fit together."""
    given = known("infllm", params, _NAMES)
    variant = given.get("variant", "published")
    if variant not in VARIANTS:
        raise ValueError(f"infllm: variant '{variant}' is not one of {', '.join(VARIANTS)}")
    if sum(name in given for name in ("keep", "tokens", "local")) != 1:
        raise ValueError("infllm: give one of keep (a share of the prompt's tokens), tokens (a number) and local (the window alone)")
    if not 0 < given.get("keep", 1) <= 1:
        raise ValueError(f"infllm: keep is above 0 and at most 1, not {given['keep']}")
    least = {"tokens": 1, "cap": 1, "sinks": 0, "local": 1, "blocks": 0, "block": 1, "representatives": 1, "chunk": 1}
    for name, low in least.items():
        if given.get(name, low) < low:
            raise ValueError(f"infllm: {name} is at least {low}, not {given[name]}")
    block, representatives = given.get("block", 128), given.get("representatives", 4)
    if representatives > block:
        raise ValueError(f"infllm: a block of {block} tokens has no {representatives} representatives")
    return InfLLM(
        variant=variant,
        block=block,
        representatives=representatives,
        slice=given.get("chunk", 512),
        offload=given.get("offload", False),
        sinks=given.get("sinks", 128),
        local=given.get("local"),
        blocks=given.get("blocks", 16),
        keep=given.get("keep"),
        tokens=given.get("tokens"),
        cap=given.get("cap"),
    )
