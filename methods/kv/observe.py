"""What a method may see while a prompt is read at full precision: everything attention saw, and hidden states where it asks for them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Callable, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import attention, columns
from .seam import View


@dataclass(frozen=True)
class Attended:
    """One chunk's attention in one layer of one row. The tensors are the prefill's own: copy what is to outlive the call."""

    query: Tensor
    """(1, heads, n, head_dim), rotated; the queries of positions ``first … first + n - 1``."""
    keys: Tensor
    """(1, kv_heads, m, head_dim), rotated; the tokens so far, the chunk's own at the end. A sliding layer leaves out what it dropped."""
    values: Tensor
    """(1, kv_heads, m, head_dim)."""
    lse: Tensor
    """(1, heads, n) in float32: log-sum-exp of each query's scores over the keys that it sees. Final, as later keys are not seen."""
    first: int
    scaling: float
    softcap: float | None
    window: int | None

    @property
    def start(self) -> int:
        """Position of the first key."""
        return self.first + self.query.shape[2] - self.keys.shape[2]

    @functools.cached_property
    def column_sums(self) -> Tensor:
        """What attention each key gets from the chunk's queries and the heads of its group, (1, kv_heads, m) in float32.

        Computed once, however many observers ask. Raises ValueError for a layer with a sliding window.
        """
        if self.window is not None:
            raise ValueError("column sums are of full attention; this layer has a sliding window")
        kernel = columns.choose(self.query.device.type)
        return columns.sums(kernel, self.query, self.keys, self.lse, scaling=self.scaling, softcap=self.softcap)


class Observer(Protocol):
    """Watches one layer while one prompt is read, for one variant; holds O(tokens) memory. It dies with the prefill.

    What it holds depends on what it has seen so far and on nothing that comes later: prompts that begin alike go on with deep copies of
    what observed their beginning, however long each will be. So nothing here has the size of the whole prompt before it was seen.

    One that also has ``hidden(module, states, first)`` gets the layer's input, (1, n, hidden_size), with its attention module (``q_proj``,
    ``q_norm`` …) before each chunk.
    """

    def attended(self, chunk: Attended) -> None:
        """Take notice of a chunk."""


class PromptView(View, Protocol):
    """A view that tells its log-sum-exp, as those of a full-precision prompt do."""

    keys: Tensor
    values: Tensor

    def attended(self, query: Tensor, scaling: float, softcap: float | None) -> tuple[Tensor, Tensor]:
        """Attend like ``attend``; return the log-sum-exp too, (rows, heads, n) in float32."""


@dataclass(frozen=True)
class ObservedView:
    """Attends as another view does and tells observers."""

    inner: PromptView
    observers: tuple[Observer, ...]
    first: int

    @property
    def window(self) -> int | None:
        """The layer's own sliding window."""
        return self.inner.window

    def attend(self, query: Tensor, scaling: float, softcap: float | None) -> Tensor:
        """Attend from (1, heads, n, head_dim)."""
        out, lse = self.inner.attended(query, scaling, softcap)
        chunk = Attended(query, self.inner.keys, self.inner.values, lse, self.first, scaling, softcap, self.window)
        for observer in self.observers:
            observer.attended(chunk)
        return out


def hook_hidden(layer: nn.Module, observers: tuple[Observer, ...], first: Callable[[], int]) -> Any:
    """Let the observers of a decoder layer that want hidden states have them; ``first()`` is the chunk's first position.

    Returns a handle with ``remove()``, or None where nobody asks.
    """
    asking = [observer.hidden for observer in observers if hasattr(observer, "hidden")]
    if not asking:
        return None

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        for hidden in asking:
            hidden(module, states, first())

    return layer.self_attn.register_forward_pre_hook(before, with_kwargs=True)


def queries_of(module: Any, states: Tensor) -> Tensor:
    """Project the input of an attention module, (1, n, hidden_size), to its queries before rotation, (1, heads, n, head_dim)."""
    size = module.head_dim
    width = module.config.num_attention_heads * size
    if hasattr(module, "q_proj"):
        queries = module.q_proj(states)
    else:  # Phi-3 projects all three at once, queries first
        joint = module.qkv_proj
        queries = functional.linear(states, joint.weight[:width], None if joint.bias is None else joint.bias[:width])
    queries = queries.unflatten(-1, (-1, size)).transpose(1, 2)
    return module.q_norm(queries) if hasattr(module, "q_norm") else queries


def weights_of(chunk: Attended, low: int, high: int) -> Tensor:
    """Return attention weights of all queries of a chunk on its keys ``low … high - 1`` (indices into ``keys``).

    (1, heads, n, high - low) in float32: exact, from the log-sum-exp; memory is that of the block asked for.
    """
    places = torch.arange(chunk.first, chunk.first + chunk.query.shape[2], device=chunk.query.device)[:, None]
    distance = places - torch.arange(chunk.start + low, chunk.start + high, device=chunk.query.device)
    unseen = distance < 0
    if chunk.window is not None:
        unseen |= distance >= chunk.window
    scores = attention.scores(chunk.query, chunk.keys[:, :, low:high], chunk.scaling, chunk.softcap)
    return scores.masked_fill_(unseen, float("-inf")).sub_(chunk.lse.unsqueeze(-1)).exp_()
