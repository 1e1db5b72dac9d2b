"""Where the next token of every row is written, and which entries of a buffer are any: alike for all storages that grow at their end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Layout


class Cursor:
    """Rows aligned on the right at ``used`` entries, growing together by one entry a step, in buffers of ``capacity``.

    Where the layout is ``fixed`` (CUDA) the place is a device tensor and attention reads whole buffers behind a mask: no shape and no
    kernel argument changes from step to step, so that a step can be captured. Otherwise (CPU) the place is a number and buffers are
    sliced, which attends to nothing in vain.
    """

    def __init__(self, layout: Layout, entries: Sequence[int], capacity: int) -> None:
        self.used = max(entries)
        self.fixed = layout.fixed
        self.starts = tuple(self.used - count for count in entries)
        """Padding of each row: entries before it are none."""
        self._place = torch.full((1,), self.used, dtype=torch.long, device=layout.device) if self.fixed else None
        self._valid = self._mask(layout, capacity) if self.fixed or any(self.starts) else None

    def _mask(self, layout: Layout, capacity: int) -> Tensor:
        places = torch.arange(capacity, device=layout.device)
        starts = torch.tensor(self.starts, device=layout.device)[:, None]
        valid = places >= starts
        if self.fixed:
            valid &= places < self.used
        return valid[:, None, None]

    def put(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Write new entries (rows, kv_heads, 1, d) into their buffers (rows, kv_heads, capacity, d) and move on."""
        place = self._place
        for buffer, new in pairs:
            if place is None:
                buffer[:, :, self.used : self.used + 1] = new
            else:
                buffer.index_copy_(2, place, new.to(buffer.dtype))
        if place is not None and self._valid is not None:
            self._valid.index_fill_(3, place, True)
            place += 1
        self.used += 1

    def visible(self, buffer: Tensor) -> Tensor:
        """Return what of a buffer attention reads: all of it where shapes are fixed, else what is used."""
        return buffer if self.fixed else buffer[:, :, : self.used]

    @property
    def valid(self) -> Tensor | None:
        """Which of the visible entries are any, (rows, 1, 1, visible); None: all."""
        return self._valid if self._valid is None or self.fixed else self._valid[..., : self.used]

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors kept here."""
        return tuple(tensor for tensor in (self._place, self._valid) if tensor is not None)
