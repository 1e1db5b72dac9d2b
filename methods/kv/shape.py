"""What a model's native cache looks like: heads, head size and each layer's own window. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CacheShape:
    """The native cache of one model. ``windows`` has one entry a layer: its sliding window in tokens, or None for full attention."""

    kv_heads: int
    head_dim: int
    windows: tuple[int | None, ...]
    model_type: str = ""
    """What config.json calls the architecture, such as ``mistral``."""
    heads: int = 0
    """Query heads."""

    @property
    def token_elements(self) -> int:
        """Elements of keys and values that one token adds to one layer."""
        return 2 * self.kv_heads * self.head_dim

    def native_entries(self, layer: int, tokens: int) -> int:
        """Tokens that one layer of the native cache holds after ``tokens``: a sliding one the ``window - 1`` that the next query sees."""
        window = self.windows[layer]
        return tokens if window is None else min(tokens, max(window - 1, 0))

    def native_bytes(self, tokens: int, element_bytes: int) -> int:
        """Bytes of the native cache after ``tokens`` tokens of one request."""
        return sum(self.native_entries(layer, tokens) for layer in range(len(self.windows))) * self.token_elements * element_bytes


def shape_of(config: Any) -> CacheShape:
    """Read the shape from a transformers configuration. Raises ValueError for layers that keep no keys and values."""
    layers = config.num_hidden_layers
    heads = config.num_attention_heads
    types = getattr(config, "layer_types", None)
    sliding = getattr(config, "sliding_window", None)
    if types is None:
        used = getattr(config, "use_sliding_window", True)
        types = ["sliding_attention" if sliding is not None and used else "full_attention"] * layers
    unknown = sorted(set(types) - {"full_attention", "sliding_attention"})
    if unknown:
        raise ValueError(f"the cache family cannot hold layers of type {', '.join(unknown)}; it knows full_attention and sliding_attention")
    return CacheShape(
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        windows=tuple(sliding if kind == "sliding_attention" else None for kind in types),
        model_type=getattr(config, "model_type", ""),
        heads=heads,
    )
