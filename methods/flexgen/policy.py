"""FlexGen's compressed cache: each token's keys and values in groups along the head dimension, four bits a number (Sheng et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from methods.kv.budget import known
from methods.kv.observe import Observer
from methods.kv.packing import per_token
from methods.kv.prefill import sliding
from methods.kv.storage.base import Layout, Storage

from .simulated import SimulatedStorage


@dataclass(frozen=True)
class FlexGen:
    """Packs every token once the next one comes; layers with a sliding window stay as the model has them.

    ``simulated`` holds all in the model's precision, rounded to what the codes could say, and reads the prompt itself that way.
    """

    bits: int
    group: int
    simulated: bool = False
    rotated: bool = True
    batch: bool = True
    extends_window: bool = False
    chunk: int | None = None

    @property
    def shares_prefill(self) -> bool:
        """Whether the prompt is read at full precision."""
        return not self.simulated

    def observers(self, layout: Layout, row: int) -> Sequence[Observer | None]:
        """Observe nothing."""
        return ()

    def storages(self, layout: Layout) -> list[Storage]:
        """Make a storage a layer."""
        return [self._full(layout) if window is None else sliding(layout, window) for window in layout.shape.windows]

    def _full(self, layout: Layout) -> Storage:
        if self.simulated:
            return SimulatedStorage(layout, self.bits, self.group)
        return per_token(self.bits, self.group)(layout, layout.lengths)


def build(params: Mapping[str, Any]) -> FlexGen:
    """Build the policy. Raises ValueError for parameters that do not fit together."""
    given = known("flexgen", params, {"bits", "group", "simulated"})
    policy = FlexGen(bits=given.get("bits", 4), group=given.get("group", 64), simulated=given.get("simulated", False))
    try:
        per_token(policy.bits, policy.group)
    except ValueError as error:
        raise ValueError(f"flexgen: {error}") from error
    return policy
