"""One batch on one model: feeds a storage cache in chunks, then token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable

import torch
from runner.protocol import Holding
from torch import Tensor

from .cache import StorageCache
from .policy import Policy
from .storage.base import Layout

_CHUNK = {"cpu": 2048, "cuda": 8192}
"""Prompt tokens a forward pass: keeps activations far below the size of a long prompt."""


@dataclass(frozen=True)
class Rooms:
    """What a batch is decoded with."""

    network: Any
    """A transformers model with a head, using attention ``longctx``."""
    policy: Policy
    layout: Layout
    phase: Callable[[str, int], None]


class CacheDecoder:
    """Implements ``loop.Decoder`` over a policy's storages."""

    def __init__(self, rooms: Rooms) -> None:
        self._network = rooms.network
        self._policy = rooms.policy
        self._layout = rooms.layout
        self._phase = rooms.phase
        self._storages = rooms.policy.storages(rooms.layout)
        self._cache = StorageCache(self._storages)
        self._positions = torch.zeros(rooms.layout.rows, 1, dtype=torch.long, device=rooms.layout.device)

    def prefill(self, row: int, ids: Sequence[int]) -> Tensor:
        """Take a row's prompt; return the logits of its last position, (1, vocabulary)."""
        tokens = torch.tensor([list(ids)], dtype=torch.long, device=self._layout.device)
        for storage in self._storages:
            storage.begin(row)
        size = self._policy.chunk or _CHUNK.get(self._layout.device.type, 2048)
        output = None
        for first in range(0, tokens.shape[1], size):
            self._phase("prefill", first)
            output = self._forward(tokens[:, first : first + size], first, last=first + size >= tokens.shape[1])
        for storage in self._storages:
            storage.end()
        assert output is not None
        return output.logits[:, -1]

    def _forward(self, tokens: Tensor, first: int, last: bool) -> Any:
        positions = torch.arange(first, first + tokens.shape[1], device=tokens.device)[None]
        if not self._policy.rotated:
            positions = torch.zeros_like(positions)
        options = {"input_ids": tokens, "position_ids": positions, "past_key_values": self._cache, "use_cache": True}
        if last:
            return self._network(**options, logits_to_keep=1)
        return self._network.base_model(**options)

    def holding(self, row: int) -> Holding:
        """Say what is held for a row at the end of the prompts."""
        layout = self._layout
        tensors = [tensor for storage in self._storages for tensor in storage.tensors()]
        tokens = layout.lengths[row]
        return Holding(
            at="prefill",
            logical=tokens,
            held=sum(storage.held(row) for storage in self._storages) / len(self._storages),
            analytic=self._policy.analytic(layout),
            full=layout.shape.native_bytes(tokens, layout.dtype.itemsize),
            roots=[list(self._storages)],
            parts={"dense": tensors},
        )

    def reserve(self, new_tokens: int) -> None:
        """Make room for ``new_tokens`` steps."""
        for storage in self._storages:
            storage.reserve(new_tokens)
        if self._policy.rotated:
            self._positions[:, 0] = torch.tensor(self._layout.lengths, device=self._layout.device)

    def step(self, tokens: Tensor) -> Tensor:
        """Take one token of each row, (rows,); return the next logits, (rows, vocabulary)."""
        output = self._network(
            input_ids=tokens[:, None], position_ids=self._positions, past_key_values=self._cache, use_cache=True, logits_to_keep=1
        )
        if self._policy.rotated:
            self._positions += 1
        return output.logits[:, -1]
