"""Full KV: every layer holds what the model attends to, in the model's precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from methods.kv.storage.base import Layout, Storage
from methods.kv.storage.dense import DenseStorage
from methods.kv.storage.window import Window, WindowStorage


@dataclass(frozen=True)
class FullKV:
    """The baseline: all tokens in full-attention layers; in sliding-window layers the ``window - 1`` that the next token attends to."""

    rotated: bool = True
    batch: bool = True
    extends_window: bool = False
    chunk: int | None = None

    def storages(self, layout: Layout) -> list[Storage]:
        """Make a dense storage a layer, or a window where the layer slides."""
        return [
            DenseStorage(layout) if window is None else WindowStorage(layout, Window(local=window, kept=window - 1, own=window))
            for window in layout.shape.windows
        ]

    def analytic(self, layout: Layout) -> int:
        """Compute the native cache of the longest row: shorter rows are padded to it."""
        return layout.shape.native_bytes(layout.longest, layout.dtype.itemsize)


def build(params: Mapping[str, Any]) -> FullKV:
    """Build the policy. Raises ValueError: there is nothing to set."""
    if params:
        raise ValueError(f"full-kv has no parameters; given {', '.join(sorted(params))}")
    return FullKV()
