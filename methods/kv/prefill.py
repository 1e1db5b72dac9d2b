"""One prompt read at full precision, observed by any number of variants, each of which forks from it.

Holds what the model's own cache would: all tokens of full-attention layers, the window of sliding ones.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Callable

import torch
from torch import Tensor

from .cache import StorageCache
from .observe import ObservedView, Observer, hook_hidden
from .storage.base import Layout, PromptLayer, Storage
from .storage.dense import DenseStorage
from .storage.window import Window, WindowStorage

_CHUNK = {"cpu": 2048, "cuda": 8192}
"""Prompt tokens a forward pass: keeps activations far below the size of a long prompt."""


def chunk_size(device: torch.device, own: int | None = None) -> int:
    """Return the prompt tokens of a forward pass: a policy's own number, or the library's."""
    return own or _CHUNK.get(device.type, 2048)


def native_storages(layout: Layout) -> list[Storage]:
    """Make what the model itself keeps: every token, or in sliding-window layers the ``window - 1`` that the next one attends to."""
    return [DenseStorage(layout) if window is None else sliding(layout, window) for window in layout.shape.windows]


def sliding(layout: Layout, window: int) -> WindowStorage:
    """Make the native storage of a layer with a sliding window."""
    return WindowStorage(layout, Window(local=window, kept=window - 1, own=window))


class _Watched:
    """A storage of the prefill whose views tell observers. Answers as a storage of a cache layer does."""

    def __init__(self, storage: Any, observers: tuple[Observer, ...]) -> None:
        self.storage = storage
        self._observers = observers

    def append(self, keys: Tensor, values: Tensor) -> Any:
        first = self.storage.seen()
        view = self.storage.append(keys, values)
        return ObservedView(view, self._observers, first) if self._observers else view

    def seen(self) -> int:
        return int(self.storage.seen())


@dataclass
class Prefill:
    """The prompt of one row, read. ``logits`` (1, vocabulary) are those of its last token."""

    layers: list[Storage | None]
    logits: Tensor
    observers: Sequence[Sequence[Observer | None]]
    """By variant, then by layer."""
    shared: bool
    """Whether others fork after the one at hand: then nothing is given away."""

    def fork(self, variant: int, row: int, storages: Sequence[Storage]) -> Tensor:
        """Fill a variant's storages with a row; return the logits. A layer that is not shared is dropped once it was read."""
        for number, storage in enumerate(storages):
            source = self.layers[number]
            if source is None:
                raise RuntimeError("this prefill was given away to a fork before")
            watching = self.observers[variant]
            layer = _layer(number, source, watching[number] if watching else None, owned=not self.shared)
            if not self.shared:
                self.layers[number] = source = None
            storage.fill(row, layer)
        return self.logits

    def again(self) -> Prefill:
        """Return the same for another prompt: observers and logits are copies, as who forks may write to them."""
        return Prefill(list(self.layers), self.logits.clone(), copy.deepcopy(self.observers), shared=True)


def _layer(number: int, source: Storage, observer: Observer | None, *, owned: bool) -> PromptLayer:
    keys, values = source.parts()["dense"]
    return PromptLayer(number, keys, values, source.seen(), observer, owned=owned)


@dataclass(frozen=True)
class Start:
    """Where the reading of a prompt starts."""

    at: int = 0
    """A chunk ends here, whether or not what stands before it was read already: so it makes no difference to the numbers."""
    prefill: Prefill | None = None
    """Of the first ``at`` tokens, read for others and kept by them; None: they are read with the rest."""


@dataclass(frozen=True)
class Reader:
    """What reads prompts at full precision."""

    network: Any
    layout: Layout
    phase: Callable[[str, int], None]

    def read(
        self,
        ids: Sequence[int],
        observers: Sequence[Sequence[Observer | None]],
        *,
        shared: bool,
        chunk: int | None,
        start: Start | None = None,
    ) -> Prefill:
        """Read one prompt in chunks, whatever row it will be.

        Where the start was read already, copies of what observed it go on instead of ``observers``.
        """
        start = start or Start()
        before = start.prefill
        if before is not None:
            if start.at == len(ids):
                return before.again()
            observers = copy.deepcopy(before.observers)
        layout = replace(self.layout, lengths=(len(ids),), after=None, fixed=False)
        storages = native_storages(layout)
        watching = [tuple(found for each in observers if each and (found := each[layer]) is not None) for layer in range(len(storages))]
        cache = StorageCache([_Watched(*pair) for pair in zip(storages, watching)])  # type: ignore[misc]
        at = 0
        handles = [hook_hidden(layer, told, lambda: at) for layer, told in zip(self.network.base_model.layers, watching)]
        try:
            for number, storage in enumerate(storages):
                if before is None:
                    storage.begin(0)
                else:
                    source = before.layers[number]
                    assert source is not None
                    storage.fill(0, _layer(number, source, None, owned=False))
            tokens = torch.tensor([list(ids)], dtype=torch.long, device=layout.device)
            hidden = None
            for at, end in _chunks(len(ids), chunk_size(layout.device, chunk), start):
                self.phase("prefill", at)
                hidden = forward(self.network, cache, tokens[:, at:end], at, last=end == len(ids))
            for storage in storages:
                storage.end()
        finally:
            for handle in filter(None, handles):
                handle.remove()
        assert hidden is not None
        return Prefill(list(storages), hidden, observers, shared)


def _chunks(length: int, size: int, start: Start) -> list[tuple[int, int]]:
    """Return the chunks to read, ``(first, end)``."""
    firsts = [*(range(0, start.at, size) if start.prefill is None else ()), *range(start.at, length, size)]
    return list(zip(firsts, [*firsts[1:], length]))


def forward(network: Any, cache: StorageCache, tokens: Tensor, first: int, *, last: bool, rotated: bool = True) -> Tensor | None:
    """Feed one chunk (1, n) from position ``first``; return the last token's logits (1, vocabulary) if this is the last one."""
    positions = torch.arange(first, first + tokens.shape[1], device=tokens.device)[None]
    if not rotated:
        positions = torch.zeros_like(positions)
    options = {"input_ids": tokens, "position_ids": positions, "past_key_values": cache, "use_cache": True}
    if not last:
        network.base_model(**options)
        return None
    logits: Tensor = network(**options, logits_to_keep=1).logits[:, -1]
    return logits
