"""The first few tokens and the last ones of a layer: sliding-window layers (no first ones), and StreamingLLM's windowed cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import attention
from ..rotary import Rotary
from .base import Layout, Parts, PromptLayer


@dataclass(frozen=True)
class Window:
    """What a layer sees. A query sees keys less than ``local`` tokens back at their true distance.

    Further back it sees only the first ``sinks`` tokens: key ``j`` at position ``j``, the query at position ``local + sinks - 1`` whatever
    its own is (with ``rolling``: unless its own is less), unless the layer has a sliding window of its own (``own``) that has passed them.
    """

    local: int
    kept: int
    """Tokens of the window held when the prompt is complete: ``local``, or one less, as the next query is in the window too."""
    sinks: int = 0
    own: int | None = None
    rolling: bool = False
    """Whether positions are those inside a cache that starts to roll once it is full: until then sinks, too, stand at true distance."""

    @property
    def last(self) -> int:
        """The position from which sinks outside the window are seen: the last one inside the cache."""
        return self.local + self.sinks - 1


@dataclass(frozen=True)
class WindowView:
    """The queries ``first … first + n - 1`` of a row: keys at true distance, then sinks at the fixed one."""

    near: tuple[Tensor, Tensor]
    far: tuple[Tensor, Tensor]
    """The first tokens, whether visible or not."""
    first: int
    spec: Window
    kernel: str
    rotary: Rotary | None
    single: bool
    valid: Tensor | None = None

    @property
    def window(self) -> int | None:
        """The layer's own sliding window."""
        return self.spec.own

    @property
    def keys(self) -> Tensor:
        """The keys at true distance."""
        return self.near[0]

    @property
    def values(self) -> Tensor:
        """The values at true distance."""
        return self.near[1]

    def attended(self, query: Tensor, scaling: float, softcap: float | None) -> tuple[Tensor, Tensor]:
        """Attend within the window only, from keys and queries that the model rotated; return the log-sum-exp (1, heads, n) too."""
        assert self.rotary is None and not self.single
        return attention.causal(self.kernel, query, *self.near, scaling=scaling, window=self.spec.local, softcap=softcap)

    def attend(self, query: Tensor, scaling: float, softcap: float | None) -> Tensor:
        """Attend from (rows, heads, n, head_dim)."""
        turned = query if self.rotary is None else self.rotary.at(query, self.first)
        if self.single:
            out, lse = attention.single(self.kernel, turned, *self.near, scaling=scaling, softcap=softcap, valid=self.valid)
        else:
            out, lse = attention.causal(self.kernel, turned, *self.near, scaling=scaling, window=self.spec.local, softcap=softcap)
        skip = max(0, self.spec.local - self.first)  # queries that see every token at its true distance
        if not self.far[0].shape[2] or skip >= query.shape[2]:
            return out
        assert self.rotary is not None and lse is not None
        fixed = self.rotary.fixed(query[:, :, skip:], self.spec.last)
        early = max(0, self.spec.last - self.first - skip) if self.spec.rolling else 0  # queries before the cache rolls
        if early:
            fixed = torch.cat((turned[:, :, skip : skip + early], fixed[:, :, early:]), dim=2)
        scores = attention.scores(fixed, self.far[0], scaling, softcap)
        if not self.single or self.spec.own is not None:
            scores = scores.masked_fill(self._hidden(skip, query.shape[2], query.device), float("-inf"))
        joined = attention.join(out[:, :, skip:], lse[:, :, skip:], scores, self.far[1])
        return joined if not skip else torch.cat((out[:, :, :skip], joined), dim=2)

    def _hidden(self, skip: int, queries: int, device: torch.device) -> Tensor:
        positions = torch.arange(self.first + skip, self.first + queries, device=device)[:, None]
        distance = positions - torch.arange(self.far[0].shape[2], device=device)
        hidden = distance < self.spec.local
        if self.spec.own is not None:
            hidden |= distance >= self.spec.own
        return hidden


