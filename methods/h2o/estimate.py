"""Bytes that H2O holds when the prompt is complete, before anything runs. Runs on the host: no torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longctx.methods.kv.estimate import budget, native

_SLOT_BYTES = 8
"""A score and a position, of each entry of each KV head."""


def estimate(config: Mapping[str, Any], tokens: int, params: Mapping[str, Any], dtype_bytes: int) -> int:
    """Return the KV bytes of one request of ``tokens`` prompt tokens on the model of ``config`` (its config.json)."""
    cache = native(config, tokens, dtype_bytes)
    if params.get("variant") == "bench2024":  # keeps everything
        return cache.total(tokens * cache.entry)
    return cache.total(min(tokens, budget(params, tokens)) * (cache.entry + cache.kv_heads * _SLOT_BYTES))
