"""H2O: few tokens get most of the attention over time; keep those and the latest (Zhang et al., 2023, arXiv 2306.14048)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

import torch
from methods.kv.budget import budget_of, known
from methods.kv.evicting import Evicting
from methods.kv.observe import Attended, Observer
from methods.kv.policy import Policy
from methods.kv.storage.base import Layout, PromptLayer
from methods.kv.storage.slots import Slots, SlotStorage
from torch import Tensor
from torch.nn import functional

from .masked import Masked

VARIANTS = ("published", "bench2024")


class Received:
    """Sums the attention that each key of a layer gets while the prompt is read: (1, kv_heads, tokens so far) in float32."""

    def __init__(self, layout: Layout) -> None:
        self.sums = torch.zeros(1, layout.shape.kv_heads, 0, device=layout.device)

    def attended(self, chunk: Attended) -> None:
        """Add what the queries of a chunk gave."""
        self.sums = functional.pad(self.sums, (0, chunk.keys.shape[2] - self.sums.shape[2])) + chunk.column_sums


class HeavyHitters:
    """Scores an entry by all attention that it got from the query heads of its KV head, by the prompt's queries and later ones alike."""

    def observer(self, layout: Layout, layer: int, row: int) -> Observer | None:
        """Sum the prompt's part."""
        return Received(layout)

    def scores(self, prompt: PromptLayer) -> Tensor:
        """Return (1, kv_heads, m)."""
        assert isinstance(prompt.observer, Received)
        return prompt.observer.sums


class Accumulate:
    """The rule of the slots: goes on summing; of what is not among the latest, what got least makes room."""

    def __init__(self, latest: Sequence[int]) -> None:
        self._counts = tuple(latest)
        self._latest: Tensor | None = None

    def renew(self, slots: Slots, weights: Tensor) -> None:
        """Add the weights of new tokens."""
        slots.scores.add_(weights.sum((2, 3)))

    def worth(self, slots: Slots) -> Tensor:
        """Return the sums, and infinity for each row's latest tokens."""
        if self._latest is None:  # first asked when decoding is prepared: no step copies numbers to the device
            self._latest = torch.tensor(self._counts, dtype=torch.int32, device=slots.now.device)[:, None, None]
        return slots.scores.masked_fill(slots.positions > slots.now - self._latest, float("inf"))


@dataclass(frozen=True)
class Slotted:
    """Makes the slots of a layer: as many as the selection keeps, up to ``limit`` where the budget is a number."""

    latest: Callable[[int], int]
    limit: int | None

    def __call__(self, layout: Layout, entries: Sequence[int]) -> SlotStorage:
        """Make them for rows of so many entries."""
        slots = [count if self.limit is None else max(count, self.limit) for count in entries]
        return SlotStorage(layout, entries, Accumulate([self.latest(count) for count in slots]), self.limit)


def build(params: Mapping[str, Any]) -> Policy:
    """Build the policy. Raises ValueError for parameters that do not fit together."""
    given = known("h2o", params, {"variant", "keep", "tokens", "recent", "ratio"})
    variant = given.get("variant", "published")
    if variant not in VARIANTS:
        raise ValueError(f"h2o: variant '{variant}' is not one of {', '.join(VARIANTS)}")
    strange = sorted(set(given) & ({"ratio"} if variant == "published" else {"keep", "tokens", "recent"}))
    if strange:
        raise ValueError(f"h2o: variant '{variant}' does not take {', '.join(strange)}")
    if variant == "bench2024":
        ratio = given.get("ratio")
        if ratio is None or not 0 < ratio <= 0.5:
            raise ValueError(f"h2o: variant 'bench2024' needs ratio, above 0 and at most 0.5, not {ratio}")
        return Masked(ratio=ratio)
    budget, recent = budget_of("h2o", given), given.get("recent", 0.5)
    if not 0 <= recent <= 1:
        raise ValueError(f"h2o: recent is a share from 0 to 1, not {recent}")

    def latest(entries: int) -> int:
        return max(1, entries - int((1 - recent) * entries))

    return Evicting(scorer=HeavyHitters(), budget=budget, latest=latest, holder=Slotted(latest, budget.tokens))
