"""H2O as the 2024 benchmark ran it: masks on a cache that keeps everything. It saves nothing, and that is what its bytes say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from methods.kv import attention
from methods.kv.observe import Observer
from methods.kv.prefill import sliding
from methods.kv.storage.base import Layout, Parts, PromptLayer, Storage
from methods.kv.storage.dense import DenseStorage, DenseView
from torch import Tensor


@dataclass(frozen=True)
class Masked:
    """A policy. Of the ``k`` keys of the first decode step, ``int(ratio × k)`` heavy hitters and as many latest ones stay visible.

    The prompt is never scored: heavy hitters come from the first generated token's query and later ones, each query head its own. In a
    Mistral model the first layer begins one step later.
    """

    ratio: float
    rotated: bool = True
    batch: bool = True
    extends_window: bool = False
    chunk: int | None = None
    shares_prefill: bool = True

    def observers(self, layout: Layout, row: int) -> Sequence[Observer | None]:
        """Observe nothing: the prompt is not scored."""
        return ()

    def storages(self, layout: Layout) -> list[Storage]:
        """Make a masking storage a full-attention layer, the native one for a sliding layer."""
        return [
            MaskedStorage(layout, self.ratio, late=layer == 0 and layout.shape.model_type == "mistral")
            if window is None
            else sliding(layout, window)
            for layer, window in enumerate(layout.shape.windows)
        ]


@dataclass(frozen=True)
class MaskedView:
    """One decode step: what the cache holds, and a mask a query head. Attending decides what the next step sees."""

    inner: DenseView
    storage: MaskedStorage
    window: int | None = None

    @property
    def keys(self) -> Tensor:
        """All keys."""
        return self.inner.keys

    @property
    def values(self) -> Tensor:
        """All values."""
        return self.inner.values

    def attend(self, query: Tensor, scaling: float, softcap: float | None) -> Tensor:
        """Attend from (rows, heads, 1, head_dim)."""
        assert self.inner.valid is not None
        rows, heads, _, size = query.shape
        kv_heads = self.keys.shape[1]
        visible = self.storage.visible & self.inner.valid[:, 0]
        # the heads of a group as queries of one head: each may then have a mask of its own
        out, _, weights = attention.weighed(
            query.reshape(rows, kv_heads, -1, size), self.keys, self.values,
            scaling=scaling, softcap=softcap, valid=visible.unflatten(1, (kv_heads, -1)),
        )  # fmt: skip
        self.storage.score(weights.reshape(rows, heads, -1).to(query.dtype))
        return out.reshape(rows, heads, 1, size)


class MaskedStorage:
    """Holds everything, and once decoding a score and a mask of each entry for each query head, in fixed shapes on CPU and CUDA."""

    def __init__(self, layout: Layout, ratio: float, *, late: bool) -> None:
        self._layout = replace(layout, fixed=True)
        self._dense = DenseStorage(self._layout)
        first = 2 if late else 1
        self._first = layout.longest + first
        """Keys of the first scored step, counted from the left edge of the buffers."""
        self._kept = tuple(int(ratio * (length + first)) for length in layout.lengths)
        self._decoding = False
        self._index: tuple[Tensor, ...] = ()

    def begin(self, row: int) -> None:
        """Raise TypeError: the prompt is read by the library."""
        raise TypeError("this storage is filled from a full-precision prefill; its policy must say shares_prefill")

    def fill(self, row: int, prompt: PromptLayer) -> None:
        """Take everything."""
        self._dense.fill(row, prompt)

    def append(self, keys: Tensor, values: Tensor) -> DenseView | MaskedView:
        """Take a chunk behind a row's entries, attended to in full, or one token of every row."""
        view = self._dense.append(keys, values)
        if not self._decoding:
            return view
        self._used += 1
        return MaskedView(view, self)

    def score(self, weights: Tensor) -> None:
        """Take in a step's weights (rows, heads, capacity) in the model's precision; choose what the next step sees."""
        columns = torch.arange(weights.shape[-1], device=weights.device)
        scores = self._scores + weights
        latest = columns >= self._used - self._counts  # one more than the budget: the next token's own column comes on top
        heavy = torch.zeros_like(self.visible)
        if max(self._kept):
            places = scores.masked_fill(latest | (columns < self._starts), float("-inf")).topk(max(self._kept), dim=-1).indices
            heavy.scatter_(-1, places, (torch.arange(places.shape[-1], device=places.device) < self._counts).expand(places.shape))
        # without a budget the code it follows shows everything but the newest token
        kept = torch.where(self._counts > 0, heavy | latest, columns < self._used)
        started = self._used >= self._first
        self._scores.copy_(torch.where(started, scores * kept, self._scores))
        self.visible.copy_(torch.where(started, kept, self.visible))

    def end(self) -> None:
        """End the row."""
        self._dense.end()

    def reserve(self, new_tokens: int) -> None:
        """Make room for the tokens, and for a score and a mask of every entry."""
        layout, device = self._layout, self._layout.device
        self._dense.reserve(new_tokens)
        self._decoding = True
        shape = layout.rows, layout.shape.heads, layout.longest + new_tokens
        self._scores = torch.zeros(shape, dtype=layout.dtype, device=device)
        self.visible = torch.ones(shape, dtype=torch.bool, device=device)
        self._used = torch.full((1, 1, 1), layout.longest, device=device)
        self._counts = torch.tensor(self._kept, device=device)[:, None, None]
        self._starts = torch.tensor([layout.longest - length for length in layout.lengths], device=device)[:, None, None]
        self._index = (self._scores, self.visible, self._used, self._counts, self._starts)

    def seen(self) -> int:
        """Tokens that went in."""
        return self._dense.seen()

    def held(self, row: int) -> float:
        """Entries held for a row, its padding included."""
        return self._dense.held(row)

    def parts(self) -> Parts:
        """Return keys and values of everything, and once decoding what masks them."""
        parts = self._dense.parts()
        return {**parts, "index": (*parts["index"], *self._index)}

    def analytic(self) -> int:
        """Compute what full KV holds: nothing is saved."""
        return self._dense.analytic()
