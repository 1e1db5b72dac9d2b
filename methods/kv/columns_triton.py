"""Column sums of attention weights as one Triton kernel: a program a key block and query head, no atomics, nothing written but sums.

A block of keys stays on chip while the queries that see it pass by, diagonal blocks first (masked), then all later ones. Keys are the rows
of the product, so the sum over queries runs along what a thread holds. Products accumulate in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _weights(k, q_base, lse_base, start, rows, stride, scale, cap, places, offset, bm: tl.constexpr, size: tl.constexpr, bd: tl.constexpr,
             capped: tl.constexpr, masked: tl.constexpr):  # fmt: skip
    """Return the weights (keys, bm) of the queries from ``start`` on; of those beyond ``rows`` 0."""
    queries = start + tl.arange(0, bm)
    dims = tl.arange(0, bd)
    inside = queries < rows
    q = tl.load(q_base + queries[None, :].to(tl.int64) * stride + dims[:, None], mask=inside[None, :] & (dims[:, None] < size), other=0.0)
    lse = tl.load(lse_base + queries, mask=inside, other=float("inf"))
    scores = tl.dot(k, q, input_precision="ieee")
    if capped:
        scores = cap * (2.0 * tl.sigmoid(2.0 * scores * scale / cap) - 1.0)
        weights = tl.exp2((scores - lse[None, :]) * _LOG2E)
    else:
        weights = tl.exp2(scores * (scale * _LOG2E) - (lse * _LOG2E)[None, :])
    if masked:
        weights = tl.where(places[:, None] <= (queries + offset)[None, :], weights, 0.0)
    return weights


@triton.jit(do_not_specialize=["rows", "length"])  # lengths of all kinds, one compilation
def _kernel(q, k, lse, out, rows, length, scale, cap, q_head, q_row, k_head, k_row, group: tl.constexpr, size: tl.constexpr,
            bd: tl.constexpr, bn: tl.constexpr, bm: tl.constexpr, capped: tl.constexpr):  # fmt: skip
    """Sum one query head's weights on one block of ``bn`` keys, ``bm`` queries at a time; ``bd`` is ``size`` up to a power of two."""
    head = tl.program_id(1)
    low = tl.program_id(0) * bn
    places = low + tl.arange(0, bn)
    dims = tl.arange(0, bd)
    k_base = k + (head // group).to(tl.int64) * k_head
    block = tl.load(
        k_base + places[:, None].to(tl.int64) * k_row + dims[None, :], mask=(places[:, None] < length) & (dims[None, :] < size), other=0.0
    )
    q_base = q + head.to(tl.int64) * q_head
    lse_base = lse + head.to(tl.int64) * rows
    offset = length - rows
    first = tl.maximum(low - offset, 0) // bm * bm
    # from here on every query sees every key of the block
    clear = tl.minimum(tl.cdiv(tl.maximum(low + bn - 1 - offset, 0), bm) * bm, tl.cdiv(rows, bm) * bm)
    totals = tl.zeros((bn,), dtype=tl.float32)
    for start in range(first, clear, bm):
        part = _weights(block, q_base, lse_base, start, rows, q_row, scale, cap, places, offset, bm, size, bd, capped, True)
        totals += tl.sum(part, axis=1)
    for start in range(clear, rows, bm):
        part = _weights(block, q_base, lse_base, start, rows, q_row, scale, cap, places, offset, bm, size, bd, capped, False)
        totals += tl.sum(part, axis=1)
    tl.store(out + head.to(tl.int64) * length + places, totals, mask=places < length)


def blocks(head_dim: int, half: bool) -> tuple[int, int, int]:
    """Return keys and queries of a block, and warps, such that two programs fit a multiprocessor: one multiplies, one exponentiates."""
    if not half:
        return 32, 32, 4
    return (128, 64, 8) if head_dim <= 128 else (64, 64, 4)


def column_sums(query: Tensor, keys: Tensor, lse: Tensor, scaling: float, softcap: float | None) -> Tensor:
    """Return (heads, m) in float32 for one row's ``query`` (1, heads, n, d), ``keys`` (1, kv_heads, m, d) and ``lse`` (1, heads, n)."""
    heads, rows, size = query.shape[1:]
    kv_heads, length = keys.shape[1:3]
    if query.stride(3) != 1 or keys.stride(3) != 1:
        query, keys = query.contiguous(), keys.contiguous()
    lse = lse.contiguous()
    key_block, query_block, warps = blocks(size, query.dtype.itemsize == 2)
    out = torch.empty(heads, length, dtype=torch.float32, device=query.device)
    _kernel[(triton.cdiv(length, key_block), heads)](
        query, keys, lse, out, rows, length, scaling, softcap or 1.0,
        query.stride(1), query.stride(2), keys.stride(1), keys.stride(2),
        group=heads // kv_heads, size=size, bd=max(16, triton.next_power_of_2(size)), bn=key_block, bm=query_block,
        capped=softcap is not None, num_warps=warps, num_stages=3 if size <= 128 else 2,
    )  # fmt: skip
    return out