@dataclass(frozen=True)
class FixedWindowView:
    """One decode step in fixed shapes: the whole ring and all sinks, behind masks made from a position on the device."""

    keys: Tensor
    values: Tensor
    position: Tensor
    """(1,), of the new token."""
    valid: Tensor
    """(rows, 1, 1, capacity): slots in use."""
    spec: Window
    rotary: Rotary | None

    @property
    def window(self) -> int | None:
        """The layer's own sliding window."""
        return self.spec.own

    def attend(self, query: Tensor, scaling: float, softcap: float | None) -> Tensor:
        """Attend from (rows, heads, 1, head_dim)."""
        sinks = min(self.spec.sinks, self.keys.shape[2])
        turned = query if self.rotary is None else self.rotary.on_device(query, self.position)
        distance = self.position - torch.arange(sinks, device=query.device)
        far = distance >= self.spec.local
        near = self.valid.clone()
        near[..., :sinks] &= ~far
        out, lse = attention.masked(turned, self.keys, self.values, scaling=scaling, softcap=softcap, valid=near)
        if not sinks or self.rotary is None:
            return out
        if self.spec.own is not None:
            far &= distance < self.spec.own
        fixed = self.rotary.fixed(query, self.spec.last)
        if self.spec.rolling:
            fixed = torch.where(self.position < self.spec.last, turned, fixed)
        scores = attention.scores(fixed, self.keys[:, :, :sinks], scaling, softcap).masked_fill(~far, float("-inf"))
        return attention.join(out, lse, scores, self.values[:, :, :sinks])


