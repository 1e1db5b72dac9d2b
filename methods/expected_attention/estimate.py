"""Bytes that ExpectedAttention holds when the prompt is complete, before anything runs. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def estimate(config: Mapping[str, Any], tokens: int, params: Mapping[str, Any], dtype_bytes: int) -> int:
    """Return the KV bytes of one request of ``tokens`` prompt tokens on the model of ``config`` (its config.json)."""
    heads: int = config["num_attention_heads"]
    kv_heads: int = config.get("num_key_value_heads") or heads
    head_dim: int = config.get("head_dim") or config["hidden_size"] // heads
    wanted = params["tokens"] if params.get("tokens") is not None else int((params.get("keep") or 0) * tokens)
    kept = min(tokens, max(1, wanted))
    full = kv_heads * (2 * kept * head_dim * dtype_bytes if not params.get("bits") else packed_bytes(kept, head_dim, params, dtype_bytes))
    native = 2 * kv_heads * head_dim * dtype_bytes
    return sum(full if window is None else min(window - 1, tokens) * native for window in windows(config))


def packed_bytes(entries: int, head_dim: int, params: Mapping[str, Any], dtype_bytes: int) -> int:
    """Return the bytes of keys and values of one KV head, packed: codes, float16 scales and minima, and the residuals."""
    bits, group, residual = params["bits"], params.get("group") or 32, params.get("residual") or 128
    keys, values = entries - entries % residual, max(0, entries - residual)
    codes = (keys + values) * (head_dim * bits // 8)
    scales = (keys // group) * head_dim + values * (head_dim // math.gcd(group, head_dim))
    return codes + 4 * scales + (2 * entries - keys - values) * head_dim * dtype_bytes


def windows(config: Mapping[str, Any]) -> list[int | None]:
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
