"""Knorm: the shorter a key, the more attention it tends to get (Devoto et al., 2024, arXiv 2406.11430)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from methods.kv.budget import budget_of, known
from methods.kv.evicting import Evicting
from methods.kv.observe import Observer
from methods.kv.packing import NAMES, holder_of
from methods.kv.storage.base import Layout, PromptLayer
from torch import Tensor


class Knorm:
    """Scores an entry by minus its key's L2 norm; rotation does not change it."""

    def observer(self, layout: Layout, layer: int, row: int) -> Observer | None:
        """Observe nothing: keys say enough."""
        return None

    def scores(self, prompt: PromptLayer) -> Tensor:
        """Return (1, kv_heads, m)."""
        return -prompt.keys.float().norm(dim=-1)


def build(params: Mapping[str, Any]) -> Evicting:
    """Build the policy. Raises ValueError for parameters that do not fit together."""
    given = known("knorm", params, {"keep", "tokens", *NAMES})
    return Evicting(scorer=Knorm(), budget=budget_of("knorm", given), holder=holder_of("knorm", given))
