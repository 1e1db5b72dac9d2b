"""Bytes that FlexGen's cache holds when the prompt is complete, before anything runs. Runs on the host: no torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from longctx.methods.kv.estimate import native


def estimate(config: Mapping[str, Any], tokens: int, params: Mapping[str, Any], dtype_bytes: int) -> int:
    """Return the KV bytes of one request of ``tokens`` prompt tokens on the model of ``config`` (its config.json)."""
    cache = native(config, tokens, dtype_bytes)
    bits, group = params.get("bits") or 4, params.get("group") or 64
    packed = 2 * cache.kv_heads * (cache.head_dim * bits // 8 + 4 * (cache.head_dim // math.gcd(group, cache.head_dim)))
    return cache.total(tokens * (cache.entry if params.get("simulated") else packed))
