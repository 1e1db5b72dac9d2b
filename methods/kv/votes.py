"""What the last queries of a prompt attend to: the vote by which SnapKV and its relatives decide."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .observe import Attended, Observer, weights_of
from .storage.base import Layout, PromptLayer

POOLINGS = ("max", "mean")
_BLOCK_ELEMENTS = 1 << 25
"""Attention weights computed at once."""


class LastQueries:
    """An observer that holds copies of a prompt's last ``count`` queries and their log-sum-exp, whatever the chunks."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: Attended | None = None

    def attended(self, chunk: Attended) -> None:
        """Take the chunk's last queries, behind those still within the count."""
        query, lse = chunk.query[:, :, -self._count :], chunk.lse[:, :, -self._count :]
        held = self._held
        if held is not None and query.shape[2] < self._count:
            query = torch.cat((held.query, query), dim=2)[:, :, -self._count :]
            lse = torch.cat((held.lse, lse), dim=2)[:, :, -self._count :]
        nothing = chunk.keys[:, :, :0].clone()
        first = chunk.first + chunk.query.shape[2] - query.shape[2]
        self._held = Attended(query.clone(), nothing, nothing, lse.clone(), first, chunk.scaling, chunk.softcap, chunk.window)

    def mean_weights(self, keys: Tensor, count: int) -> Tensor:
        """Average over the held queries their exact attention weights on the first ``count`` of all ``keys`` (1, kv_heads, m, head_dim).

        Returns (1, heads, count) in float32.
        """
        held = self._held
        assert held is not None
        chunk = Attended(held.query, keys, keys, held.lse, held.first, held.scaling, held.softcap, held.window)
        step = max(1, _BLOCK_ELEMENTS // (held.query.shape[1] * held.query.shape[2]))
        return torch.cat([weights_of(chunk, low, min(count, low + step)).mean(2) for low in range(0, count, step)], dim=-1)


@dataclass(frozen=True)
class Votes:
    """A scorer: an entry is worth the mean attention that the last ``window`` queries pay to it and, by pooling, to its neighbours.

    Weights are pooled for each query head along the tokens before the window, by ``pooling`` over ``kernel`` (odd) of them; places beyond
    the ends count as 0 in a mean. The query heads of a group are averaged. The window itself is always kept.
    """

    window: int
    kernel: int
    pooling: str

    def observer(self, layout: Layout, layer: int, row: int) -> Observer:
        """Hold the last queries."""
        return LastQueries(self.window)

    def scores(self, prompt: PromptLayer) -> Tensor:
        """Return (1, kv_heads, m): ``inf`` in the window."""
        kv_heads, length = prompt.keys.shape[1:3]
        older = max(0, length - self.window)
        recent = torch.full((1, kv_heads, length - older), float("inf"), device=prompt.keys.device)
        if not older:
            return recent
        if not isinstance(prompt.observer, LastQueries):
            raise TypeError("votes are counted by what LastQueries held; the policy's observers must be this scorer's")
        weights = prompt.observer.mean_weights(prompt.keys, older)
        pool = F.max_pool1d if self.pooling == "max" else F.avg_pool1d
        pooled = pool(weights, self.kernel, stride=1, padding=self.kernel // 2)
        return torch.cat((pooled.unflatten(1, (kv_heads, -1)).mean(2), recent), dim=-1)


def votes_of(method: str, window: int, kernel: int, pooling: str) -> Votes:
    """Make the scorer. Raises ValueError, naming the method, for values that make no sense."""
    if window < 1 or kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"{method}: window is at least 1 and kernel an odd number, not {window} and {kernel}")
    if pooling not in POOLINGS:
        raise ValueError(f"{method}: pooling '{pooling}' is not one of {', '.join(POOLINGS)}")
    return Votes(window, kernel, pooling)
