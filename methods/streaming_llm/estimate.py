"""Bytes that StreamingLLM holds when the prompt is complete, before anything runs. Runs on the host: no torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longctx.methods.kv.estimate import budget, native


def estimate(config: Mapping[str, Any], tokens: int, params: Mapping[str, Any], dtype_bytes: int) -> int:
    """Return the KV bytes of one request of ``tokens`` prompt tokens on the model of ``config`` (its config.json)."""
    cache = native(config, tokens, dtype_bytes)
    total = budget(params, tokens)
    share, number = params.get("sinks_share"), params.get("sinks")
    sinks = int(share * total) if share is not None else (4 if number is None else number)
    local = total - min(sinks, total - 1)
    if params.get("variant") == "pruned":
        local = 0  # a layer's own window stays as it is, however large
    kept = min(total, tokens)
    return cache.entry * sum(kept if window is None or 0 < local < window else min(window - 1, tokens) for window in cache.windows)
