"""A fixed number of slots a KV head: each new token overwrites the entry that a rule thinks least of, so decoding never grows the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .. import attention
from .base import Layout, Parts, PromptLayer

_INDEX_BYTES = 8
"""Of each entry of each KV head: a float32 score and an int32 position."""


@dataclass(frozen=True)
class Slots:
    """What a rule works on, for some rows; it changes ``scores`` in place and nothing else."""

    scores: Tensor
    """(rows, kv_heads, slots) in float32; of a new token 0 until the rule has seen its first weights."""
    positions: Tensor
    """(rows, kv_heads, slots) in int32; -1: the slot is free."""
    now: Tensor
    """(rows, 1, 1) in int32: the position of the latest token."""


class Rule(Protocol):
    """Scores the entries after every step. Runs in each decode step, so in fixed shapes: no ``.item()``, no boolean indexing."""

    def renew(self, slots: Slots, weights: Tensor) -> None:
        """Take in the attention weights (rows, kv_heads, group, n, slots), float32, of the latest ``n`` tokens (one when decoding)."""

    def worth(self, slots: Slots) -> Tensor:
        """Return (rows, kv_heads, slots) in float32: the next token overwrites the lowest. ``inf`` protects, as for recent tokens."""


@dataclass(frozen=True)
class SlotView:
    """The slots of all rows when decoding, of one row and a causal mask for a chunk of its prompt. Attending lets the rule decide."""

    keys: Tensor
    values: Tensor
    valid: Tensor
    slots: Slots
    storage: SlotStorage
    window: int | None = None

    def attend(self, query: Tensor, scaling: float, softcap: float | None) -> Tensor:
        """Attend from (rows, heads, n, head_dim)."""
        out, _, weights = attention.weighed(query, self.keys, self.values, scaling=scaling, softcap=softcap, valid=self.valid)
        self.storage.decided(self.slots, weights)
        return out


class SlotStorage:
    """Holds ``entries`` a row and KV head when the prompts are complete, as a selection filled them, and goes on with as many.

    While a step runs the new token stands beside them, in the one slot that ``reserve`` adds. With ``limit``, rows that hold fewer grow up
    to it before anything is overwritten. Slots are filled from the left. Decoding is the same on CPU and CUDA: fixed shapes.
    """

    def __init__(self, layout: Layout, entries: Sequence[int], rule: Rule, limit: int | None = None) -> None:
        self._layout = layout
        self._entries = tuple(entries)
        self._limits = tuple(count if limit is None else max(count, limit) for count in entries)
        self._rule = rule
        self._row = self._filled = self._seen = 0
        self._decoding = False
        rows, kv_heads, most = layout.rows, layout.shape.kv_heads, max(entries)
        self._keys, self._values = layout.empty(most), layout.empty(most)
        self._scores = torch.zeros(rows, kv_heads, most, device=layout.device)
        self._positions = torch.full((rows, kv_heads, most), -1, dtype=torch.int32, device=layout.device)
        self._now = torch.zeros(0, dtype=torch.int32, device=layout.device)
        self._hole = torch.zeros(0, dtype=torch.long, device=layout.device)
        self._beyond = torch.zeros(0, dtype=torch.bool, device=layout.device)

    def begin(self, row: int) -> None:
        """Raise TypeError: slots are filled from a full-precision prefill."""
        raise TypeError("slots are filled from a full-precision prefill; their policy must say shares_prefill")

    def fill(self, row: int, prompt: PromptLayer) -> None:
        """Take the selected entries with their scores and positions."""
        count = prompt.keys.shape[2]
        places = (
            torch.arange(prompt.seen - count, prompt.seen, device=self._layout.device) if prompt.positions is None else prompt.positions
        )
        self._row, self._filled, self._seen = row, count, prompt.seen
        self._keys[row, :, :count], self._values[row, :, :count] = prompt.keys[0], prompt.values[0]
        self._positions[row, :, :count] = places[0].to(torch.int32) if places.dim() == 3 else places.to(torch.int32)
        self._scores[row, :, :count] = 0.0 if prompt.scores is None else prompt.scores[0]

    def append(self, keys: Tensor, values: Tensor) -> SlotView:
        """Take a chunk behind a row's entries, or write one token of every row into the slot chosen last."""
        return self._step(keys, values) if self._decoding else self._extend(keys, values)

    def _extend(self, keys: Tensor, values: Tensor) -> SlotView:
        new, device = keys.shape[2], self._layout.device
        row, first, last = slice(self._row, self._row + 1), self._filled, self._filled + keys.shape[2]
        if last > self._entries[self._row]:
            raise ValueError(f"row {self._row} gets more entries than the {self._entries[self._row]} that its storage was made for")
        self._keys[row, :, first:last], self._values[row, :, first:last] = keys, values
        self._positions[row, :, first:last] = torch.arange(self._seen, self._seen + new, dtype=torch.int32, device=device)
        self._scores[row, :, first:last] = 0.0
        self._filled, self._seen = last, self._seen + new
        causal = torch.arange(last, device=device) <= torch.arange(first, last, device=device)[:, None]
        now = torch.full((1, 1, 1), self._seen - 1, dtype=torch.int32, device=device)
        slots = Slots(self._scores[row, :, :last], self._positions[row, :, :last], now)
        return SlotView(self._keys[row, :, :last], self._values[row, :, :last], causal[None, None], slots, self)

    def _step(self, keys: Tensor, values: Tensor) -> SlotView:
        hole = self._hole.unsqueeze(-1)
        wide = hole.unsqueeze(-1).expand(-1, -1, -1, keys.shape[-1])
        self._now += 1
        self._seen += 1
        self._keys.scatter_(2, wide, keys.to(self._keys.dtype))
        self._values.scatter_(2, wide, values.to(self._values.dtype))
        self._positions.scatter_(2, hole, self._now.expand(-1, hole.shape[1], -1))
        self._scores.scatter_(2, hole, 0.0)
        slots = Slots(self._scores, self._positions, self._now)
        return SlotView(self._keys, self._values, (self._positions >= 0).unsqueeze(2), slots, self)

    def decided(self, slots: Slots, weights: Tensor) -> None:
        """Let the rule see a step's weights; when decoding, choose the slot of the next token."""
        self._rule.renew(slots, weights)
        if self._decoding:
            self._choose(slots)

    def _choose(self, slots: Slots) -> None:
        worth = self._rule.worth(slots).masked_fill(slots.positions < 0, float("-inf")).masked_fill(self._beyond, float("inf"))
        self._hole.copy_(worth.argmin(-1))

    def end(self) -> None:
        """Raise ValueError where less came than was claimed: the bytes would be a lie."""
        if self._filled != self._entries[self._row]:
            raise ValueError(f"row {self._row} has {self._filled} entries; its storage was made for {self._entries[self._row]}")

    def reserve(self, new_tokens: int) -> None:
        """Add the slot in which the new token stands, and those up to the limit."""
        device, lengths = self._layout.device, self._layout.lengths
        capacities = [min(limit, count + new_tokens) + 1 for count, limit in zip(self._entries, self._limits)]
        extra = max(capacities) - max(self._entries)
        for name in ("_keys", "_values"):
            old = getattr(self, name)
            setattr(self, name, torch.cat((old, old.new_zeros(*old.shape[:2], extra, old.shape[3])), dim=2))
        rows, kv_heads = self._scores.shape[:2]
        self._scores = torch.cat((self._scores, self._scores.new_zeros(rows, kv_heads, extra)), dim=2)
        self._positions = torch.cat((self._positions, self._positions.new_full((rows, kv_heads, extra), -1)), dim=2)
        self._beyond = torch.arange(max(capacities), device=device) >= torch.tensor(capacities, device=device)[:, None, None]
        self._now = torch.tensor([length - 1 for length in lengths], dtype=torch.int32, device=device)[:, None, None]
        self._hole = torch.zeros(rows, kv_heads, dtype=torch.long, device=device)
        self._decoding, self._seen = True, max(lengths)
        self._choose(Slots(self._scores, self._positions, self._now))

    def seen(self) -> int:
        """Tokens that went in."""
        return self._seen

    def held(self, row: int) -> float:
        """Entries held for a row, its padding included."""
        return self._keys.shape[2]

    def parts(self) -> Parts:
        """Return keys and values; scores, positions and what else tells slots apart."""
        return {"dense": (self._keys, self._values), "index": (self._scores, self._positions, self._now, self._hole, self._beyond)}

    def analytic(self) -> int:
        """Compute rows × the most entries × (two vectors, a score and a position a KV head)."""
        return self._layout.rows * max(self._entries) * (self._layout.entry_bytes() + self._layout.shape.kv_heads * _INDEX_BYTES)
