"""What a storage owes the library, and what every storage is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..observe import Observer
from ..rotary import Rotary
from ..seam import View
from ..shape import CacheShape

Parts = Mapping[str, Sequence[Tensor]]
"""Tensors by kind, in the words of ``Holding``: dense, codes, scales, index, state; and ``host`` for what is kept in host memory."""


@dataclass(frozen=True)
class Layout:
    """The batch that a cache is made for: one row a request, rows aligned at their last prompt token."""

    shape: CacheShape
    lengths: tuple[int, ...]
    """Prompt tokens of each row."""
    dtype: torch.dtype
    device: torch.device
    kernel: str
    rotary: Rotary | None
    """None where every kind of layer has frequencies of its own (Gemma 3)."""
    after: tuple[int, ...] | None = None
    """Of each row, the prompt tokens that come only after the method has compressed (``question: unseen``); None: none."""
    fixed: bool = False
    """Whether decode steps keep to fixed shapes and positions on the device, so that one can be captured: always on CUDA."""
    full_rotary: Rotary | None = None
    """The rotation of the full-attention layers, also where sliding ones have another."""

    @property
    def rows(self) -> int:
        """Requests in the batch."""
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(self.lengths)

    @property
    def contexts(self) -> tuple[int, ...]:
        """Of each row, the prompt tokens that the method sees before it compresses."""
        return self.lengths if self.after is None else tuple(length - after for length, after in zip(self.lengths, self.after))

    def empty(self, entries: int) -> Tensor:
        """Allocate (rows, kv_heads, entries, head_dim); zeroed where rows are padded, as 0 × garbage may be NaN."""
        make = torch.empty if self.rows == 1 and not self.fixed else torch.zeros
        return make(self.rows, self.shape.kv_heads, entries, self.shape.head_dim, dtype=self.dtype, device=self.device)

    def entry_bytes(self) -> int:
        """Bytes of one token's keys and values in one layer of one row, in the model's precision."""
        return self.shape.token_elements * self.dtype.itemsize


@dataclass(frozen=True)
class PromptLayer:
    """What one layer holds of one row's prompt, read at full precision, when a method is to decide what it keeps.

    With ``owned`` the tensors are this storage's to keep (each is all of its memory); otherwise others fork from the same prefill after
    it, and whatever is kept must be copied: a slice of them would keep all of the prefill alive.
    """

    layer: int
    keys: Tensor
    """(1, kv_heads, m, head_dim), rotated. Of a sliding-window layer the last ``window - 1`` tokens."""
    values: Tensor
    """(1, kv_heads, m, head_dim)."""
    seen: int
    """Tokens read."""
    observer: Observer | None = None
    """What the policy sent to watch this layer, if it did."""
    owned: bool = False
    scores: Tensor | None = None
    """(1, kv_heads, m) in float32: what a selection before this storage was decided by."""
    positions: Tensor | None = None
    """(1, kv_heads, m): where the entries stood, after such a selection; None: the last ``m`` of ``seen``."""


class Storage(Protocol):
    """The keys and values of one layer, for all rows of a batch.

    Order of calls. Policies with ``shares_prefill``: for every row ``fill``, then ``append`` once a chunk of the tokens that follow the
    compressed context (none unless the question is unseen), then ``end``. Others: for every row ``begin``, ``append`` once a chunk,
    ``end``. Then, for all rows together, ``reserve`` once and ``append`` once a step. A storage implements ``begin`` or ``fill`` or
    both; a call for the one it lacks is a policy's mistake.
    """

    def begin(self, row: int) -> None:
        """Start the prompt of a row, which this storage reads by itself."""

    def fill(self, row: int, prompt: PromptLayer) -> None:
        """Take of a row's prompt what the method keeps. Must not keep the tensors unless they are ``owned``."""

    def append(self, keys: Tensor, values: Tensor) -> View:
        """Take new (1 or rows, kv_heads, n, head_dim) entries and return what their queries attend to. Copies: the tensors are not kept."""

    def end(self) -> None:
        """The row's prompt is complete: hold what the method keeps of it, and nothing else."""

    def reserve(self, new_tokens: int) -> None:
        """Allocate what decoding ``new_tokens`` takes; no step allocates storage later. Called once, after all rows."""

    def seen(self) -> int:
        """Tokens that went in, of the row at hand or, when decoding, of the longest."""

    def held(self, row: int) -> float:
        """Entries held for a row, mean over KV heads, its padding included."""

    def parts(self) -> Parts:
        """Return every tensor that this storage holds, by kind."""

    def analytic(self) -> int:
        """Compute, from the method's own formula, the device bytes of all rows when the prompts are complete (before ``reserve``)."""


def part_bytes(parts: Parts, kind: str | None = None) -> int:
    """Return the bytes of tensors by part, or of one kind: what they are made of, not what their memory holds besides."""
    return sum(tensor.numel() * tensor.element_size() for name, items in parts.items() if kind in (None, name) for tensor in items)
