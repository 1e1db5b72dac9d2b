"""One batch on one model: reads prompts in chunks, then decodes token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable

import torch
from runner.protocol import Holding
from torch import Tensor

from .cache import StorageCache
from .policy import Policy
from .prefill import Prefill, Reader, Start, chunk_size, forward
from .storage.base import Layout, part_bytes


@dataclass(frozen=True)
class Rooms:
    """What a batch is decoded with."""

    network: Any
    """A transformers model with a head, using attention ``longctx``."""
    policy: Policy
    layout: Layout
    phase: Callable[[str, int], None]
    forks: Sequence[Prefill] | None = None
    """Of each row, a prefill to fork from; None: each row is read for this policy alone."""
    variant: int = 0
    """Which of the variants that observed those prefills this is."""
    starts: Sequence[Start] | None = None
    """Of each row that is read for this policy alone, where reading starts; None: at the first token."""


class CacheDecoder:
    """Implements ``loop.Decoder`` over a policy's storages."""

    def __init__(self, rooms: Rooms) -> None:
        self._network = rooms.network
        self._policy = rooms.policy
        self._layout = rooms.layout
        self._phase = rooms.phase
        self._rooms = rooms
        self._storages = rooms.policy.storages(rooms.layout)
        self._cache = StorageCache(self._storages)
        self._positions = torch.zeros(rooms.layout.rows, 1, dtype=torch.long, device=rooms.layout.device)

    def prefill(self, row: int, ids: Sequence[int]) -> Tensor:
        """Take a row's prompt; return the logits of its last position, (1, vocabulary)."""
        logits = self._read(row, ids) if self._policy.shares_prefill else self._feed_own(row, ids)
        for storage in self._storages:
            storage.end()
        return logits

    def _read(self, row: int, ids: Sequence[int]) -> Tensor:
        """Read the context at full precision, let the storages take of it what they keep, then feed them the rest."""
        context = self._layout.contexts[row]
        if self._rooms.forks is None:
            observers = [self._policy.observers(self._layout, row)]
            reader = Reader(self._network, self._layout, self._phase)
            start = None if self._rooms.starts is None else self._rooms.starts[row]
            prefill = reader.read(ids[:context], observers, shared=False, chunk=self._policy.chunk, start=start)
            logits = prefill.fork(0, row, self._storages)
        else:
            logits = self._rooms.forks[row].fork(self._rooms.variant, row, self._storages)
        return self._feed(ids, context) if context < len(ids) else logits

    def _feed_own(self, row: int, ids: Sequence[int]) -> Tensor:
        for storage in self._storages:
            storage.begin(row)
        return self._feed(ids, 0)

    def _feed(self, ids: Sequence[int], start: int) -> Tensor:
        """Append the tokens from ``start`` on to the storages, in chunks."""
        tokens = torch.tensor([list(ids)], dtype=torch.long, device=self._layout.device)
        size = chunk_size(self._layout.device, self._policy.chunk)
        logits = None
        for first in range(start, tokens.shape[1], size):
            self._phase("prefill", first)
            chunk, last = tokens[:, first : first + size], first + size >= tokens.shape[1]
            logits = forward(self._network, self._cache, chunk, first, last=last, rotated=self._policy.rotated)
        assert logits is not None
        return logits

    def holding(self, row: int) -> Holding:
        """Say what is held for a row at the end of the prompts."""
        layout = self._layout
        parts: dict[str, list[Tensor]] = {}
        for storage in self._storages:
            for kind, tensors in storage.parts().items():
                parts.setdefault(kind, []).extend(tensors)
        host = part_bytes({"host": parts.pop("host", ())})
        tokens = layout.lengths[row]
        return Holding(
            at="prefill",
            logical=tokens,
            held=sum(storage.held(row) for storage in self._storages) / len(self._storages),
            analytic=sum(storage.analytic() for storage in self._storages) // layout.rows,
            full=layout.shape.native_bytes(tokens, layout.dtype.itemsize),
            roots=[list(self._storages)],
            parts={kind: tensors for kind, tensors in parts.items() if tensors},
            host=host // layout.rows if host else None,
        )

    def reserve(self, new_tokens: int) -> None:
        """Make room for ``new_tokens`` steps."""
        for storage in self._storages:
            storage.reserve(new_tokens)
        if self._policy.rotated:
            self._positions[:, 0] = torch.tensor(self._layout.lengths, device=self._layout.device)

    def step(self, tokens: Tensor) -> Tensor:
        """Take one token of each row, (rows,); return the next logits, (rows, vocabulary).

        On CUDA this is the step to capture: positions and lengths live in device tensors, shapes and buffers stay the same, and nothing is
        read back; only ``tokens`` and the result would need static buffers.
        """
        output = self._network(
            input_ids=tokens[:, None], position_ids=self._positions, past_key_values=self._cache, use_cache=True, logits_to_keep=1
        )
        if self._policy.rotated:
            self._positions += 1
        return output.logits[:, -1]
