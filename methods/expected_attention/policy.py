"""ExpectedAttention: queries to come are drawn like those of the prompt (Devoto et al., 2025, arXiv 2510.00636)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from methods.kv.budget import budget_of, known
from methods.kv.evicting import Evicting
from methods.kv.observe import Attended, Observer, queries_of
from methods.kv.packing import NAMES, holder_of
from methods.kv.rotary import Rotary
from methods.kv.storage.base import Layout, PromptLayer
from torch import Tensor, nn

_BLOCK = 4096
"""Keys scored at once."""


class Distribution:
    """Observes the queries of a layer before rotation, from position ``first`` on: their number, mean and spread, in float32.

    Chunks are combined by Chan's formula, which does not cancel as the difference of two large sums would.
    """

    def __init__(self, first: int, rotary: Rotary) -> None:
        self._first = first
        self._rotary = rotary
        self.count = 0
        self.scaling = 1.0
        self.mean = torch.zeros(0)
        """(heads, 1, head_dim)."""
        self.spread = torch.zeros(0)
        """(heads, head_dim, head_dim): the sum of the outer products of what is left when the mean is taken away."""

    def attended(self, chunk: Attended) -> None:
        """Note how the model scales its scores."""
        self.scaling = chunk.scaling

    def hidden(self, module: nn.Module, states: Tensor, first: int) -> None:
        """Take in the queries of a layer's input (1, n, hidden_size)."""
        states = states[:, max(0, self._first - first) :]
        new = states.shape[1]
        if not new:
            return
        queries = queries_of(module, states)[0].float()
        mean = queries.mean(1, keepdim=True)
        queries = queries - mean
        spread = queries.transpose(1, 2) @ queries
        if self.count:
            total, apart = self.count + new, mean - self.mean
            spread += self.spread + apart.transpose(1, 2) @ apart * (self.count * new / total)
            mean = self.mean + apart * (new / total)
        self.count, self.mean, self.spread = self.count + new, mean, spread

    def at(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Return mean (heads, 1, head_dim) and covariance (heads, head_dim, head_dim), turned by the mean rotation of some positions."""

        def turn(states: Tensor) -> Tensor:
            return self._rotary.averaged(states, first, count) * self._rotary.scaling

        return turn(self.mean), turn(turn(self.spread / self.count).transpose(1, 2)).transpose(1, 2)


@dataclass(frozen=True)
class ExpectedAttention:
    """A scorer: the attention that a query of the next ``future`` positions is expected to pay, times the length of the value.

    Queries are taken as normally distributed, with the mean and covariance of the prompt's, turned by the mean of those positions'
    rotations: then log E[exp(q·k)] = μ·k + kᵀΣk / 2 (of scaled keys). The first ``sinks`` tokens are always kept and not counted.
    """

    future: int
    sinks: int
    covariance: bool
    values: bool
    epsilon: float

    def observer(self, layout: Layout, layer: int, row: int) -> Observer:
        """Watch the queries. Raises ValueError for models that do not rotate."""
        if layout.full_rotary is None:
            raise ValueError("expected-attention turns queries as the model would, and does not know how this one does")
        return Distribution(self.sinks, layout.full_rotary)

    def scores(self, prompt: PromptLayer) -> Tensor:
        """Return (1, kv_heads, m): ``inf`` for the sinks."""
        kv_heads, length = prompt.keys.shape[1:3]
        first = min(self.sinks, length)
        sinks = torch.full((1, kv_heads, first), float("inf"), device=prompt.keys.device)
        if first == length:
            return sinks
        if not isinstance(prompt.observer, Distribution):
            raise TypeError("expectations come from what this scorer's own observer saw")
        mean, spread = prompt.observer.at(prompt.seen, self.future)
        mean, spread = mean.unflatten(0, (kv_heads, -1)), spread.unflatten(0, (kv_heads, -1))  # (kv_heads, group, …)
        logits = []
        for low in range(first, length, _BLOCK):
            keys = prompt.keys[0, :, None, low : low + _BLOCK].float() * prompt.observer.scaling  # (kv_heads, 1, n, d)
            part = (keys @ mean.transpose(-1, -2)).squeeze(-1)
            if self.covariance:
                part += ((keys @ spread) * keys).sum(-1) / 2
            logits.append(part)
        expected = torch.cat(logits, dim=-1).softmax(-1).mean(1)[None]
        if self.values:
            expected = (expected + self.epsilon) * torch.linalg.vector_norm(prompt.values[:, :, first:], dim=-1, dtype=torch.float32)
        return torch.cat((sinks, expected), dim=-1)


def build(params: Mapping[str, Any]) -> Evicting:
    """Build the policy. Raises ValueError for parameters that do not fit together."""
    given = known("expected-attention", params, {"keep", "tokens", "future", "sinks", "covariance", "values", "epsilon", *NAMES})
    scorer = ExpectedAttention(
        future=given.get("future", 512),
        sinks=given.get("sinks", 4),
        covariance=given.get("covariance", True),
        values=given.get("values", True),
        epsilon=given.get("epsilon", 0.0),
    )
    if scorer.future < 1 or scorer.sinks < 0 or scorer.epsilon < 0:
        raise ValueError(
            "expected-attention: future is at least 1, sinks and epsilon at least 0, "
            f"not {scorer.future}, {scorer.sinks} and {scorer.epsilon}"
        )
    return Evicting(scorer=scorer, budget=budget_of("expected-attention", given), holder=holder_of("expected-attention", given))
