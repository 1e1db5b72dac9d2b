"""Every token of a full-attention layer, in one buffer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import attention
from .base import Layout


@dataclass(frozen=True)
class DenseView:
    """All tokens of a row up to the queries' own, or of all rows when decoding."""

    keys: Tensor
    values: Tensor
    kernel: str
    single: bool
    starts: tuple[int, ...]
    valid: Tensor | None
    """Where padding is: which entries are none."""
    window: int | None = None

    def attend(self, query: Tensor, scaling: float, softcap: float | None) -> Tensor:
        """Attend from (rows, heads, n, head_dim) to every earlier token."""
        attend = {"kernel": self.kernel, "query": query, "keys": self.keys, "values": self.values, "scaling": scaling, "softcap": softcap}
        if self.valid is not None:
            return attention.padded(**attend, starts=self.starts, valid=self.valid)
        return (attention.single if self.single else attention.causal)(**attend)[0]


class DenseStorage:
    """Holds exactly the prompts until decoding starts, then has room for the new tokens too. Shorter rows are padded on the left."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._keys = layout.empty(layout.longest)
        self._values = layout.empty(layout.longest)
        self._starts = tuple(layout.longest - length for length in layout.lengths)
        self._valid: Tensor | None = None
        self._row: int | None = None
        self._seen = 0

    def begin(self, row: int) -> None:
        """Start the prompt of a row."""
        self._row, self._seen = row, 0

    def append(self, keys: Tensor, values: Tensor) -> DenseView:
        """Write new entries behind the old ones."""
        new = keys.shape[2]
        if self._row is None:
            start, rows = 0, slice(None)
        else:
            start, rows = self._layout.longest - self._layout.lengths[self._row], slice(self._row, self._row + 1)
        first = start + self._seen
        self._seen += new
        self._keys[rows, :, first : first + new] = keys
        self._values[rows, :, first : first + new] = values
        valid = None if self._valid is None else self._valid[..., : first + new]
        held = slice(start, first + new)
        return DenseView(
            self._keys[rows, :, held], self._values[rows, :, held], self._layout.kernel, self._row is None, self._starts, valid
        )

    def end(self) -> None:
        """Nothing to drop: every token is kept."""

    def reserve(self, new_tokens: int) -> None:
        """Move to buffers with room for ``new_tokens``."""
        self._row, self._seen = None, self._layout.longest
        self._keys = _grown(self._keys, new_tokens, self._layout)
        self._values = _grown(self._values, new_tokens, self._layout)
        self._valid = starts_mask(self._layout, self._layout.longest, self._keys.shape[2])

    def seen(self) -> int:
        """Tokens that went in."""
        return self._seen

    def held(self, row: int) -> int:
        """Entries held for a row, its padding included."""
        return self._layout.longest

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the keys and the values."""
        return self._keys, self._values


def starts_mask(layout: Layout, entries: int, capacity: int) -> Tensor | None:
    """Return which of ``capacity`` slots are no padding, (rows, 1, 1, capacity), or None where no row is padded.

    The first ``entries`` slots hold the last tokens of the rows, aligned on the right; slots beyond them count as valid.
    """
    if all(length >= entries for length in layout.lengths):
        return None
    padding = torch.tensor([max(0, entries - length) for length in layout.lengths], device=layout.device)
    return (torch.arange(capacity, device=layout.device) >= padding[:, None])[:, None, None]


def _grown(old: Tensor, extra: int, layout: Layout) -> Tensor:
    grown = layout.empty(old.shape[2] + extra)
    grown[:, :, : old.shape[2]] = old
    return grown
