"""Bytes that PyramidKV holds when the prompt is complete, before anything runs. Runs on the host: no torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longctx.methods.kv.estimate import budget, held, native


def estimate(config: Mapping[str, Any], tokens: int, params: Mapping[str, Any], dtype_bytes: int) -> int:
    """Return the KV bytes of one request of ``tokens`` prompt tokens on the model of ``config`` (its config.json)."""
    cache = native(config, tokens, dtype_bytes)
    average, layers = min(tokens, budget(params, tokens)), cache.full_layers
    shares = (shared(average, tokens, layer, layers, params.get("window", 8), params.get("beta", 20.0)) for layer in range(layers))
    return cache.sliding() + sum(held(kept, cache, params) for kept in shares)


def shared(average: int, tokens: int, layer: int, layers: int, window: int, beta: float) -> int:
    """Return what one of the evicted layers keeps, in equal steps from the first to the last."""
    beyond = average - window
    if layers == 1 or beyond <= 0:
        return average
    spread = min(beyond - beyond / beta, tokens - average)
    return average + round(spread * (layers - 1 - 2 * layer) / (layers - 1))
