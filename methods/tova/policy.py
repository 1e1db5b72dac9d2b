"""TOVA: a decoder is a recurrent network whose state drops the token that matters least now (Oren et al., 2024, arXiv 2401.06104)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from methods.kv import attention
from methods.kv.budget import budget_of, known
from methods.kv.evicting import Evicting
from methods.kv.observe import Attended, Observer
from methods.kv.storage.base import Layout, PromptLayer
from methods.kv.storage.slots import Slots, SlotStorage
from torch import Tensor


class LastQuery:
    """Keeps the latest query of a layer, (1, heads, 1, head_dim): with the keys it says everything."""

    def __init__(self) -> None:
        self.query: Tensor | None = None
        self.scaling = 1.0
        self.softcap: float | None = None

    def attended(self, chunk: Attended) -> None:
        """Copy the chunk's last query."""
        self.query, self.scaling, self.softcap = chunk.query[:, :, -1:].clone(), chunk.scaling, chunk.softcap


def averaged(weights: Tensor) -> Tensor:
    """Average the last query's weights (rows, kv_heads, group, n, m) over all heads of the layer: the same (rows, kv_heads, m) for each."""
    return weights[:, :, :, -1].mean((1, 2)).unsqueeze(1).expand(-1, weights.shape[1], -1)


class Attention:
    """Scores an entry by the attention that the prompt's last token pays to it, averaged over the heads of the layer."""

    def observer(self, layout: Layout, layer: int, row: int) -> Observer | None:
        """Remember the last query."""
        return LastQuery()

    def scores(self, prompt: PromptLayer) -> Tensor:
        """Return (1, kv_heads, m), every KV head's the same."""
        last = prompt.observer
        assert isinstance(last, LastQuery) and last.query is not None
        everything = torch.ones(1, 1, 1, prompt.keys.shape[2], dtype=torch.bool, device=prompt.keys.device)
        weights = attention.weighed(
            last.query, prompt.keys, prompt.values, scaling=last.scaling, softcap=last.softcap, valid=everything
        )[2]  # fmt: skip
        return averaged(weights)


class Latest:
    """The rule of the slots: what the latest query attends to least makes room, be it the latest token itself."""

    def renew(self, slots: Slots, weights: Tensor) -> None:
        """Forget the weights of earlier queries."""
        slots.scores.copy_(averaged(weights))

    def worth(self, slots: Slots) -> Tensor:
        """Return the weights."""
        return slots.scores


def build(params: Mapping[str, Any]) -> Evicting:
    """Build the policy. Raises ValueError for parameters that do not fit together."""
    budget = budget_of("tova", known("tova", params, {"keep", "tokens"}))
    return Evicting(scorer=Attention(), budget=budget, holder=partial(SlotStorage, rule=Latest(), limit=budget.tokens))
