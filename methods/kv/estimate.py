"""What the estimates of cache methods have in common. Standard library only: they run on the host, from config.json alone.

Import it as ``longctx.methods.kv.estimate``, from wherever a method lies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Native:
    """The model's own cache for one prompt of ``tokens``: heads, head size, each layer's sliding window or None, bytes of an element."""

    heads: int
    kv_heads: int
    head_dim: int
    windows: tuple[int | None, ...]
    tokens: int
    dtype_bytes: int

    @property
    def entry(self) -> int:
        """Bytes of one token's keys and values in one layer."""
        return 2 * self.kv_heads * self.head_dim * self.dtype_bytes

    @property
    def full_layers(self) -> int:
        """Layers that attend to everything."""
        return sum(window is None for window in self.windows)

    def sliding(self) -> int:
        """Bytes of the layers with a window of their own, as the model keeps them: ``window - 1`` entries at most."""
        return sum(min(window - 1, self.tokens) * self.entry for window in self.windows if window is not None)

    def total(self, layer: int) -> int:
        """Bytes of all layers, where one that attends to everything holds ``layer`` bytes and a sliding one stays as it is."""
        return self.full_layers * layer + self.sliding()


def native(config: Mapping[str, Any], tokens: int, dtype_bytes: int) -> Native:
    """Read the cache's shape from the content of config.json."""
    heads: int = config["num_attention_heads"]
    return Native(
        heads=heads, kv_heads=config.get("num_key_value_heads") or heads, head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        windows=tuple(_windows(config)), tokens=tokens, dtype_bytes=dtype_bytes,
    )  # fmt: skip


def _windows(config: Mapping[str, Any]) -> list[int | None]:
    """Return each layer's own sliding window, None for full attention. Older files leave to the model's code which layers slide."""
    layers: int = config["num_hidden_layers"]
    window: int | None = config.get("sliding_window")
    kind = config.get("model_type")
    types: list[str] | None = config.get("layer_types")
    if window is None or (kind in ("qwen2", "qwen3") and not config.get("use_sliding_window")):
        return [None] * layers
    if types is not None:
        return [window if name == "sliding_attention" else None for name in types]
    if kind == "gemma2":
        return [None if layer % 2 else window for layer in range(layers)]
    first = config.get("max_window_layers", 0) if kind in ("qwen2", "qwen3") else 0
    return [window if layer >= first else None for layer in range(layers)]


def budget(params: Mapping[str, Any], tokens: int) -> int:
    """Return the entries that ``tokens`` or ``keep`` allow for a prompt; at least one, and perhaps more than the prompt has."""
    counted = tokens if params.get("cap") is None else min(tokens, params["cap"])
    wanted = params["tokens"] if params.get("tokens") is not None else int((params.get("keep") or 0) * counted)
    return max(1, wanted)


def held(entries: int, cache: Native, params: Mapping[str, Any], bits: int | None = None) -> int:
    """Return the bytes of one layer's entries: in the model's precision or, where ``bits`` are given, packed as KIVI packs.

    Packed are codes, float16 scales and minima; the latest entries are residuals in the model's precision.
    """
    bits = params.get("bits") or bits
    if not bits:
        return entries * cache.entry
    group, residual, size = params.get("group") or 32, params.get("residual") or 128, cache.head_dim
    keys, values = entries - entries % residual, max(0, entries - residual)
    codes = (keys + values) * (size * bits // 8)
    scales = (keys // group) * size + values * (size // math.gcd(group, size))
    return cache.kv_heads * (codes + 4 * scales + (2 * entries - keys - values) * size * cache.dtype_bytes)
