"""Where blocks of tokens lie that are read a few at a time: beside the rest, or in host memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable, Protocol

import torch
from torch import Tensor

from .base import Layout

Pair = tuple[Tensor, Tensor]
"""Keys and values."""


class BlockStore(Protocol):
    """Keys and values of blocks, each (capacity, kv_heads, block, head_dim)."""

    keys: Tensor
    values: Tensor
    host: bool

    def fetch(self, choice: Tensor) -> Callable[[], Pair]:
        """Start gathering the blocks of ``choice`` (k,); calling what is returned waits for them: (1, kv_heads, k × block, head_dim)."""

    def keep(self, number: int, keys: Tensor, values: Tensor) -> None:
        """Take complete blocks (count, kv_heads, block, head_dim), the first of which is ``number``. Copies."""

    def grow(self, capacity: int) -> None:
        """Make room for that many blocks."""

    def settle(self, chosen: int) -> None:
        """Allocate what fetching ``chosen`` blocks takes, once for all that follow; 0 gives it back."""

    def buffers(self) -> tuple[Tensor, ...]:
        """Return what ``settle`` allocated."""


class DeviceBlocks:
    """Blocks on the model's device."""

    host = False

    def __init__(self, layout: Layout, block: int) -> None:
        shape = (0, layout.shape.kv_heads, block, layout.shape.head_dim)
        self.keys = torch.zeros(shape, dtype=layout.dtype, device=layout.device)
        self.values = torch.zeros_like(self.keys)

    def fetch(self, choice: Tensor) -> Callable[[], Pair]:
        """Gather at once."""
        return lambda: (_joined(self.keys.index_select(0, choice)), _joined(self.values.index_select(0, choice)))

    def keep(self, number: int, keys: Tensor, values: Tensor) -> None:
        """Copy blocks in."""
        self.keys[number : number + keys.shape[0]] = keys
        self.values[number : number + keys.shape[0]] = values

    def grow(self, capacity: int) -> None:
        """Move to larger tensors, one after the other."""
        self.keys = _larger(self.keys, capacity)
        self.values = _larger(self.values, capacity)

    def settle(self, chosen: int) -> None:
        """Allocate nothing: gathering makes tensors that last one step."""

    def buffers(self) -> tuple[Tensor, ...]:
        """Return nothing."""
        return ()


class HostBlocks:
    """Blocks in host memory, page-locked where the device is a GPU; chosen ones are copied on a stream beside the one that computes.

    The choice is read back to know what to copy: a step that fetches from here cannot be captured as a CUDA graph. Without a GPU both
    memories are one: everything works, and nothing is gained.
    """

    host = True

    def __init__(self, layout: Layout, block: int) -> None:
        self._device = layout.device
        self._pinned = layout.device.type == "cuda"
        self._stream = torch.cuda.Stream(layout.device) if self._pinned else None
        self.keys = self._make(0, (layout.shape.kv_heads, block, layout.shape.head_dim), layout.dtype)
        self.values = self._make(0, (layout.shape.kv_heads, block, layout.shape.head_dim), layout.dtype)
        self._buffers: Pair | None = None

    def _make(self, capacity: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros((capacity, *shape), dtype=dtype, pin_memory=self._pinned and capacity > 0)

    def fetch(self, choice: Tensor) -> Callable[[], Pair]:
        """Start copying block by block; each is one piece of memory."""
        numbers = choice.tolist()
        if self._buffers is None or self._buffers[0].shape[0] < len(numbers):
            self.settle(len(numbers))
        assert self._buffers is not None
        keys, values = (buffer[: len(numbers)] for buffer in self._buffers)
        with self._aside():
            for slot, number in enumerate(numbers):
                keys[slot].copy_(self.keys[number], non_blocking=True)
                values[slot].copy_(self.values[number], non_blocking=True)
        return lambda: self._arrived(keys, values)

    def _arrived(self, keys: Tensor, values: Tensor) -> Pair:
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return _joined(keys), _joined(values)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Run on the side stream, behind what was queued before: blocks on their way out, the last reader of the buffers."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield

    def keep(self, number: int, keys: Tensor, values: Tensor) -> None:
        """Start copying blocks out; a fetch waits for that."""
        # One piece of memory each: a strided copy to the host would go through a second one there.
        self.keys[number : number + keys.shape[0]].copy_(keys.contiguous(), non_blocking=True)
        self.values[number : number + keys.shape[0]].copy_(values.contiguous(), non_blocking=True)

    def grow(self, capacity: int) -> None:
        """Move to larger tensors once everything has arrived."""
        if self._pinned:
            torch.cuda.current_stream(self._device).synchronize()
        for name in ("keys", "values"):
            old = getattr(self, name)
            larger = self._make(capacity, tuple(old.shape[1:]), old.dtype)
            larger[: old.shape[0]] = old
            setattr(self, name, larger)

    def settle(self, chosen: int) -> None:
        """Allocate the device buffers that blocks are copied to."""
        shape = (chosen, *self.keys.shape[1:])
        self._buffers = None
        if chosen:
            self._buffers = (
                torch.zeros(shape, dtype=self.keys.dtype, device=self._device),
                torch.zeros(shape, dtype=self.keys.dtype, device=self._device),
            )

    def buffers(self) -> tuple[Tensor, ...]:
        """Return them."""
        return self._buffers or ()


def _joined(blocks: Tensor) -> Tensor:
    """Put (k, kv_heads, block, d) in a row: (1, kv_heads, k × block, d)."""
    return blocks.transpose(0, 1).flatten(1, 2).unsqueeze(0)


def _larger(old: Tensor, capacity: int) -> Tensor:
    larger = old.new_zeros((capacity, *old.shape[1:]))
    larger[: old.shape[0]] = old
    return larger
