"""What a storage owes the library, and what every storage is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..rotary import Rotary
from ..seam import View
from ..shape import CacheShape


@dataclass(frozen=True)
class Layout:
    """The batch that a cache is made for: one row a request, rows aligned at their last prompt token."""

    shape: CacheShape
    lengths: tuple[int, ...]
    """Prompt tokens of each row."""
    dtype: torch.dtype
    device: torch.device
    kernel: str
    rotary: Rotary

    @property
    def rows(self) -> int:
        """Requests in the batch."""
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(self.lengths)

    def empty(self, entries: int) -> Tensor:
        """Allocate (rows, kv_heads, entries, head_dim); zeroed where rows are padded, as 0 × garbage may be NaN."""
        make = torch.empty if self.rows == 1 else torch.zeros
        return make(self.rows, self.shape.kv_heads, entries, self.shape.head_dim, dtype=self.dtype, device=self.device)

    def entry_bytes(self) -> int:
        """Bytes of one token's keys and values in one layer of one row."""
        return self.shape.token_elements * self.dtype.itemsize


class Storage(Protocol):
    """The keys and values of one layer, for all rows of a batch.

    In order: for every row ``begin``, ``append`` once a chunk, ``end``; then ``reserve`` once; then ``append`` once a step, for all rows
    together.
    """

    def begin(self, row: int) -> None:
        """Start the prompt of a row."""

    def append(self, keys: Tensor, values: Tensor) -> View:
        """Take new (1 or rows, kv_heads, n, head_dim) entries and return what their queries attend to. Copies: the tensors are not kept."""

    def end(self) -> None:
        """The row's prompt is complete: hold what the method keeps of it, and nothing else."""

    def reserve(self, new_tokens: int) -> None:
        """Allocate what decoding ``new_tokens`` takes. Called once, after all rows."""

    def seen(self) -> int:
        """Tokens that went in, of the row at hand or, when decoding, of the longest."""

    def held(self, row: int) -> int:
        """Entries held for a row, per KV head."""

    def tensors(self) -> Sequence[Tensor]:
        """Return every tensor that holds keys or values."""
