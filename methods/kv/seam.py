"""Where the library meets transformers: an attention function under a name of its own, reading views that a cache hands over.

Every model of transformers 5 passes what ``past_key_values.update()`` returns straight to the registered attention function. So a cache
may return an opaque view, and the view decides what is attended to: no model is patched, and packed entries never have to be unpacked
into a second copy.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "longctx"


class View(Protocol):
    """What the queries of one forward pass attend to in one layer. Lives no longer than that pass."""

    window: int | None
    """The layer's own sliding window, as the storage understood it."""

    def attend(self, query: Tensor, scaling: float, softcap: float | None) -> Tensor:
        """Attend from (rows, heads, n, head_dim); return the same shape."""


def attention(
    module: nn.Module,
    query: Tensor,
    key: View,
    value: View,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend through a view; the contract is that of transformers' attention functions. Returns (rows, n, heads, head_dim).

    Raises TypeError without such a cache, and ValueError where the model wants what no view does, rather than answer wrongly.
    """
    if not hasattr(key, "attend"):
        raise TypeError(f"attention '{NAME}' reads views of a longctx cache; give the model one as past_key_values")
    extra = sorted(name for name in ("s_aux", "position_bias", "sinks") if kwargs.get(name) is not None)
    if extra:
        raise ValueError(f"the cache family does not know this model's attention ({', '.join(extra)})")
    if (sliding_window or None) != key.window:
        layer = getattr(module, "layer_idx", "?")
        raise ValueError(f"layer {layer} attends within {sliding_window} tokens, its cache was made for {key.window}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return key.attend(query, scale, softcap).transpose(1, 2), None


def mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> None:
    """Make no mask: causality and padding are the storage's. Raises ValueError for a mask that hides tokens."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise ValueError(f"attention '{NAME}' takes no padding mask: the cache knows where each row starts")


def register() -> None:
    """Make the name known to transformers. May be called again."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask)
