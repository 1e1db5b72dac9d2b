"""Bytes that InfLLM holds when the prompt is complete, before anything runs. Runs on the host: no torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longctx.methods.kv.estimate import budget, native


def estimate(config: Mapping[str, Any], tokens: int, params: Mapping[str, Any], dtype_bytes: int) -> int:
    """Return the KV bytes of one request of ``tokens`` prompt tokens on the model of ``config`` (its config.json)."""
    cache = native(config, tokens, dtype_bytes)
    sinks, chosen, local = split(tokens, params)
    size = params.get("block") or 128
    blocks = max(0, tokens - sinks - local) // size
    loose = tokens - blocks * size
    kept = loose if params.get("offload") or not chosen else tokens
    scored = cache.heads if params.get("variant") == "bench2024" else cache.kv_heads
    own = scored * (loose * 4 + (blocks * cache.head_dim * dtype_bytes if chosen else 0))  # scores, representatives
    return cache.total(kept * cache.entry + own)


def split(tokens: int, params: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return first tokens, blocks chosen and window for a prompt of ``tokens``."""
    first: int = 128 if params.get("sinks") is None else params["sinks"]
    if params.get("local") is not None:
        return first, 16 if params.get("blocks") is None else params["blocks"], params["local"]
    total = budget(params, tokens)
    size: int = params.get("block") or 128
    if params.get("variant") == "bench2024":
        first, blocks = int(0.021 * total), int(total * 0.324) // size
        return first, blocks, max(512, total - first - blocks * size)
    first = min(first, total - 1)
    blocks = (total - first) // 3 // size
    return first, blocks, total - first - blocks * size
