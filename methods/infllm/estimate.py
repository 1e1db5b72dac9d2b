"""Bytes that InfLLM holds on the device when the prompt is complete, before anything runs. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def estimate(config: Mapping[str, Any], tokens: int, params: Mapping[str, Any], dtype_bytes: int) -> int:
    """Return the KV bytes of one request of ``tokens`` prompt tokens on the model of ``config`` (its config.json)."""
    heads: int = config["num_attention_heads"]
    kv_heads: int = config.get("num_key_value_heads") or heads
    head_dim: int = config.get("head_dim") or config["hidden_size"] // heads
    sinks, chosen, local = split(tokens, params)
    size = params.get("block") or 128
    blocks = max(0, tokens - sinks - local) // size
    loose = tokens - blocks * size
    held = loose if params.get("offload") or not chosen else tokens
    scored = heads if params.get("variant") == "bench2024" else kv_heads
    own = scored * (loose * 4 + (blocks * head_dim * dtype_bytes if chosen else 0))  # scores, representatives
    entry = 2 * kv_heads * head_dim * dtype_bytes
    return sum(held * entry + own if window is None else min(window - 1, tokens) * entry for window in windows(config))


def split(tokens: int, params: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return first tokens, blocks chosen and window for a prompt of ``tokens``."""
    first: int = 128 if params.get("sinks") is None else params["sinks"]
    if params.get("local") is not None:
        return first, 16 if params.get("blocks") is None else params["blocks"], params["local"]
    counted = tokens if params.get("cap") is None else min(tokens, params["cap"])
    total: int = max(1, params["tokens"] if params.get("tokens") is not None else int((params.get("keep") or 0) * counted))
    size: int = params.get("block") or 128
    if params.get("variant") == "bench2024":
        first, blocks = int(0.021 * total), int(total * 0.324) // size
        return first, blocks, max(512, total - first - blocks * size)
    first = min(first, total - 1)
    blocks = (total - first) // 3 // size
    return first, blocks, total - first - blocks * size


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
