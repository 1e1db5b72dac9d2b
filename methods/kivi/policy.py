"""KIVI: a key's channels differ, so keys are quantised each channel on its own; values each token on its own (Liu et al., 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from methods.kv.budget import known
from methods.kv.evicting import Holder
from methods.kv.observe import Observer
from methods.kv.packing import holder_of
from methods.kv.prefill import sliding
from methods.kv.storage.base import Layout, Storage


@dataclass(frozen=True)
class Kivi:
    """Reads the prompt at full precision, then packs it; layers with a sliding window stay as the model has them."""

    holder: Holder
    rotated: bool = True
    batch: bool = True
    extends_window: bool = False
    chunk: int | None = None
    shares_prefill: bool = True

    def observers(self, layout: Layout, row: int) -> Sequence[Observer | None]:
        """Observe nothing."""
        return ()

    def storages(self, layout: Layout) -> list[Storage]:
        """Make a packed storage a full-attention layer, the native one for a sliding layer."""
        return [self.holder(layout, layout.lengths) if window is None else sliding(layout, window) for window in layout.shape.windows]


def build(params: Mapping[str, Any]) -> Kivi:
    """Build the policy. Raises ValueError for parameters that do not fit together."""
    given = known("kivi", params, {"bits", "group", "residual"})
    return Kivi(holder_of("kivi", {"bits": 2, **given}))
