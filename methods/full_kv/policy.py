"""Full KV: every layer holds what the model attends to, in the model's precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from methods.kv.observe import Observer
from methods.kv.prefill import native_storages
from methods.kv.storage.base import Layout, Storage


@dataclass(frozen=True)
class FullKV:
    """The baseline: all tokens in full-attention layers; in sliding-window layers the ``window - 1`` that the next token attends to."""

    rotated: bool = True
    batch: bool = True
    extends_window: bool = False
    chunk: int | None = None
    shares_prefill: bool = True

    def observers(self, layout: Layout, row: int) -> Sequence[Observer | None]:
        """Observe nothing."""
        return ()

    def storages(self, layout: Layout) -> list[Storage]:
        """Make what the model itself keeps."""
        return native_storages(layout)


def build(params: Mapping[str, Any]) -> FullKV:
    """Build the policy. Raises ValueError: there is nothing to set."""
    if params:
        raise ValueError(f"full-kv has no parameters; given {', '.join(sorted(params))}")
    return FullKV()
