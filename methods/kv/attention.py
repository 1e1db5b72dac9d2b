"""Attention kernels: exact softmax attention over keys that a storage hands over, with the log-sum-exp where parts must be joined.

KV heads are never repeated: query heads are grouped by the KV head that they read, and the keys are seen through a view of stride 0.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKED = "eager-blocked"
FLASH_CPU = "sdpa-flash-cpu"
FLASH_CUDA = "sdpa-flash-cuda"

_BLOCK_ELEMENTS = 1 << 25
"""Scores that the blocked kernel holds at once."""
_BAND_ROWS = 128
"""Queries in one block of a banded mask: small blocks compute less that the mask hides, large ones make fewer calls."""


def choose(requested: str, device: torch.device, dtype: torch.dtype, head_dim: int, softcap: float | None) -> str:
    """Name the kernel for ``auto``, ``flash``, ``sdpa`` or ``eager``. Raises ValueError where ``flash`` or ``sdpa`` cannot do it."""
    obstacle = None
    if softcap is not None:
        obstacle = "the model caps its attention scores"
    elif device.type == "cuda" and dtype == torch.float32:
        obstacle = "flash attention on CUDA has no float32"
    elif head_dim > 256:
        obstacle = f"a head of {head_dim} is too large"
    if requested == "eager" or (obstacle and requested == "auto"):
        return BLOCKED
    if obstacle:
        raise ValueError(f"attention '{requested}' is not possible: {obstacle}. Use 'auto' or 'eager'.")
    return FLASH_CUDA if device.type == "cuda" else FLASH_CPU


def causal(
    kernel: str, query: Tensor, keys: Tensor, values: Tensor, *, scaling: float, window: int | None = None, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """Attend from the last ``n`` of ``m`` positions to all earlier ones no further than ``window - 1`` away.

    ``query`` is (1, heads, n, d), ``keys`` and ``values`` (1, kv_heads, m, d). Returns the output (1, heads, n, d) and its log-sum-exp
    (1, heads, n) in float32.
    """
    if window is not None and window >= keys.shape[2]:
        window = None
    if kernel == FLASH_CUDA:
        return _flash_cuda(query, keys, values, scaling=scaling, masked=True, window=window)
    if kernel == FLASH_CPU:
        return _flash_cpu(query, keys, values, scaling, window)
    return _blocked(query, keys, values, scaling=scaling, window=window, softcap=softcap)


def single(
    kernel: str, query: Tensor, keys: Tensor, values: Tensor, *, scaling: float, softcap: float | None = None, valid: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Attend from one new token a row to every key given, or to those of ``valid`` (batch, 1, 1, m).

    ``query`` is (batch, heads, 1, d), ``keys`` and ``values`` (batch, kv_heads, m, d). Returns the output (batch, heads, 1, d) and, where
    no ``valid`` is given, its log-sum-exp (batch, heads, 1).
    """
    batch, heads, _, size = query.shape
    grouped = query.reshape(batch, keys.shape[1], -1, size)
    lse: Tensor | None = None
    if kernel == BLOCKED:
        scores = _scores(_wide(grouped), _wide(keys), scaling, softcap)
        if valid is not None:
            scores = scores.masked_fill(~valid, float("-inf"))
        lse = scores.logsumexp(-1)
        out = (scores.softmax(-1).to(_wide(values).dtype) @ _wide(values)).to(values.dtype)
    elif valid is not None:
        out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=valid, scale=scaling)
    elif kernel == FLASH_CPU:
        # One query a head, as sdpa itself would call it: several in one block are summed in another order.
        group = grouped.shape[2]
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            grouped.reshape(-1, group, 1, size), _shared(keys, group), _shared(values, group), 0.0, False, scale=scaling
        )
    else:
        out, lse = _flash_cuda(query, keys, values, scaling=scaling, masked=False, window=None)
    return out.reshape(batch, heads, 1, size), None if lse is None else lse.reshape(batch, heads, 1)


def padded(
    kernel: str,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    scaling: float,
    softcap: float | None,
    starts: tuple[int, ...],
    valid: Tensor,
) -> Tensor:
    """Attend from one new token a row to its keys from ``starts`` on; ``valid`` says the same as a mask. Shapes as in ``single``.

    Flash attention on CUDA takes no mask, and the kernel that does was fifteen times slower: there each row is a call of its own.
    """
    if kernel != FLASH_CUDA:
        return single(kernel, query, keys, values, scaling=scaling, softcap=softcap, valid=valid)[0]
    rows = [
        single(kernel, query[row : row + 1], keys[row : row + 1, :, first:], values[row : row + 1, :, first:], scaling=scaling)[0]
        for row, first in enumerate(starts)
    ]
    return torch.cat(rows)


