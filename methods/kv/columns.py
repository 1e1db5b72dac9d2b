"""How much attention each key got: column sums of the attention weights in memory linear in the prompt.

The weights themselves are never held. Prefill attention returns the log-sum-exp of each query, so a weight is one more product of query
and key: a second pass over blocks of keys sums ``exp(qk - lse)`` over the queries that see them. Blocks above the diagonal are skipped.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil

import torch
from torch import Tensor

from . import attention

TORCH = "torch-blocked"
TRITON = "triton-column-sums"

_BLOCK_ELEMENTS = 1 << 25
"""Weights that the torch kernel holds at once."""
_KEYS = 512
"""Keys in one of its blocks, at most: what a block computes above the diagonal is thrown away."""


@functools.cache
def choose(device_type: str) -> str:
    """Name the kernel: Triton's on CUDA where Triton is and can build (it calls a C compiler), else torch's, several times slower."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    able = device_type == "cuda" and importlib.util.find_spec("triton") is not None and compiler is not None
    return TRITON if able else TORCH


def sums(kernel: str, query: Tensor, keys: Tensor, lse: Tensor, *, scaling: float, softcap: float | None) -> Tensor:
    """Sum the attention weights on each key over the last ``n`` of ``m`` positions, and over the query heads of its KV head.

    ``query`` is (1, heads, n, d), ``keys`` (1, kv_heads, m, d), ``lse`` (1, heads, n) in float32, of causal attention without a window.
    Returns (1, kv_heads, m) in float32.
    """
    if kernel == TRITON:
        from .columns_triton import column_sums

        heads = column_sums(query, keys, lse, scaling, softcap)
        return heads.unflatten(0, (keys.shape[1], -1)).sum(1).unsqueeze(0)
    return _torch(query, keys, lse, scaling, softcap)


def _torch(query: Tensor, keys: Tensor, lse: Tensor, scaling: float, softcap: float | None) -> Tensor:
    rows, kv_heads, length = query.shape[2], keys.shape[1], keys.shape[2]
    grouped = query.unflatten(1, (kv_heads, -1))[0]  # (kv_heads, group, n, d)
    before = length - rows
    step = min(_KEYS, max(1, _BLOCK_ELEMENTS // (query.shape[1] * rows)))
    totals = torch.zeros(1, kv_heads, length, device=query.device)
    for low in range(0, length, step):
        high = min(length, low + step)
        first = max(0, low - before)  # the earliest query that sees any of these keys
        weights = attention.products(grouped[:, :, first:].flatten(1, 2).unsqueeze(0), keys[:, :, low:high].transpose(-1, -2))
        weights = weights.unflatten(2, (-1, rows - first)).mul_(scaling)
        if softcap is not None:
            weights.div_(softcap).tanh_().mul_(softcap)
        weights.sub_(lse[:, :, first:].unflatten(1, (kv_heads, -1)).unsqueeze(-1)).exp_()
        if high > before + first + 1:
            positions = torch.arange(before + first, length, device=query.device)
            weights.masked_fill_(torch.arange(low, high, device=query.device) > positions[:, None], 0.0)
        totals[:, :, low:high] = weights.sum((2, 3))
    return totals
