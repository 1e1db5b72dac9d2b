"""Bytes that KeyDiff holds when the prompt is complete, before anything runs. Runs on the host: no torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longctx.methods.kv.estimate import budget, held, native


def estimate(config: Mapping[str, Any], tokens: int, params: Mapping[str, Any], dtype_bytes: int) -> int:
    """Return the KV bytes of one request of ``tokens`` prompt tokens on the model of ``config`` (its config.json)."""
    cache = native(config, tokens, dtype_bytes)
    return cache.total(held(min(tokens, budget(params, tokens)), cache, params))
