"""PyramidKV: attention narrows from layer to layer, and so may the budget (Cai et al., 2024, arXiv 2406.02069)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from methods.kv.budget import budget_of, known
from methods.kv.evicting import Entries, Evicting
from methods.kv.packing import NAMES, holder_of
from methods.kv.votes import votes_of


@dataclass(frozen=True)
class Pyramid:
    """Shares a budget out in equal steps from the first layer to the last, on average what each would have had.

    Beyond the ``window``, which all keep, the last layer has the average over ``beta``. Rounding is symmetric, so that all layers together
    hold exactly layers × average.
    """

    window: int
    beta: float

    def __call__(self, budget: Entries, tokens: int, layer: int, layers: int) -> int:
        """Return the entries of a layer."""
        average = budget.entries(tokens)
        beyond = average - self.window
        if layers == 1 or beyond <= 0:
            return average
        spread = min(beyond - beyond / self.beta, tokens - average)
        return average + round(spread * (layers - 1 - 2 * layer) / (layers - 1))


def build(params: Mapping[str, Any]) -> Evicting:
    """Build the policy: SnapKV's votes, a pyramid of budgets. Raises ValueError for what does not fit."""
    given = known("pyramidkv", params, {"keep", "tokens", "window", "kernel", "pooling", "beta", *NAMES})
    window, beta = given.get("window", 8), given.get("beta", 20.0)
    if beta < 1:
        raise ValueError(f"pyramidkv: beta is at least 1, not {beta}")
    scorer = votes_of("pyramidkv", window, given.get("kernel", 7), given.get("pooling", "max"))
    return Evicting(scorer=scorer, budget=budget_of("pyramidkv", given), holder=holder_of("pyramidkv", given), share=Pyramid(window, beta))
