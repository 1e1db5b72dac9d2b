"""Un-rotated keys in blocks that queries choose by a few representatives, beside first tokens and a window: InfLLM's context memory.

This module reads prompts; ``block_steps`` decodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import torch
from torch import Tensor

from .. import attention
from ..rotary import Rotary
from .base import Layout, Parts, PromptLayer
from .block_choice import Blocked, relevance, representatives
from .block_steps import BlockSteps, Prompted
from .block_store import BlockStore, DeviceBlocks, HostBlocks, Pair

_SCORES = 1 << 25
"""Scores of a slice that are held at once, in float32: heads beyond that wait their turn."""


@dataclass(frozen=True)
class BlockView:
    """The tokens of one forward pass. Attending changes what the storage knows: it must happen once."""

    attending: Callable[[Tensor, float, float | None], Tensor]
    window: int | None = None

    def attend(self, query: Tensor, scaling: float, softcap: float | None) -> Tensor:
        """Attend from (1, heads, n, head_dim), un-rotated."""
        return self.attending(query, scaling, softcap)


class BlockStorage:
    """Holds all tokens of one row: sinks and what is in no block yet in one tensor, complete blocks in a store.

    Blocks that nobody may choose (``chosen`` 0) are dropped. ``rotary`` is this storage's own or shared with its like: it is left
    prepared for positions from 0.
    """

    def __init__(self, layout: Layout, spec: Blocked, rotary: Rotary) -> None:
        if layout.rows > 1:
            raise ValueError("a storage of blocks holds one row")
        self._layout = layout
        self._spec = spec
        self._rotary = rotary
        self._steps: BlockSteps | None = None
        self.begin(0)

    def begin(self, row: int) -> None:
        """Start the prompt."""
        layout, spec = self._layout, self._spec
        self._seen = self._read = self._cut = 0
        self._keys, self._values = layout.empty(0), layout.empty(0)
        self._scores = torch.zeros(0, 0, device=layout.device)
        self._marks = torch.zeros(0, 0, layout.shape.head_dim, dtype=layout.dtype, device=layout.device)
        self._store: BlockStore = (HostBlocks if spec.offload else DeviceBlocks)(layout, spec.block)
        if spec.chosen:
            self._store.grow(spec.blocks(layout.longest))

    def fill(self, row: int, prompt: PromptLayer) -> None:
        """Raise TypeError: what the model rotated cannot be put at another distance."""
        raise TypeError("a storage of blocks reads its prompt by itself; its policy must not say shares_prefill")

    def append(self, keys: Tensor, values: Tensor) -> BlockView:
        """Take a chunk of the prompt, or one token."""
        self._seen += keys.shape[2]
        if self._steps is not None:
            self._steps.take(keys, values)
            return BlockView(self._steps.attend)
        self._keys, self._values = torch.cat((self._keys, keys), dim=2), torch.cat((self._values, values), dim=2)
        return BlockView(self._attend)

    def _attend(self, query: Tensor, scaling: float, softcap: float | None) -> Tensor:
        spec, first, last = self._spec, self._read, self._seen
        new = last - first
        heads = query.shape[1] if spec.per_query_head else self._layout.shape.kv_heads
        before = self._scores if self._scores.shape[0] else self._scores.new_zeros(heads, 0)
        self._scores = torch.cat((before, before.new_zeros(heads, new)), dim=1)
        cuts = {last, *range(first - first % spec.slice + spec.slice, last, spec.slice)}
        cuts |= {
            place for place in (self._layout.contexts[0], self._layout.longest - 1 if spec.lone_last else last) if first < place < last
        }
        outs, start = [], first
        for end in sorted(cuts):
            outs.append(self._slice(query[:, :, start - first : end - first], start, scaling, softcap))
            self._read = start = end
            self._move()
        return torch.cat(outs, dim=2)

    def _slice(self, query: Tensor, first: int, scaling: float, softcap: float | None) -> Tensor:
        """Attend from the queries ``first …``; add what the tokens in their windows got to those tokens' scores."""
        spec, rotary, queries = self._spec, self._rotary, query.shape[2]
        shift, last = self._cut * spec.block, first + queries  # token t behind the blocks has index t - shift
        rotary.ensure(min(self._layout.longest, spec.local + spec.slice), query.device)
        fixed = rotary.fixed(query, spec.distance)
        choice = self._choose(fixed)
        arriving = None if choice is None else self._store.fetch(choice)
        near = slice(max(0, first - spec.local + 1) - shift, last - shift)
        keys, values = rotary.at(self._keys[:, :, near], 0), self._values[:, :, near]
        query = rotary.at(query, keys.shape[2] - queries)
        out, lse = attention.causal(self._layout.kernel, query, keys, values, scaling=scaling, window=spec.local, softcap=softcap)
        far = max(0, last - spec.local - shift)
        distant: Pair = self._keys[:, :, :far], self._values[:, :, :far]
        if arriving is not None:
            distant = tuple(torch.cat(pair, dim=2) for pair in zip(distant, arriving()))  # type: ignore[assignment]
        return self._joined(_Near(query, keys, out, lse, near), fixed, distant, self._hidden(first, queries, far), scaling, softcap)

    def _choose(self, query: Tensor) -> Tensor | None:
        """Return the numbers of the blocks that fit the mean of a slice's queries best, or None where there is none."""
        count = min(self._spec.chosen, self._cut)
        if not count:
            return None
        return relevance(query, self._marks[:, : self._cut]).topk(count).indices

    def _hidden(self, first: int, queries: int, far: int) -> Tensor:
        """Return which of the ``far`` tokens in no block a query does not see as distant, (n, far)."""
        places = torch.arange(far, device=self._layout.device)
        places = places + (places >= self._spec.sinks) * (self._cut * self._spec.block)
        if self._spec.twice:
            return torch.zeros(queries, far, dtype=torch.bool, device=places.device)
        return torch.arange(first, first + queries, device=places.device)[:, None] - places < self._spec.local

    def _joined(self, near: _Near, fixed: Tensor, distant: Pair, hidden: Tensor, scaling: float, softcap: float | None) -> Tensor:
        """Make one softmax of both parts, a few KV heads at a time, and add the weights of the near ones to their scores."""
        kv_heads, queries = near.keys.shape[1], near.query.shape[2]
        group, columns, far = near.query.shape[1] // kv_heads, near.keys.shape[2], hidden.shape[1]
        step = max(1, _SCORES // (group * queries * max(columns, distant[0].shape[2])))
        distance = torch.arange(columns - queries, columns, device=hidden.device)[:, None] - torch.arange(columns, device=hidden.device)
        outside = (distance < 0) | (distance >= self._spec.local)
        outs = []
        for low in range(0, kv_heads, step):
            kv, heads = slice(low, low + step), slice(low * group, (low + step) * group)
            out, total = near.out[:, heads], near.lse[:, heads]
            if distant[0].shape[2]:
                scores = attention.scores(fixed[:, heads], distant[0][:, kv], scaling, softcap)
                scores[..., :far].masked_fill_(hidden, float("-inf"))
                out = attention.join(out, total, scores, distant[1][:, kv])
                total = torch.logaddexp(total, scores.logsumexp(-1))
            outs.append(out)
            scores = attention.scores(near.query[:, heads], near.keys[:, kv], scaling, softcap).masked_fill_(outside, float("-inf"))
            sums = scores.sub_(total.unsqueeze(-1)).exp_().sum(2)[0]  # (heads, columns)
            rows = heads if self._spec.per_query_head else kv
            self._scores[rows, near.place] += sums if self._spec.per_query_head else sums.unflatten(0, (-1, group)).sum(1)
        return torch.cat(outs, dim=1)

    def _move(self) -> None:
        """Move what has filled blocks behind the window to the store."""
        spec, sinks = self._spec, self._spec.sinks
        new = spec.blocks(self._read) - self._cut
        if not new:
            return
        behind = sinks + new * spec.block
        if spec.chosen:
            keys, values = (
                states[0, :, sinks:behind].unflatten(1, (new, spec.block)).transpose(0, 1) for states in (self._keys, self._values)
            )
            self._store.keep(self._cut, keys, values)
            marks = representatives(keys, self._scores[:, sinks:behind].unflatten(1, (new, spec.block)), spec.representatives)
            if not self._marks.shape[0]:
                self._marks = marks.new_zeros(marks.shape[0], spec.blocks(self._layout.longest), marks.shape[2])
            self._marks[:, self._cut : self._cut + new] = marks
        self._keys = torch.cat((self._keys[:, :, :sinks], self._keys[:, :, behind:]), dim=2)
        self._values = torch.cat((self._values[:, :, :sinks], self._values[:, :, behind:]), dim=2)
        self._scores = torch.cat((self._scores[:, :sinks], self._scores[:, behind:]), dim=1)
        self._cut += new

    def end(self) -> None:
        """Drop what only reading took."""
        self._rotary.forget()
        self._store.settle(0)

    def reserve(self, new_tokens: int) -> None:
        """Lay everything out for steps of fixed shape."""
        layout, spec = self._layout, self._spec
        self._rotary.ensure(min(spec.local, self._seen + new_tokens), layout.device)
        whole = Prompted(self._keys, self._values, self._scores, self._marks, self._cut, self._seen)
        self._keys, self._values = layout.empty(0), layout.empty(0)
        self._scores, self._marks = self._scores[:, :0].clone(), self._marks[:, :0].clone()
        self._steps = BlockSteps(layout, spec, self._rotary, self._store, whole, new_tokens)

    def seen(self) -> int:
        """Tokens that went in."""
        return self._seen

    def held(self, row: int) -> float:
        """Entries held, those in host memory included."""
        return self._keys.shape[2] + (self._cut * self._spec.block if self._spec.chosen else 0)

    def parts(self) -> Parts:
        """Return keys and values; scores and representatives; blocks in host memory."""
        store = self._store
        dense = [self._keys, self._values, *store.buffers()]
        index = [self._scores, self._marks]
        if not store.host:
            dense += [store.keys, store.values]
        if self._steps is not None:
            dense += self._steps.dense()
            index += self._steps.index()
        return {"dense": dense, "index": index, "host": (store.keys, store.values) if store.host else ()}

    def analytic(self) -> int:
        """Compute entries on the device, and for each head a score of each in no block and a mean key of each block."""
        layout, spec = self._layout, self._spec
        blocks = spec.blocks(layout.longest)
        loose = layout.longest - blocks * spec.block
        entries = loose if spec.offload or not spec.chosen else layout.longest
        heads, marks = self._scores.shape[0], blocks if spec.chosen else 0
        return entries * layout.entry_bytes() + heads * (loose * 4 + marks * layout.shape.head_dim * layout.dtype.itemsize)


@dataclass(frozen=True)
class _Near:
    """The window of a slice, rotated, and what attending to it alone gave."""

    query: Tensor
    keys: Tensor
    out: Tensor
    lse: Tensor
    place: slice