def masked(query: Tensor, keys: Tensor, values: Tensor, *, scaling: float, softcap: float | None, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Attend from one new token a row to the entries of ``valid`` (batch, 1 or kv_heads, 1, m) in whole buffers, in fixed shapes.

    Matrix products and a softmax in float32: the step that can be captured as a CUDA graph, until a kernel reads lengths itself. Shapes
    as in ``single``. Returns the output (batch, heads, 1, d) and its log-sum-exp (batch, heads, 1) in float32.
    """
    out, lse, _ = weighed(query, keys, values, scaling=scaling, softcap=softcap, valid=valid)
    return out, lse


def weighed(
    query: Tensor, keys: Tensor, values: Tensor, *, scaling: float, softcap: float | None, valid: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend like ``masked``, from n queries a row, ``valid`` (batch, 1 or kv_heads, 1 or n, m); return the attention weights too.

    They are (batch, kv_heads, group, n, m) in float32.
    """
    batch, heads, rows, size = query.shape
    kv_heads = keys.shape[1]
    grouped = query.reshape(batch, kv_heads, -1, size)  # (batch, kv_heads, group × n, d)
    part = products(grouped, keys.transpose(-1, -2)).mul_(scaling)
    if softcap is not None:
        part = softcap * torch.tanh(part / softcap)
    part = part.unflatten(2, (heads // kv_heads, rows)).masked_fill_(~valid.unsqueeze(2), float("-inf"))
    lse = part.logsumexp(-1)
    weights = part.softmax(-1)
    out = _wide(weights.flatten(2, 3).to(values.dtype)) @ _wide(values)
    return out.to(query.dtype).reshape(batch, heads, rows, size), lse.reshape(batch, heads, rows), weights


def products(left: Tensor, right: Tensor) -> Tensor:
    """Multiply (batch, heads, n, d) by (batch, heads, d, m) into float32 without rounding the sums to half precision on the way."""
    if left.device.type == "cpu" or left.dtype == torch.float32:
        return left.float() @ right.float()
    return torch.bmm(left.flatten(0, 1), right.flatten(0, 1), out_dtype=torch.float32).unflatten(0, left.shape[:2])


def join(out: Tensor, lse: Tensor, scores: Tensor, values: Tensor) -> Tensor:
    """Add a few more keys to attention already computed, as one softmax over both.

    ``out`` (batch, heads, n, d) with ``lse`` (batch, heads, n); ``scores`` (batch, heads, n, s) in float32, -inf where a key is not
    visible; ``values`` (batch, kv_heads, s, d). Returns (batch, heads, n, d) in the dtype of ``out``.
    """
    batch, heads, rows, size = out.shape
    total = torch.logaddexp(lse, scores.logsumexp(-1)).unsqueeze(-1)
    weights = (scores - total).exp().reshape(batch, values.shape[1], -1, scores.shape[-1])
    extra = (weights @ values.float()).reshape(batch, heads, rows, size)
    return (out.float() * (lse.unsqueeze(-1) - total).exp() + extra).to(out.dtype)


def scores(query: Tensor, keys: Tensor, scaling: float, softcap: float | None = None) -> Tensor:
    """Return the scores of ``query`` (batch, heads, n, d) on ``keys`` (batch, kv_heads, s, d): (batch, heads, n, s) in float32."""
    batch, heads, rows, size = query.shape
    grouped = query.reshape(batch, keys.shape[1], -1, size)
    return _scores(grouped.float(), keys.float(), scaling, softcap).reshape(batch, heads, rows, -1)


def _scores(query: Tensor, keys: Tensor, scaling: float, softcap: float | None) -> Tensor:
    raw = (query @ keys.transpose(-1, -2) * scaling).float()
    return raw if softcap is None else softcap * torch.tanh(raw / softcap)


def _shared(states: Tensor, group: int) -> Tensor:
    """View (batch, kv_heads, m, d) as (batch × kv_heads, group, m, d) with a group axis of stride 0."""
    return states.flatten(0, 1).unsqueeze(1).expand(-1, group, -1, -1)


def _grouped(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """View one row's (1, heads, n, d) as (kv_heads, group, n, d), its keys and values with a group axis of stride 0."""
    kv_heads = keys.shape[1]
    group = query.shape[1] // kv_heads
    return query[0].unflatten(0, (kv_heads, group)), _shared(keys, group), _shared(values, group)


def _flash_cpu(query: Tensor, keys: Tensor, values: Tensor, scaling: float, window: int | None) -> tuple[Tensor, Tensor]:
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    heads, rows = query.shape[1:3]
    past = keys.shape[2] - rows
    grouped, k, v = _grouped(query, keys, values)
    if window is not None:
        outs, sums = [], []
        for first in range(0, rows, _BAND_ROWS):
            last = min(first + _BAND_ROWS, rows)
            low = max(0, past + first - window + 1)
            mask = _band(last - first, past + last - low, window, query.dtype)
            seen = slice(low, past + last)
            out, lse = flash(grouped[:, :, first:last], k[:, :, seen], v[:, :, seen], 0.0, False, attn_mask=mask, scale=scaling)
            outs.append(out)
            sums.append(lse)
        out, lse = torch.cat(outs, dim=2), torch.cat(sums, dim=2)
    else:
        out, lse = flash(grouped, k[:, :, past:], v[:, :, past:], 0.0, True, scale=scaling)
        if past:
            # A mask would cost the flash kernel its speed: attend to the past without one and join the two parts.
            before, before_lse = flash(grouped, k[:, :, :past], v[:, :, :past], 0.0, False, scale=scaling)
            share = torch.sigmoid(before_lse - lse).unsqueeze(-1)
            lse = torch.logaddexp(lse, before_lse)
            out = torch.lerp(out.float(), before.float(), share).to(query.dtype)
    return out.reshape(1, heads, rows, -1), lse.reshape(1, heads, rows)


@functools.lru_cache(maxsize=4)
def _band(rows: int, columns: int, window: int, dtype: torch.dtype) -> Tensor:
    """Return an additive mask (rows, columns) for the last ``rows`` of ``columns`` positions."""
    distance = torch.arange(columns - rows, columns)[:, None] - torch.arange(columns)[None]
    hidden = (distance < 0) | (distance >= window)
    return torch.zeros(rows, columns, dtype=dtype).masked_fill_(hidden, float("-inf"))


def _flash_cuda(query: Tensor, keys: Tensor, values: Tensor, *, scaling: float, masked: bool, window: int | None) -> tuple[Tensor, Tensor]:
    """Call the flash kernel that sdpa itself calls: its causal mask is aligned at the lower right, it knows windows and grouped heads."""
    q, k, v = query.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
    sides = {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}
    result = torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, q.shape[1], k.shape[1], 0.0, masked and window is None, False, scale=scaling, **sides
    )
    return result[0].transpose(1, 2), result[1]


def _blocked(
    query: Tensor, keys: Tensor, values: Tensor, *, scaling: float, window: int | None, softcap: float | None
) -> tuple[Tensor, Tensor]:
    heads, rows = query.shape[1:3]
    past = keys.shape[2] - rows
    dtype = query.dtype
    query, keys, values = _wide(query), _wide(keys), _wide(values)
    outs, sums = [], []
    first = 0
    while first < rows:
        low = 0 if window is None else max(0, past + first - window + 1)
        step = max(1, _BLOCK_ELEMENTS // (heads * max(1, past + first - low + 1)))
        last = min(rows, first + min(step, 1024))
        seen = slice(low, past + last)
        grouped, k, v = _grouped(query[:, :, first:last], keys[:, :, seen], values[:, :, seen])
        part = _scores(grouped, k, scaling, softcap)
        positions = torch.arange(low, past + last, device=query.device)
        distance = positions[past + first - low :, None] - positions
        hidden = distance < 0
        if window is not None:
            hidden |= distance >= window
        part = part.masked_fill(hidden, float("-inf"))
        sums.append(part.logsumexp(-1))
        outs.append(part.softmax(-1).to(v.dtype) @ v)
        first = last
    return torch.cat(outs, dim=2).reshape(1, heads, rows, -1).to(dtype), torch.cat(sums, dim=2).reshape(1, heads, rows)


def _wide(states: Tensor) -> Tensor:
    """Return float32 on CPU, where half-precision products may be slow, and what was given on CUDA."""
    return states.float() if states.device.type == "cpu" else states
