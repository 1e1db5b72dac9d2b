"""Attention of one new token a row where every KV head holds a number of entries of its own, none padded to the longest.

Entries lie flat, (entries, head_dim), one segment a row and KV head. In fixed shapes (CUDA) segments start at multiples of ``BLOCK`` and
all blocks are attended to at once, each by its own head's queries, then joined by segment: split-K decoding in plain torch. A Triton
kernel that reads lengths itself would replace ``blocked`` and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import attention

BLOCK = 64
"""Entries of a block: the most that a segment is padded by, and what one small matrix product attends to."""


def choose(device: str, kernel: str) -> str:
    """Name what a decode step attends to ragged entries with: on CUDA all blocks at once, elsewhere ``kernel`` segment by segment."""
    return "torch-blocks-by-segment" if device == "cuda" else kernel


@dataclass(frozen=True)
class Blocks:
    """Which blocks make up each segment. Constant while decoding."""

    segment: Tensor
    """(blocks,): the segment that a block belongs to; ascending."""
    offsets: Tensor
    """(segments + 1,): the first block of each segment, and how many there are."""

    @staticmethod
    def of(capacities: Sequence[int], device: torch.device) -> Blocks:
        """Lay out segments with room for ``capacities`` entries, multiples of ``BLOCK``."""
        counts = torch.tensor([capacity // BLOCK for capacity in capacities])
        offsets = torch.cat((torch.zeros(1, dtype=torch.long), counts.cumsum(0)))
        return Blocks(torch.arange(len(capacities)).repeat_interleave(counts).to(device), offsets.to(device))


def blocked(query: Tensor, keys: Tensor, values: Tensor, *, scaling: float, softcap: float | None, blocks: Blocks, ends: Tensor) -> Tensor:
    """Attend from ``query`` (rows, heads, 1, d) to flat ``keys`` and ``values`` (blocks × BLOCK, d), of each segment up to its end.

    ``ends`` (segments,) are places in the flat buffers, on the device; no segment may be empty. Every shape is that of the buffers.
    Segments are summed in one order on every run. Returns (rows, heads, 1, d).
    """
    segments, size = ends.shape[0], keys.shape[-1]
    near = query.reshape(segments, -1, size).index_select(0, blocks.segment)  # (blocks, group, d): the queries are few, the keys are not
    k, v = keys.view(1, -1, BLOCK, size), values.view(1, -1, BLOCK, size)
    part = attention.products(near.unsqueeze(0), k.transpose(-1, -2))[0].mul_(scaling)  # (blocks, group, BLOCK)
    if softcap is not None:
        part = softcap * torch.tanh(part / softcap)
    places = torch.arange(keys.shape[0], device=keys.device).view(-1, 1, BLOCK)
    part = part.masked_fill_(places >= ends.index_select(0, blocks.segment)[:, None, None], float("-inf"))
    peak = torch.segment_reduce(part.amax(-1), "max", offsets=blocks.offsets, unsafe=True)  # (segments, group)
    weights = part.sub_(peak.index_select(0, blocks.segment).unsqueeze(-1)).exp_()
    weighed = attention.products(weights.to(values.dtype).unsqueeze(0), v)[0]  # (blocks, group, d)
    sums = torch.segment_reduce(torch.cat((weighed, weights.sum(-1, keepdim=True)), dim=-1), "sum", offsets=blocks.offsets, unsafe=True)
    return (sums[..., :size] / sums[..., size:]).to(query.dtype).reshape(query.shape)


def each(
    kernel: str, query: Tensor, keys: Tensor, values: Tensor, *, scaling: float, softcap: float | None, bounds: Sequence[tuple[int, int]]
) -> Tensor:
    """Attend like ``blocked``, segment by segment, by bounds known on the host: what CPU does, where a call costs little."""
    rows, heads, _, size = query.shape
    grouped = query.reshape(len(bounds), -1, 1, size)
    outs = []
    for (first, last), near in zip(bounds, grouped.split(1)):
        k, v = keys[None, None, first:last], values[None, None, first:last]
        outs.append(attention.single(kernel, near, k, v, scaling=scaling, softcap=softcap)[0])
    return torch.cat(outs).reshape(rows, heads, 1, size)
