"""Bytes that TOVA holds when the prompt is complete, before anything runs. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SLOT_BYTES = 8
"""A score and a position, of each entry of each KV head."""


def estimate(config: Mapping[str, Any], tokens: int, params: Mapping[str, Any], dtype_bytes: int) -> int:
    """Return the KV bytes of one request of ``tokens`` prompt tokens on the model of ``config`` (its config.json)."""
    heads: int = config["num_attention_heads"]
    kv_heads: int = config.get("num_key_value_heads") or heads
    head_dim: int = config.get("head_dim") or config["hidden_size"] // heads
    entry = 2 * head_dim * dtype_bytes
    wanted = params["tokens"] if params.get("tokens") is not None else int((params.get("keep") or 0) * tokens)
    kept = min(tokens, max(1, wanted)) * (entry + _SLOT_BYTES)
    return kv_heads * sum(kept if window is None else min(window - 1, tokens) * entry for window in windows(config))


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
