"""What a method of the cache family decides. One small file each; the storages do the holding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

from .observe import Observer
from .storage.base import Layout, Storage


class Policy(Protocol):
    """A method with its parameters bound, whatever the prompts are."""

    rotated: bool
    """Whether the model rotates queries and keys itself; otherwise the storages do."""
    batch: bool
    """Whether several rows may be decoded together."""
    extends_window: bool
    """Whether prompts longer than the model's window are taken."""
    chunk: int | None
    """Prompt tokens a forward pass, or None for the library's choice."""
    shares_prefill: bool
    """Whether the prompt is read at full precision, rotated, by the library: its storages are then ``fill``-ed, and variants that do so may
    fork from one prefill. Otherwise the storages read the prompt themselves (``begin``, ``append`` …)."""

    def observers(self, layout: Layout, row: int) -> Sequence[Observer | None]:
        """Make what watches the layers while a row's prompt is read, one a layer; an empty sequence for nothing at all.

        Asked only where ``shares_prefill``. What was observed reaches the storage as ``PromptLayer.observer``.
        """

    def storages(self, layout: Layout) -> Sequence[Storage]:
        """Make one storage a layer for a batch."""


def make(policy: str, params: Mapping[str, Any]) -> Policy:
    """Build the policy that method.yaml names as ``module:attribute``. Raises ValueError for parameters that do not fit."""
    module, _, attribute = policy.partition(":")
    built: Policy = getattr(import_module(module), attribute)(params)
    return built
