"""Bytes that PyramidKV holds when the prompt is complete, before anything runs. Standard library only."""

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
    average = min(tokens, max(1, wanted))
    sliding = [window for window in windows(config) if window is not None]
    layers: int = config["num_hidden_layers"] - len(sliding)
    native = 2 * kv_heads * head_dim * dtype_bytes
    held = sum(min(window - 1, tokens) for window in sliding) * native
    for layer in range(layers):
        kept = shared(average, tokens, layer, layers, params.get("window", 8), params.get("beta", 20.0))
        held += kv_heads * packed_bytes(kept, head_dim, params, dtype_bytes) if params.get("bits") else kept * native
    return held


def packed_bytes(entries: int, head_dim: int, params: Mapping[str, Any], dtype_bytes: int) -> int:
    """Return the bytes of keys and values of one KV head, packed: codes, float16 scales and minima, and the residuals."""
    bits, group, residual = params["bits"], params.get("group") or 32, params.get("residual") or 128
    keys, values = entries - entries % residual, max(0, entries - residual)
    codes = (keys + values) * (head_dim * bits // 8)
    scales = (keys // group) * head_dim + values * (head_dim // math.gcd(group, head_dim))
    return codes + 4 * scales + (2 * entries - keys - values) * head_dim * dtype_bytes


def shared(average: int, tokens: int, layer: int, layers: int, window: int, beta: float) -> int:
    """Return what one of the evicted layers keeps, in equal steps from the first to the last."""
    beyond = average - window
    if layers == 1 or beyond <= 0:
        return average
    spread = min(beyond - beyond / beta, tokens - average)
    return average + round(spread * (layers - 1 - 2 * layer) / (layers - 1))


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
