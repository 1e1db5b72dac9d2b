"""Eviction once the prompt is read: a scorer ranks the entries of a layer, one selection keeps the best, any storage holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Callable, Protocol

import torch
from torch import Tensor

from .observe import Observer
from .prefill import sliding
from .seam import View
from .storage.base import Layout, Parts, PromptLayer, Storage
from .storage.dense import DenseStorage


class Scorer(Protocol):
    """Ranks the entries of a layer. What most methods are: a file of their own, everything else is here."""

    def observer(self, layout: Layout, layer: int, row: int) -> Observer | None:
        """Make what watches a layer while a prompt is read; None where keys and values say enough."""

    def scores(self, prompt: PromptLayer) -> Tensor:
        """Score each entry for each KV head, (1, kv_heads, m) in float32: the highest are kept. ``inf`` is always kept."""


class Entries(Protocol):
    """A budget: how many entries each KV head of a layer keeps."""

    def entries(self, tokens: int) -> int:
        """Return the entries kept of ``tokens``."""


Share = Callable[[Entries, int, int, int], int]
"""``(budget, tokens, layer, layers)`` → entries of a layer, where layers differ (PyramidKV). Only evicted layers are counted, from 0."""
Holder = Callable[[Layout, Sequence[int]], Storage]
"""Makes what holds the kept entries, given how many each row has: dense, packed, or slots that later tokens overwrite."""


def evenly(budget: Entries, tokens: int, layer: int, layers: int) -> int:
    """Give every layer the same."""
    return budget.entries(tokens)


@dataclass(frozen=True)
class Evicting:
    """A policy: reads the prompt at full precision, then keeps the entries that a scorer ranks highest, each KV head its own.

    Layers with a sliding window stay as the model has them: they are bounded already, and what they hold moves with every token. New
    tokens are all kept, unless the holder overwrites.
    """

    scorer: Scorer
    budget: Entries
    share: Share = evenly
    holder: Holder = DenseStorage
    latest: Callable[[int], int] | None = None
    """Of so many kept entries, how many are the latest tokens, whatever they score; None: none. Their scores are handed on as they are."""
    rotated: bool = True
    batch: bool = True
    extends_window: bool = False
    chunk: int | None = None
    shares_prefill: bool = True

    def entries(self, layout: Layout, layer: int, row: int) -> int:
        """Return what a full-attention layer keeps of a row's context."""
        context = layout.contexts[row]
        evicted = [number for number, window in enumerate(layout.shape.windows) if window is None]
        return max(1, min(context, self.share(self.budget, context, evicted.index(layer), len(evicted))))

    def observers(self, layout: Layout, row: int) -> list[Observer | None]:
        """Ask the scorer, for the layers that are evicted from."""
        return [self.scorer.observer(layout, layer, row) if window is None else None for layer, window in enumerate(layout.shape.windows)]

    def storages(self, layout: Layout) -> list[Storage]:
        """Make a selecting storage a full-attention layer, the native one for a sliding layer."""
        return [
            self._selecting(layout, layer) if window is None else sliding(layout, window)
            for layer, window in enumerate(layout.shape.windows)
        ]

    def _selecting(self, layout: Layout, layer: int) -> Selecting:
        kept = [self.entries(layout, layer, row) for row in range(layout.rows)]
        after = layout.after or (0,) * layout.rows
        inner = self.holder(layout, [count + more for count, more in zip(kept, after)])
        return Selecting(inner, self.scorer.scores, kept, [0 if self.latest is None else self.latest(count) for count in kept])


class Selecting:
    """Hands the best entries of a prompt to another storage; everything else goes straight through."""

    def __init__(
        self, inner: Storage, scores: Callable[[PromptLayer], Tensor], kept: Sequence[int], latest: Sequence[int] | None = None
    ) -> None:
        self.inner = inner
        self._scores = scores
        self._kept = tuple(kept)
        self._latest = (0,) * len(kept) if latest is None else tuple(latest)

    def begin(self, row: int) -> None:
        """Raise TypeError: what is not read at full precision cannot be ranked afterwards."""
        raise TypeError("an evicting storage is filled from a full-precision prefill; its policy must say shares_prefill")

    def fill(self, row: int, prompt: PromptLayer) -> None:
        """Rank, select and gather; the gathered tensors are the inner storage's own."""
        scores = self._scores(prompt).float()
        if scores.shape != prompt.keys.shape[:3]:
            raise ValueError(f"scores are {tuple(scores.shape)}; one an entry and KV head is {tuple(prompt.keys.shape[:3])}")
        first = scores.shape[-1] - self._latest[row]
        ranks = torch.cat((scores[..., :first], torch.full_like(scores[..., first:], torch.inf)), dim=-1) if self._latest[row] else scores
        places = select(ranks, self._kept[row])
        self.inner.fill(row, gathered(prompt, places, scores))

    def append(self, keys: Tensor, values: Tensor) -> View:
        """Append to the inner storage."""
        return self.inner.append(keys, values)

    def end(self) -> None:
        """End the inner storage's row."""
        self.inner.end()

    def reserve(self, new_tokens: int) -> None:
        """Reserve in the inner storage."""
        self.inner.reserve(new_tokens)

    def seen(self) -> int:
        """Tokens that went in."""
        return self.inner.seen()

    def held(self, row: int) -> float:
        """Entries held for a row."""
        return self.inner.held(row)

    def parts(self) -> Parts:
        """Return the inner storage's tensors."""
        return self.inner.parts()

    def analytic(self) -> int:
        """Compute the inner storage's bytes."""
        return self.inner.analytic()


def select(scores: Tensor, entries: int) -> Tensor:
    """Return the places of the highest scores, (1, kv_heads, entries), in the order in which they stood.

    Of equal scores the later entry is kept, on every device.
    """
    length = scores.shape[-1]
    order = scores.flip(-1).sort(dim=-1, descending=True, stable=True).indices[..., :entries]
    return (length - 1 - order).sort(dim=-1).values


def gathered(prompt: PromptLayer, places: Tensor, scores: Tensor | None = None) -> PromptLayer:
    """Return a prompt of the entries at ``places`` (1, kv_heads, entries) only, in tensors of its own."""
    wide = places.unsqueeze(-1).expand(-1, -1, -1, prompt.keys.shape[-1])
    positions = prompt.seen - prompt.keys.shape[2] + places if prompt.positions is None else prompt.positions.gather(2, places)
    return replace(
        prompt,
        keys=prompt.keys.gather(2, wide),
        values=prompt.values.gather(2, wide),
        owned=True,
        positions=positions,
        scores=None if scores is None else scores.gather(2, places),
    )
