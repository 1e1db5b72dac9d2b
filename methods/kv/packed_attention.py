"""Attention over packed entries. Only a block of them is ever unpacked: memory is bounded however long the prompt is.

``attend`` is the one place that a fused kernel, which unpacks in registers and reads ``count`` itself, would take over.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .attention import products
from .quantise import Codes

_BLOCK_ELEMENTS = 1 << 24
"""Unpacked numbers, and scores, that are held at once."""


def block_entries(query: Tensor, keys: Codes) -> int:
    """Return how many entries are unpacked at once: a whole number of groups."""
    rows, heads, queries, size = query.shape
    most = _BLOCK_ELEMENTS // max(rows * keys.codes.shape[1] * size, rows * heads * queries)
    return max(1, most // keys.scheme.group) * keys.scheme.group


def attend(
    query: Tensor, keys: Codes, values: Codes, count: Tensor, visible: int, *, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Attend from (rows, heads, n, head_dim) to the first ``count`` (rows,) packed entries, which all queries see.

    ``visible`` bounds every count. Returns the output in float32 and its log-sum-exp (rows, heads, n); of a row whose count is 0 they are 0
    and -inf. Blocks are merged as they come, by a running maximum.
    """
    rows, heads, queries, size = query.shape
    dtype = torch.float32 if query.device.type == "cpu" else query.dtype
    grouped = query.reshape(rows, keys.codes.shape[1], -1, size).to(dtype)
    shape = grouped.shape[:3]
    top = torch.full(shape, torch.finfo(torch.float32).min, device=query.device)
    total = torch.zeros(shape, device=query.device)
    sums = torch.zeros(*shape, size, device=query.device)
    step = block_entries(query, keys)
    for low in range(0, visible, step):
        high = min(visible, low + step)
        scores = products(grouped, keys.block(low, high, dtype).transpose(-1, -2)).mul_(scaling)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        hidden = torch.arange(low, high, device=query.device) >= count[:, None]
        scores = scores.masked_fill_(hidden[:, None, None], float("-inf"))
        higher = torch.maximum(top, scores.amax(-1))
        weights, shrink = (scores - higher.unsqueeze(-1)).exp_(), (top - higher).exp_()
        total = total * shrink + weights.sum(-1)
        sums = sums * shrink.unsqueeze(-1) + products(weights.to(dtype), values.block(low, high, dtype))
        top = higher
    out = sums / total.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(-1)
    return out.reshape(rows, heads, queries, size), (top + total.log()).reshape(rows, heads, queries)


def merge(part: tuple[Tensor, Tensor], rest: tuple[Tensor, Tensor]) -> Tensor:
    """Join two parts of one softmax, each an output (rows, heads, n, head_dim) and a log-sum-exp; the second is not empty.

    Returns the output in the dtype of the second.
    """
    share = torch.sigmoid(part[1] - rest[1]).unsqueeze(-1)
    return torch.lerp(rest[0].float(), part[0], share).to(rest[0].dtype)
