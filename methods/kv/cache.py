"""A transformers cache whose layers hand everything to storages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from .seam import View
from .storage.base import Storage


class StorageLayer(CacheLayerMixin):
    """One layer. Its length is the logical one, tokens seen: the physical one would shift every position after an eviction."""

    is_sliding = False
    is_compileable = False

    def __init__(self, storage: Storage) -> None:
        super().__init__()
        self.storage = storage
        self.is_initialized = True

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: storages are complete from the start."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[View, View]:
        """Store (rows, kv_heads, n, head_dim) and return the view that attention reads, in both places."""
        view = self.storage.append(key_states, value_states)
        return view, view

    def get_seq_length(self, *args: Any) -> int:
        """Return the tokens seen."""
        return self.storage.seen()

    def get_mask_sizes(self, query_length: Any, *args: Any) -> tuple[int, int]:
        """Return ``(keys, offset)`` as an uncompressed cache would: transformers 5 passes a length, older ones positions."""
        new = query_length if isinstance(query_length, int) else query_length.shape[0]
        return self.storage.seen() + new, 0

    def get_max_length(self) -> int:
        """Return -1: no maximum of its own."""
        return -1

    def get_max_cache_shape(self) -> int:
        """Return -1: the name that transformers before 5.20 uses."""
        return -1


class StorageCache(Cache):
    """A cache over storages, one a layer."""

    def __init__(self, storages: Sequence[Storage]) -> None:
        super().__init__(layers=[StorageLayer(storage) for storage in storages])
