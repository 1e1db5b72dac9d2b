"""Decoding over blocks, sinks and a window in fixed shapes: places and counts live on the device, no step allocates what stays."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import attention
from ..rotary import Rotary
from .base import Layout
from .block_choice import Blocked, relevance, representatives
from .block_store import BlockStore


@dataclass(frozen=True)
class Prompted:
    """What reading the prompt left: ``keys``, ``values`` and ``scores`` of the tokens in no block, in their order."""

    keys: Tensor
    values: Tensor
    scores: Tensor
    marks: Tensor
    cut: int
    """Blocks that are complete."""
    seen: int


class BlockSteps:
    """One row's decoding. The window is a ring in which token t stands in slot t mod its size.

    What leaves it goes, sinks apart, to a tensor of one block, whose tokens are all seen until the block is complete and may be chosen.
    """

    def __init__(self, layout: Layout, spec: Blocked, rotary: Rotary, store: BlockStore, prompt: Prompted, new_tokens: int) -> None:
        self._spec = spec
        self._rotary = rotary
        self._store = store
        self._seen = prompt.seen
        device, total = layout.device, prompt.seen + new_tokens
        heads, tail = prompt.scores.shape[0], prompt.keys.shape[3]
        self._size = min(spec.local, total)
        first = max(0, prompt.seen - self._size)
        behind = first - prompt.cut * spec.block  # tokens in no block that have left the window
        self._slots = torch.arange(self._size, device=device)
        slots = torch.arange(first, prompt.seen, device=device) % self._size
        self._keys, self._values = (_ring(states[:, :, behind:], slots, self._size) for states in (prompt.keys, prompt.values))
        self._scores = torch.zeros(heads, self._size, device=device)
        self._scores[:, slots] = prompt.scores[:, behind:]
        self._position = torch.full((1,), prompt.seen - 1, dtype=torch.long, device=device)
        left = spec.sinks + spec.block if total > spec.local else 0
        self._left = tuple(_padded(states[:, :, :behind], left) for states in (prompt.keys, prompt.values))
        self._leaving = _padded(prompt.scores[None, :, spec.sinks : behind, None], spec.block if left else 0)[0, :, :, 0]
        # A block that is begun has a place too.
        self._blocks = -(-max(0, total - spec.local - spec.sinks) // spec.block) if spec.chosen else 0
        self._marks = prompt.marks.new_zeros(heads, self._blocks, tail)
        if prompt.cut and self._blocks:
            self._marks[:, : prompt.cut] = prompt.marks
        if self._blocks:
            if store.keys.shape[0] < self._blocks:
                store.grow(self._blocks)
            store.settle(min(spec.chosen, self._blocks))

    def dense(self) -> list[Tensor]:
        """Return the tensors of keys and values, those of the store aside."""
        return [self._keys, self._values, *self._left]

    def index(self) -> list[Tensor]:
        """Return the others."""
        return [self._scores, self._leaving, self._marks, self._position, self._slots]

    def take(self, keys: Tensor, values: Tensor) -> None:
        """Put a token (1, kv_heads, 1, d) into the window; the oldest one leaves it."""
        self._position += 1
        self._seen += 1
        slot = self._position % self._size
        if self._left[0].shape[2]:
            self._leave(slot)
        for ring, new in ((self._keys, keys), (self._values, values)):
            ring.index_copy_(2, slot, new.to(ring.dtype))
        self._scores.index_fill_(1, slot, 0.0)

    def _leave(self, slot: Tensor) -> None:
        """Copy what stands in a slot to its place outside the window.

        While the window is not full it is none: what is copied then is overwritten before anything sees it.
        """
        spec = self._spec
        token = (self._position - spec.local).clamp_(min=0)
        ordinal = (token - spec.sinks).clamp_(min=0)
        number, within = ordinal // spec.block, ordinal % spec.block
        place = torch.where(token < spec.sinks, token, spec.sinks + within)
        for ring, left in zip((self._keys, self._values), self._left):
            left.index_copy_(2, place, ring.index_select(2, slot))
        self._leaving.index_copy_(1, within, self._scores.index_select(1, slot))
        if not self._blocks:
            return
        keys, values = (left[0, :, spec.sinks :].unsqueeze(0) for left in self._left)
        known = torch.arange(spec.block, device=within.device) <= within
        scores = self._leaving.masked_fill(~known, float("-inf")).unsqueeze(1)
        self._marks.index_copy_(1, number, representatives(keys, scores, spec.representatives))
        if not self._store.host:  # again and again: only the last time, when it is complete, counts
            self._store.keys.index_copy_(0, number, keys)
            self._store.values.index_copy_(0, number, values)
            return
        complete = self._seen - spec.local - spec.sinks
        if complete > 0 and complete % spec.block == 0:
            self._store.keep(complete // spec.block - 1, keys, values)

    def attend(self, query: Tensor, scaling: float, softcap: float | None) -> Tensor:
        """Attend from the token taken last, (1, heads, 1, d), un-rotated."""
        spec, rotary, position = self._spec, self._rotary, self._position
        age = (position - self._slots) % self._size
        fixed = rotary.fixed(query, spec.distance)
        complete = (position - spec.sinks - spec.local).clamp_(min=0) // spec.block
        choice = arriving = None
        if self._blocks:
            fits = relevance(fixed, self._marks)
            fits = fits.masked_fill(torch.arange(self._blocks, device=fits.device) >= complete, float("-inf"))
            choice = fits.topk(min(spec.chosen, self._blocks)).indices
            arriving = self._store.fetch(choice)
        out, total, weights = attention.weighed(
            rotary.at(query, self._size - 1), rotary.on_device(self._keys, self._size - 1 - age), self._values,
            scaling=scaling, softcap=softcap, valid=(age <= position)[None, None, None],
        )  # fmt: skip
        share = torch.ones_like(total)
        if self._left[0].shape[2]:
            keys, values = self._left
            places = torch.arange(keys.shape[2], device=query.device)
            visible = places + (places >= spec.sinks) * (complete * spec.block) <= position - spec.local
            if choice is not None and arriving is not None:
                more = arriving()
                keys, values = torch.cat((keys, more[0]), dim=2), torch.cat((values, more[1]), dim=2)
                chosen = (choice < complete).unsqueeze(1).expand(-1, spec.block).flatten()
                visible = torch.cat((visible, chosen))
            scores = attention.scores(fixed, keys, scaling, softcap).masked_fill_(~visible, float("-inf"))
            out = attention.join(out, total, scores, values)
            share = (total - torch.logaddexp(total, scores.logsumexp(-1))).exp_()
        sums = weights[0, :, :, 0] * share[0].unflatten(0, weights.shape[1:3])  # (kv_heads, group, slots)
        self._scores += sums.flatten(0, 1) if spec.per_query_head else sums.sum(1)
        return out


def _ring(states: Tensor, slots: Tensor, size: int) -> Tensor:
    ring = states.new_zeros(*states.shape[:2], size, states.shape[3])
    ring[:, :, slots] = states
    return ring


def _padded(states: Tensor, size: int) -> Tensor:
    """Copy (…, m, d) into a tensor of ``size`` entries, zeros behind."""
    padded = states.new_zeros(*states.shape[:2], size, states.shape[3])
    padded[:, :, : states.shape[2]] = states
    return padded
