"""SnapKV: the last queries of a prompt know what will be looked at (Li et al., 2024, arXiv 2404.14469)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from methods.kv.budget import budget_of, known
from methods.kv.evicting import Evicting
from methods.kv.packing import NAMES, holder_of
from methods.kv.votes import votes_of


def build(params: Mapping[str, Any]) -> Evicting:
    """Build the policy: votes of the last ``window`` queries, one budget for every layer. Raises ValueError for what does not fit."""
    given = known("snapkv", params, {"keep", "tokens", "window", "kernel", "pooling", *NAMES})
    scorer = votes_of("snapkv", given.get("window", 32), given.get("kernel", 7), given.get("pooling", "max"))
    return Evicting(scorer=scorer, budget=budget_of("snapkv", given), holder=holder_of("snapkv", given))
