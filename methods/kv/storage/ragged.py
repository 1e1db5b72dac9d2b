"""Entries in the model's precision, of each KV head as many as a selection left it: flat buffers, no head padded to another's length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

import torch
from torch import Tensor

from .. import attention, varlen
from .base import Layout, Parts, PromptLayer

Choose = Callable[[int, PromptLayer], Tensor]
"""``(row, prompt)`` → (kv_heads, m) bool: which entries each KV head keeps."""

_LENGTH_BYTES = 4
"""Of each KV head: how many entries it has, int32."""


@dataclass(frozen=True)
class ChunkView:
    """A chunk behind one row's entries: every KV head attends over its own."""

    keys: tuple[Tensor, ...]
    """One (1, 1, entries of the head, head_dim) a KV head, the chunk's own at the end."""
    values: tuple[Tensor, ...]
    kernel: str
    window: int | None = None

    def attend(self, query: Tensor, scaling: float, softcap: float | None) -> Tensor:
        """Attend from (1, heads, n, head_dim)."""
        queries = query.chunk(len(self.keys), dim=1)
        parts = zip(queries, self.keys, self.values)
        return torch.cat([attention.causal(self.kernel, q, k, v, scaling=scaling, softcap=softcap)[0] for q, k, v in parts], dim=1)


@dataclass(frozen=True)
class StepView:
    """One new token of every row."""

    keys: Tensor
    values: Tensor
    kernel: str
    bounds: Sequence[tuple[int, int]]
    """Of each segment, where shapes are not fixed."""
    blocks: varlen.Blocks | None
    ends: Tensor
    window: int | None = None

    def attend(self, query: Tensor, scaling: float, softcap: float | None) -> Tensor:
        """Attend from (rows, heads, 1, head_dim)."""
        if self.blocks is None:
            return varlen.each(self.kernel, query, self.keys, self.values, scaling=scaling, softcap=softcap, bounds=self.bounds)
        return varlen.blocked(query, self.keys, self.values, scaling=scaling, softcap=softcap, blocks=self.blocks, ends=self.ends)


@dataclass
class _Row:
    """A row's flat entries while prompts are read: head after head, each with room for what follows the compressed context."""

    keys: Tensor
    values: Tensor
    starts: list[int]
    counts: list[int]
    """Entries in use, of each KV head."""


