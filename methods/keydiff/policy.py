"""KeyDiff: keys that differ from the rest tend to get attention (Park et al., 2025, arXiv 2504.15364)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from methods.kv.budget import budget_of, known
from methods.kv.evicting import Evicting
from methods.kv.observe import Observer
from methods.kv.packing import NAMES, holder_of
from methods.kv.storage.base import Layout, PromptLayer
from torch import Tensor


class KeyDiff:
    """Scores an entry by minus the cosine between its key and the anchor, the mean of all keys made of length 1."""

    def observer(self, layout: Layout, layer: int, row: int) -> Observer | None:
        """Observe nothing: keys say enough."""
        return None

    def scores(self, prompt: PromptLayer) -> Tensor:
        """Return (1, kv_heads, m)."""
        directions = F.normalize(prompt.keys.float(), dim=-1)
        anchor = F.normalize(directions.mean(dim=2, keepdim=True), dim=-1)
        return -(directions @ anchor.transpose(-1, -2)).squeeze(-1)


def build(params: Mapping[str, Any]) -> Evicting:
    """Build the policy. Raises ValueError for parameters that do not fit together."""
    given = known("keydiff", params, {"keep", "tokens", *NAMES})
    return Evicting(scorer=KeyDiff(), budget=budget_of("keydiff", given), holder=holder_of("keydiff", given))
