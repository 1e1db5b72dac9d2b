"""AdaKV: one budget a layer, shared among its KV heads by where the best scores are (Feng et al., 2024, arXiv 2407.11550)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from methods.kv.budget import Budget, budget_of, known
from methods.kv.observe import Observer
from methods.kv.prefill import sliding
from methods.kv.storage.base import Layout, PromptLayer, Storage
from methods.kv.storage.ragged import RaggedStorage
from methods.kv.votes import Votes, votes_of
from torch import Tensor


@dataclass(frozen=True)
class AdaKV:
    """A budget of ``entries`` a KV head on average. Layers with a sliding window stay as the model has them."""

    scorer: Votes
    budget: Budget
    alpha: float
    rotated: bool = True
    batch: bool = True
    extends_window: bool = False
    chunk: int | None = None
    shares_prefill: bool = True

    def observers(self, layout: Layout, row: int) -> list[Observer | None]:
        """Watch the last queries in the layers that are evicted from."""
        return [self.scorer.observer(layout, layer, row) if window is None else None for layer, window in enumerate(layout.shape.windows)]

    def storages(self, layout: Layout) -> list[Storage]:
        """Make a ragged storage a full-attention layer, the native one for a sliding layer."""
        kept = [self.budget.entries(context) for context in layout.contexts]

        def choose(row: int, prompt: PromptLayer) -> Tensor:
            return adaptive(self.scorer.scores(prompt)[0], kept[row], self.scorer.window, self.alpha)

        totals = [entries * layout.shape.kv_heads for entries in kept]
        return [RaggedStorage(layout, totals, choose) if window is None else sliding(layout, window) for window in layout.shape.windows]


def adaptive(scores: Tensor, entries: int, window: int, alpha: float) -> Tensor:
    """Return which entries are kept, (kv_heads, m) bool: ``entries`` a head on average, the last ``window`` by every head.

    ``scores`` is (kv_heads, m). Of what the window leaves of the budget each head gets the share ``alpha`` of an equal part for sure, and
    of the rest as much as it has of the layer's best entries. Of equal scores in a head the later entry is kept.
    """
    heads, length = scores.shape
    safe = min(window, entries)
    candidates, free = scores[:, : length - safe], entries - safe
    mask = torch.zeros(heads, length, dtype=torch.bool, device=scores.device)
    mask[:, length - safe :] = True
    if free:
        best = candidates.flatten().sort(descending=True, stable=True).indices[: free * heads]
        found = torch.bincount(best // candidates.shape[1], minlength=heads).tolist()
        counts = torch.tensor(shares(found, free, alpha), device=scores.device)
        order = candidates.shape[1] - 1 - candidates.flip(-1).sort(dim=-1, descending=True, stable=True).indices
        ranked = torch.arange(candidates.shape[1], device=scores.device) < counts[:, None]
        mask[:, : length - safe].scatter_(1, order, ranked)
    return mask


def shares(found: list[int], free: int, alpha: float) -> list[int]:
    """Return how many entries each head gets: ``alpha × free + (1 - alpha) × found``, rounded so that the sum is that of ``found``."""
    exact = [alpha * free + (1 - alpha) * count for count in found]
    given = [int(value) for value in exact]
    rest = sorted(range(len(found)), key=lambda head: given[head] - exact[head])  # largest fraction first; of equal ones the first head
    for head in rest[: sum(found) - sum(given)]:
        given[head] += 1
    return given


def build(params: Mapping[str, Any]) -> AdaKV:
    """Build the policy. Raises ValueError for parameters that do not fit together."""
    given = known("adakv", params, {"keep", "tokens", "window", "kernel", "pooling", "alpha"})
    alpha = given.get("alpha", 0.2)
    if not 0 <= alpha <= 1:
        raise ValueError(f"adakv: alpha is from 0 to 1, not {alpha}")
    scorer = votes_of("adakv", given.get("window", 32), given.get("kernel", 7), given.get("pooling", "max"))
    return AdaKV(scorer=scorer, budget=budget_of("adakv", given), alpha=alpha)
