"""How a layer is divided into blocks, and what stands for a block when queries choose."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Blocked:
    """What a layer's queries see. Tokens less than ``local`` back stand at their true distance, all others at ``distance``.

    Of those others the first ``sinks`` are always seen, then come blocks of ``block`` tokens, of which the queries of a slice see the
    ``chosen`` that fit their mean best, then up to a block of tokens that none holds yet.
    """

    sinks: int
    local: int
    chosen: int
    distance: int
    block: int = 128
    representatives: int = 4
    """Tokens that stand for a block: those that got most attention while they were in the window. Their mean key is kept."""
    slice: int = 512
    """Prompt tokens that choose together; slices start at its multiples."""
    per_query_head: bool = False
    """Whether each query head has representatives of its own, or all of a KV head the same."""
    twice: bool = False
    """Whether a slice sees what is behind its last query's window as distant, even where it still is in an earlier query's window."""
    lone_last: bool = False
    """Whether the last prompt token is a slice of its own."""
    offload: bool = False

    def blocks(self, tokens: int) -> int:
        """Return the blocks that are complete once ``tokens`` were read."""
        return max(0, tokens - self.sinks - self.local) // self.block


def relevance(query: Tensor, marks: Tensor) -> Tensor:
    """Return how well blocks fit the mean of ``query`` (1, heads, n, d), over all heads, (blocks,) in float32.

    ``marks`` are (kv_heads or heads, blocks, d).
    """
    mean = query[0].float().mean(1).unflatten(0, (marks.shape[0], -1)).sum(1)
    return (marks.float() @ mean.unsqueeze(-1)).sum(0).squeeze(-1)


def representatives(keys: Tensor, scores: Tensor, count: int) -> Tensor:
    """Return the mean key of the ``count`` tokens of each block with the highest scores, (heads, blocks, d).

    ``keys`` are (blocks, kv_heads, block, d), ``scores`` (kv_heads or heads, blocks, block).
    """
    best = scores.topk(count, dim=-1).indices.unflatten(0, (keys.shape[1], -1))  # (kv_heads, heads of one, blocks, count)
    spread = keys.transpose(0, 1).unsqueeze(1).expand(-1, best.shape[1], -1, -1, -1)
    picked = spread.gather(3, best.unsqueeze(-1).expand(-1, -1, -1, -1, keys.shape[-1]))
    return picked.float().mean(3).flatten(0, 1).to(keys.dtype)