class WindowStorage:
    """Holds the first ``sinks`` and the last ``kept`` tokens; decoding overwrites the oldest of the window, so its size stays.

    With ``rotary`` the model hands over un-rotated keys, and each is stored rotated as its own position: distances are then exact without
    rotating the window again at every step, and the sinks stand where the fixed angle wants them. Several rows only without sinks.
    """

    def __init__(self, layout: Layout, spec: Window, rotary: Rotary | None = None) -> None:
        if layout.rows > 1 and rotary is not None:
            raise ValueError("a window that rotates by itself holds one row")
        self._layout = layout
        self._spec = spec
        self._rotary = rotary
        self._row: int | None = None
        self._seen = 0
        self._keys = layout.empty(0)[:1]
        self._values = layout.empty(0)[:1]
        self._batch: tuple[Tensor, Tensor] | None = None
        self._valid: Tensor | None = None
        self._oldest = 0
        self._ring = 0
        self._position: Tensor | None = None

    def begin(self, row: int) -> None:
        """Start the prompt of a row."""
        self._row, self._seen = row, 0
        self._keys, self._values = self._layout.empty(0)[:1], self._layout.empty(0)[:1]

    def fill(self, row: int, prompt: PromptLayer) -> None:
        """Take the latest ``kept`` entries of a prompt that the model rotated; all of them if they are ours and no more."""
        if self._rotary is not None or self._spec.sinks:
            raise ValueError("a window that rotates by itself, or has sinks, reads its prompt by itself")
        self._row, self._seen = row, prompt.seen
        first = max(0, prompt.keys.shape[2] - self._spec.kept)
        self._keys, self._values = (
            entries if prompt.owned and not first else entries[:, :, first:].clone() for entries in (prompt.keys, prompt.values)
        )

    def append(self, keys: Tensor, values: Tensor) -> WindowView | FixedWindowView:
        """Take a chunk of a prompt, or one token of every row."""
        if self._rotary is not None:
            keys = self._rotary.at(keys, self._seen) if self._position is None else self._rotary.on_device(keys, self._position)
        if self._row is not None:
            return self._extend(keys, values)
        return self._overwrite(keys, values) if self._position is None else self._overwrite_fixed(keys, values)

    def _extend(self, keys: Tensor, values: Tensor) -> WindowView:
        spec, first, before = self._spec, self._seen, self._keys.shape[2]
        keys, values = torch.cat((self._keys, keys), dim=2), torch.cat((self._values, values), dim=2)
        self._seen += keys.shape[2] - before
        # Slot i holds token i as long as nothing was dropped, else the slots behind the sinks hold the latest tokens in order.
        start = max(0, first - spec.local + 1) if before == first else spec.sinks
        view = WindowView(
            (keys[:, :, start:], values[:, :, start:]), (keys[:, :, : spec.sinks], values[:, :, : spec.sinks]),
            first, spec, self._layout.kernel, self._rotary, single=False,
        )  # fmt: skip
        if keys.shape[2] > spec.sinks + spec.kept:
            keys, values = self._cut(keys), self._cut(values)
        self._keys, self._values = keys, values
        return view

    def _cut(self, entries: Tensor) -> Tensor:
        # cat copies: a slice would keep the whole chunk alive
        return torch.cat((entries[:, :, : self._spec.sinks], entries[:, :, entries.shape[2] - self._spec.kept :]), dim=2)

    def end(self) -> None:
        """Put the row beside the others, aligned at its last token."""
        if self._rotary is not None:
            self._rotary.forget()
        if self._layout.rows == 1 or self._row is None:
            return
        if self._batch is None:
            entries = min(self._layout.longest, self._spec.kept)
            self._batch = self._layout.empty(entries), self._layout.empty(entries)
        first = self._batch[0].shape[2] - self._keys.shape[2]
        self._batch[0][self._row, :, first:] = self._keys[0]
        self._batch[1][self._row, :, first:] = self._values[0]
        self._keys, self._values = self._layout.empty(0)[:1], self._layout.empty(0)[:1]

    def reserve(self, new_tokens: int) -> None:
        """Make the window as large as it will be needed, at most ``local``."""
        if self._batch is not None:
            (self._keys, self._values), self._batch = self._batch, None
        self._row, self._seen = None, self._layout.longest
        held = self._keys.shape[2]
        capacity = min(self._seen + new_tokens, self._spec.sinks + self._spec.local)
        self._ring = capacity - self._spec.sinks
        self._oldest = max(self._spec.sinks, self._seen - (held - self._spec.sinks))
        if capacity > held:
            self._keys, self._values = self._grown(self._keys, capacity), self._grown(self._values, capacity)
        self._valid = starts_mask(self._layout, held, capacity)
        if self._rotary is not None:
            self._rotary.prepare(self._seen, new_tokens, self._layout.device)

        if self._layout.fixed:
            self._position = torch.full((1,), self._seen, dtype=torch.long, device=self._layout.device)
            used = torch.arange(capacity, device=self._layout.device) < held
            self._valid = used.expand(self._layout.rows, 1, 1, capacity).clone() if self._valid is None else self._valid & used

    def _grown(self, old: Tensor, capacity: int) -> Tensor:
        grown = self._layout.empty(capacity)
        grown[:, :, : old.shape[2]] = old
        return grown

    def _overwrite(self, keys: Tensor, values: Tensor) -> WindowView:
        spec, position = self._spec, self._seen
        slot = position if position < spec.sinks else spec.sinks + (position - self._oldest) % self._ring
        self._keys[:, :, slot : slot + 1] = keys
        self._values[:, :, slot : slot + 1] = values
        if self._valid is not None:
            self._valid[..., slot] = True
        self._seen += 1
        used = min(self._seen, self._keys.shape[2])
        near = min(spec.sinks, max(0, position - spec.local + 1))  # the sinks before this one are no longer in the window
        valid = None if self._valid is None else self._valid[..., :used]
        return WindowView(
            (self._keys[:, :, near:used], self._values[:, :, near:used]), (self._keys[:, :, :near], self._values[:, :, :near]),
            position, spec, self._layout.kernel, self._rotary, single=True, valid=valid,
        )  # fmt: skip

    def _overwrite_fixed(self, keys: Tensor, values: Tensor) -> FixedWindowView:
        assert self._position is not None and self._valid is not None
        spec, position = self._spec, self._position.clone()
        ring = spec.sinks + (position - self._oldest) % self._ring if self._ring > 0 else position
        slot = torch.where(position < spec.sinks, position, ring)
        self._keys.index_copy_(2, slot, keys)
        self._values.index_copy_(2, slot, values)
        self._valid.index_fill_(3, slot, True)
        self._position += 1
        self._seen += 1
        return FixedWindowView(self._keys, self._values, position, self._valid, spec, self._rotary)

    def seen(self) -> int:
        """Tokens that went in."""
        return self._seen

    def held(self, row: int) -> float:
        """Entries held for a row, its padding included."""
        return (self._keys if self._batch is None else self._batch[0]).shape[2]

    def parts(self) -> Parts:
        """Return keys and values, and once decoding the places."""
        dense = (self._keys, self._values) if self._batch is None else (self._keys, self._values, *self._batch)
        return {"dense": dense, "index": tuple(tensor for tensor in (self._position, self._valid) if tensor is not None)}

    def analytic(self) -> int:
        """Compute rows × the entries of the longest × two vectors a KV head."""
        entries = min(self._layout.longest, self._spec.sinks + self._spec.kept)
        return self._layout.rows * entries * self._layout.entry_bytes()


def starts_mask(layout: Layout, entries: int, capacity: int) -> Tensor | None:
    """Return which of ``capacity`` slots are no padding, (rows, 1, 1, capacity), or None where no row is padded.

    The first ``entries`` slots hold the last tokens of the rows, aligned on the right; slots beyond them count as valid.
    """
    if all(length >= entries for length in layout.lengths):
        return None
    padding = torch.tensor([max(0, entries - length) for length in layout.lengths], device=layout.device)
    return (torch.arange(capacity, device=layout.device) >= padding[:, None])[:, None, None]