class RaggedStorage:
    """Holds what ``choose`` keeps of each row's context: ``entries`` of it over all KV heads together, however they share them.

    Decoding appends behind each head's entries, in room that ``reserve`` made; on CUDA it starts at multiples of ``varlen.BLOCK``.
    """

    def __init__(self, layout: Layout, entries: Sequence[int], choose: Choose) -> None:
        self._layout = layout
        self._after = layout.after or (0,) * layout.rows
        self._entries = tuple(entries)
        self._choose = choose
        self._rows: list[_Row | None] = [None] * layout.rows
        self._row = self._seen = self._appended = 0
        self._lengths = torch.zeros(layout.rows, layout.shape.kv_heads, dtype=torch.int32, device=layout.device)
        self._buffers: tuple[Tensor, Tensor] | None = None
        self._bounds: list[tuple[int, int]] = []
        self._ends = self._lengths.new_zeros(0, dtype=torch.long)
        self._blocks: varlen.Blocks | None = None

    def begin(self, row: int) -> None:
        """Raise TypeError: what is not read at full precision cannot be chosen from."""
        raise TypeError("ragged entries are chosen from a full-precision prefill; their policy must say shares_prefill")

    def fill(self, row: int, prompt: PromptLayer) -> None:
        """Choose and gather. Raises ValueError where more or fewer entries are chosen than were claimed."""
        mask = self._choose(row, prompt)
        counts = [int(count) for count in mask.sum(1).tolist()]
        if sum(counts) != self._entries[row]:
            raise ValueError(f"row {row} keeps {sum(counts)} entries over its KV heads; its storage was made for {self._entries[row]}")
        room = self._after[row]
        starts = [sum(counts[:head]) + head * room for head in range(len(counts))]
        keys, values = prompt.keys[0][mask], prompt.values[0][mask]
        if room:
            places = _places(starts, counts, self._layout.device)
            keys, values = (_spread(entries, places, sum(counts) + len(counts) * room) for entries in (keys, values))
        self._rows[row] = _Row(keys, values, starts, counts)
        self._lengths[row] = mask.sum(1)
        self._row, self._seen, self._appended = row, prompt.seen, 0

    def append(self, keys: Tensor, values: Tensor) -> ChunkView | StepView:
        """Take a chunk behind a row's entries, or one token of every row."""
        self._seen += keys.shape[2]
        return self._extend(keys, values) if self._buffers is None else self._step(self._buffers, keys, values)

    def _extend(self, keys: Tensor, values: Tensor) -> ChunkView:
        row, new = self._at(self._row), keys.shape[2]
        self._appended += new
        if self._appended > self._after[self._row]:
            raise ValueError(f"row {self._row} gets {self._appended} tokens behind its context; {self._after[self._row]} were announced")
        views: tuple[list[Tensor], list[Tensor]] = ([], [])
        for head, (start, count) in enumerate(zip(row.starts, row.counts)):
            for buffer, added, found in zip((row.keys, row.values), (keys, values), views):
                buffer[start + count : start + count + new] = added[0, head]
                found.append(buffer[None, None, start : start + count + new])
        row.counts = [count + new for count in row.counts]
        self._lengths[self._row] += new
        return ChunkView(tuple(views[0]), tuple(views[1]), self._layout.kernel)

    def _step(self, buffers: tuple[Tensor, Tensor], keys: Tensor, values: Tensor) -> StepView:
        for buffer, new in zip(buffers, (keys, values)):
            buffer.index_copy_(0, self._ends, new.reshape(-1, new.shape[-1]).to(buffer.dtype))
        self._ends += 1
        if self._blocks is None:
            self._bounds = [(first, last + 1) for first, last in self._bounds]
        return StepView(*buffers, self._layout.kernel, self._bounds, self._blocks, self._ends)

    def _at(self, number: int) -> _Row:
        row = self._rows[number]
        if row is None:
            raise ValueError(f"row {number} was not filled")
        return row

    def end(self) -> None:
        """Raise ValueError where less came than was claimed: the bytes would be a lie."""
        if self._appended != self._after[self._row]:
            raise ValueError(f"row {self._row} got {self._appended} tokens behind its context; {self._after[self._row]} were announced")

    def reserve(self, new_tokens: int) -> None:
        """Move all rows into one buffer with room for ``new_tokens`` behind each head's entries."""
        layout, rows = self._layout, [self._at(number) for number in range(self._layout.rows)]
        unit = varlen.BLOCK if layout.fixed else 1
        counts = [count for row in rows for count in row.counts]
        capacities = [-(-(count + new_tokens) // unit) * unit for count in counts]
        starts = [sum(capacities[:number]) for number in range(len(capacities))]
        places = _places(starts, counts, layout.device)
        moved = []
        for name in ("keys", "values"):  # one after the other: the old entries of a kind go before the next kind is moved
            flat = torch.cat([getattr(row, name)[start : start + count] for row in rows for start, count in zip(row.starts, row.counts)])
            for row in rows:
                setattr(row, name, flat[:0].clone())
            moved.append(_spread(flat, places, sum(capacities)))
            del flat
        self._buffers = moved[0], moved[1]
        self._rows = [None] * layout.rows
        self._bounds = [(start, start + count) for start, count in zip(starts, counts)]
        self._ends = torch.tensor([last for _, last in self._bounds], dtype=torch.long, device=layout.device)
        self._blocks = varlen.Blocks.of(capacities, layout.device) if layout.fixed else None
        self._seen = layout.longest

    def seen(self) -> int:
        """Tokens that went in."""
        return self._seen

    def held(self, row: int) -> float:
        """Entries held for a row, mean over KV heads; nothing is padded."""
        return self._entries[row] / self._layout.shape.kv_heads + self._after[row]

    def parts(self) -> Parts:
        """Return keys and values, each head's length, and once decoding the places."""
        rows = [row for row in self._rows if row is not None]
        dense = [*(self._buffers or ()), *(row.keys for row in rows), *(row.values for row in rows)]
        blocks = () if self._blocks is None else (self._blocks.segment, self._blocks.offsets)
        return {"dense": dense, "index": (self._lengths, self._ends, *blocks)}

    def analytic(self) -> int:
        """Compute (the entries of all rows and KV heads) × two vectors, and a length a row and KV head."""
        shape = self._layout.shape
        entries = sum(self._entries) + sum(self._after) * shape.kv_heads
        return entries * 2 * shape.head_dim * self._layout.dtype.itemsize + self._layout.rows * shape.kv_heads * _LENGTH_BYTES


def _places(starts: Sequence[int], counts: Sequence[int], device: torch.device) -> Tensor:
    """Return where the entries of segments go, one behind another from each start, (all entries,)."""
    return torch.cat([torch.arange(start, start + count) for start, count in zip(starts, counts)]).to(device)


def _spread(entries: Tensor, places: Tensor, capacity: int) -> Tensor:
    """Return (capacity, d) with ``entries`` at ``places`` and zeros elsewhere: 0 × garbage may be NaN."""
    return entries.new_zeros(capacity, entries.shape[1]).index_copy_(0, places, entries)
