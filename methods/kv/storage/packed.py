"""Entries packed into codes of a few bits, the youngest in the model's precision; what is packed is never quantised again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import attention, packed_attention
from ..quantise import Codes, Scheme, quantise
from .base import Layout, Parts, PromptLayer

_SPAN_ELEMENTS = 1 << 23
"""Numbers of a prompt that are quantised at once."""


@dataclass(frozen=True)
class PackedView:
    """The packed entries, and a tail of younger ones in full precision that comes behind them."""

    keys: Codes
    values: Codes
    count: Tensor
    """(rows,): entries attended to as codes."""
    visible: int
    tail: tuple[Tensor, Tensor]
    """Keys and values, (rows, kv_heads, t, head_dim)."""
    valid: Tensor | None
    """Which of the tail are any, (rows, 1, 1, t), when decoding; None: a chunk of one row, whose queries are the last of the tail."""
    kernel: str
    window: int | None = None

    def attend(self, query: Tensor, scaling: float, softcap: float | None) -> Tensor:
        """Attend from (rows, heads, n, head_dim)."""
        if self.valid is None:
            rest = attention.causal(self.kernel, query, *self.tail, scaling=scaling, softcap=softcap)
        else:
            rest = attention.masked(query, *self.tail, scaling=scaling, softcap=softcap, valid=self.valid)
        if not self.visible:
            return rest[0]
        packed = packed_attention.attend(query, self.keys, self.values, self.count, self.visible, scaling=scaling, softcap=softcap)
        return packed_attention.merge(packed, rest)


class Half:
    """The keys, or the values, of all rows: the first entries of a row packed, aligned on the left, the others in a ring.

    Until decoding starts the ring has just the entries of the row with most; then ``scheme.capacity`` slots: entry i of a row stands in
    slot (i - first) % capacity, where ``first`` is what was packed before.
    """

    def __init__(self, layout: Layout, scheme: Scheme, entries: Sequence[int]) -> None:
        self.scheme = scheme.fitted(layout.shape.head_dim)
        self._layout = layout
        packed = [scheme.packed(count) for count in entries]
        self._sizes = max(packed), max(count - done for count, done in zip(entries, packed))
        self.codes, self.scale, self.minimum = self._buffers(self._sizes[0])
        self.ring = layout.empty(self._sizes[1])
        self.done = [0] * layout.rows
        """Packed entries of each row; while decoding in fixed shapes only ``packed`` knows."""
        self.tail = layout.empty(0)[:1]
        """What is not packed of the row whose prompt is being taken, (1, kv_heads, t, head_dim)."""
        self.first = self.packed = torch.zeros(0, dtype=torch.long, device=layout.device)

    def _buffers(self, entries: int) -> tuple[Tensor, Tensor, Tensor]:
        rows, heads, size, device = self._layout.rows, self._layout.shape.kv_heads, self._layout.shape.head_dim, self._layout.device
        scales = self.scheme.scales(entries, size)
        return (
            torch.zeros(rows, heads, entries, self.scheme.code_bytes(size), dtype=torch.uint8, device=device),
            torch.zeros(rows, heads, *scales, dtype=torch.float16, device=device),
            torch.zeros(rows, heads, *scales, dtype=torch.float16, device=device),
        )

    def fill(self, row: int, states: Tensor) -> None:
        """Take the entries of a row, (1, kv_heads, m, head_dim): pack the old ones, copy the others."""
        count = self.scheme.packed(states.shape[2])
        self.done[row] = 0
        self._pack(row, states[:, :, :count])
        self.tail = states[:, :, count:].clone()

    def _pack(self, row: int, states: Tensor) -> None:
        """Pack entries behind those of a row, a span at a time."""
        scheme, start = self.scheme, self.done[row]
        heads, count, size = states.shape[1:]
        span = max(1, _SPAN_ELEMENTS // (heads * size * scheme.flush)) * scheme.flush
        group = scheme.group if scheme.along == "tokens" else 1
        for low in range(0, count, span):
            new = quantise(states[:, :, low : low + span], scheme)
            at, many = start + low, new.codes.shape[2]
            self.codes[row, :, at : at + many] = new.codes[0]
            self.scale[row, :, at // group : (at + many) // group] = new.scale[0]
            self.minimum[row, :, at // group : (at + many) // group] = new.minimum[0]
        self.done[row] = start + count

    def extend(self, states: Tensor) -> None:
        """Take more entries of the row at hand."""
        self.tail = torch.cat((self.tail, states.to(self.tail.dtype)), dim=2)

    def end(self, row: int) -> None:
        """The row is complete: pack what is old enough by now, and keep the rest beside the other rows."""
        more = self.scheme.packed(self.done[row] + self.tail.shape[2]) - self.done[row]
        self._pack(row, self.tail[:, :, :more])
        self.ring[row, :, : self.tail.shape[2] - more] = self.tail[0, :, more:]
        self.tail = self._layout.empty(0)[:1]

    def reserve(self, entries: Sequence[int], new: int) -> None:
        """Make room for ``new`` more of each row; one flush more, as a flush that is not due writes too."""
        scheme, device = self.scheme, self._layout.device
        flushes = [max(0, -(-(count + new - scheme.capacity - done) // scheme.flush)) for count, done in zip(entries, self.done)]
        wider = self._buffers(max(done + scheme.flush * (count + 1) for done, count in zip(self.done, flushes)))
        for buffer, old in zip(wider, (self.codes, self.scale, self.minimum)):
            buffer[:, :, : old.shape[2]] = old
        self.codes, self.scale, self.minimum = wider
        ring = self.ring.new_zeros(*self.ring.shape[:2], scheme.capacity, self.ring.shape[3])
        ring[:, :, : self.ring.shape[2]] = self.ring
        self.ring = ring
        self.first = torch.tensor(self.done, device=device)
        self.packed = self.first.clone()

    def flush(self, total: Tensor) -> None:
        """Pack the oldest entries of the rows whose ring is full, given the entries of each row, (rows,).

        Of the others, too, something is packed, behind what counts: shapes stay fixed, and the real one overwrites it later.
        """
        scheme = self.scheme
        oldest = self.ring
        if scheme.flush != scheme.capacity:
            slot = (self.packed - self.first) % scheme.capacity
            oldest = oldest.gather(2, _index(slot, oldest[:, :, :1]))
        new = quantise(oldest, scheme)
        place = self.packed // scheme.flush
        for buffer, fresh in ((self.codes, new.codes), (self.scale, new.scale), (self.minimum, new.minimum)):
            chunks = buffer.view(*buffer.shape[:2], -1, fresh.shape[2] * fresh.shape[3])
            flat = fresh.flatten(2).unsqueeze(2)
            chunks.scatter_(2, _index(place, flat), flat)
        self.packed += (total - self.packed == scheme.capacity) * scheme.flush

    def flush_due(self, total: Tensor, entries: Sequence[int]) -> None:
        """Flush where the numbers on the host say that some row is due: on CPU."""
        full = [count - done == self.scheme.capacity for count, done in zip(entries, self.done)]
        if any(full):
            self.flush(total)
            self.done = [done + due * self.scheme.flush for done, due in zip(self.done, full)]

    def put(self, total: Tensor, states: Tensor) -> None:
        """Write one new entry of each row, (rows, kv_heads, 1, head_dim)."""
        self.ring.scatter_(2, _index((total - self.first) % self.scheme.capacity, states), states.to(self.ring.dtype))

    def all(self) -> Codes:
        """Return the packed entries of all rows."""
        return Codes(self.scheme, self.codes, self.scale, self.minimum)

    def of(self, row: int) -> Codes:
        """Return the packed entries of a row."""
        rows = slice(row, row + 1)
        return Codes(self.scheme, self.codes[rows], self.scale[rows], self.minimum[rows])

    def at(self, places: Tensor) -> Tensor:
        """Return the entries at ``places`` (rows, n), those of the ring and those that are packed: (rows, kv_heads, n, head_dim)."""
        slots = (places - self.first[:, None]) % self.scheme.capacity
        index = slots[:, None, :, None].expand(-1, self.ring.shape[1], -1, self.ring.shape[3])
        old = self.all().at(places.clamp(0, self.codes.shape[2] - 1), self.ring.dtype)
        return torch.where((places < self.packed[:, None])[:, None, :, None], old, self.ring.gather(2, index))

    def analytic(self) -> int:
        """Compute the bytes of the rows when the prompts are complete."""
        shape, (packed, rest) = self._layout.shape, self._sizes
        scales = self.scheme.scales(packed, shape.head_dim)
        head = packed * self.scheme.code_bytes(shape.head_dim) + 4 * scales[0] * scales[1]
        return self._layout.rows * shape.kv_heads * (head + rest * shape.head_dim * self._layout.dtype.itemsize)


def _index(places: Tensor, like: Tensor) -> Tensor:
    """View a place a row, (rows,), as an index along dimension 2 for tensors such as ``like`` (rows, heads, 1, d)."""
    return places[:, None, None, None].expand(-1, like.shape[1], 1, like.shape[3])


class PackedStorage:
    """Holds ``entries`` of each row (default: its whole prompt) by two schemes, then all new tokens too.

    It is filled from a full-precision prefill, and may hold what a selection left. Keys must be packed no later than values.
    """

    def __init__(self, layout: Layout, entries: Sequence[int] | None = None, *, keys: Scheme, values: Scheme) -> None:
        if keys.capacity > values.capacity:
            raise ValueError(f"keys keep {keys.capacity} entries in full precision, values {values.capacity}: keys may not keep more")
        self._layout = layout
        self._entries = layout.lengths if entries is None else tuple(entries)
        self._keys, self._values = Half(layout, keys, self._entries), Half(layout, values, self._entries)
        self._together = (keys.along, keys.residual) == (values.along, values.residual)
        self._row = self._filled = self._seen = 0
        self._counts = list(self._entries)
        self._total: Tensor | None = None

    def begin(self, row: int) -> None:
        """Raise TypeError: packed entries are filled from a full-precision prefill."""
        raise TypeError("packed entries are filled from a full-precision prefill; their policy must say shares_prefill")

    def fill(self, row: int, prompt: PromptLayer) -> None:
        """Take all entries of a prompt. Copies."""
        self._row, self._filled, self._seen = row, 0, prompt.seen
        self._came(prompt.keys.shape[2])
        self._keys.fill(row, prompt.keys)
        self._values.fill(row, prompt.values)

    def _came(self, entries: int) -> None:
        self._filled += entries
        if self._filled > self._entries[self._row]:
            raise ValueError(f"row {self._row} gets more entries than the {self._entries[self._row]} that its storage was made for")

    def append(self, keys: Tensor, values: Tensor) -> PackedView:
        """Take a chunk behind a row's entries, or one token of every row."""
        return self._extend(keys, values) if self._total is None else self._step(keys, values)

    def _extend(self, keys: Tensor, values: Tensor) -> PackedView:
        self._came(keys.shape[2])
        self._seen += keys.shape[2]
        self._keys.extend(keys)
        self._values.extend(values)
        row, done = self._row, self._values.done[self._row]
        places = torch.arange(done, self._keys.done[row], device=keys.device)[None]
        between = self._keys.of(row).at(places, self._layout.dtype)  # packed keys whose values are not
        tail = torch.cat((between, self._keys.tail), dim=2), self._values.tail
        count = torch.full((1,), done, device=keys.device)
        return PackedView(self._keys.of(row), self._values.of(row), count, done, tail, None, self._layout.kernel)

    def _step(self, keys: Tensor, values: Tensor) -> PackedView:
        assert self._total is not None
        fixed, halves = self._layout.fixed, ((self._keys, keys), (self._values, values))
        for half, new in halves:
            if fixed:
                half.flush(self._total)
            else:
                half.flush_due(self._total, self._counts)
            half.put(self._total, new)
        self._total += 1
        self._seen += 1
        self._counts = [count + 1 for count in self._counts]
        held = self._values
        slots = torch.arange(held.scheme.capacity, device=keys.device)
        places = held.packed[:, None] + (slots - (held.packed - held.first)[:, None]) % held.scheme.capacity
        valid = (places < self._total[:, None])[:, None, None]
        tail = self._keys.ring if self._together else self._keys.at(places), held.ring
        visible = held.codes.shape[2] if fixed else max(held.done)
        visible = min(visible, self._keys.codes.shape[2])
        return PackedView(self._keys.all(), held.all(), held.packed, visible, tail, valid, self._layout.kernel)

    def end(self) -> None:
        """Pack what is old enough by now. Raises ValueError where less came than was claimed: the bytes would be a lie."""
        if self._filled != self._entries[self._row]:
            raise ValueError(f"row {self._row} has {self._filled} entries; its storage was made for {self._entries[self._row]}")
        self._keys.end(self._row)
        self._values.end(self._row)

    def reserve(self, new_tokens: int) -> None:
        """Move to buffers with room for ``new_tokens``."""
        self._seen = self._layout.longest
        self._keys.reserve(self._entries, new_tokens)
        self._values.reserve(self._entries, new_tokens)
        self._total = torch.tensor(self._entries, device=self._layout.device)

    def seen(self) -> int:
        """Tokens that went in."""
        return self._seen

    def held(self, row: int) -> float:
        """Entries held for a row, its padding included."""
        return max(self._entries)

    def parts(self) -> Parts:
        """Return codes; scales and minima; what is in full precision; and once decoding the places."""
        halves = self._keys, self._values
        return {
            "codes": [half.codes for half in halves],
            "scales": [tensor for half in halves for tensor in (half.scale, half.minimum)],
            "dense": [half.ring for half in halves],
            "index": [tensor for half in halves for tensor in (half.first, half.packed)] + [self._total] * (self._total is not None),
        }

    def analytic(self) -> int:
        """Compute, of keys and values, codes, scales and minima of the row with most, and what stays in full precision."""
        return self._keys.analytic() + self._values.analytic()
