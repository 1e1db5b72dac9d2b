"""Full KV by transformers' own cache and attention, for versions older than the cache library's seam (tried on 4.40)."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Callable

import torch
from methods.kv import text, weights
from methods.kv.limits import refuse_too_long
from methods.kv.loop import Decode
from methods.kv.shape import CacheShape, shape_of
from runner.protocol import Answer, Bound, Holding, Hooks, Model, Prompt
from torch import Tensor
from transformers import DynamicCache

_CHUNK = {"cpu": 2048, "cuda": 8192}
_ATTENTION = {"auto": "sdpa", "sdpa": "sdpa", "flash": "flash_attention_2", "eager": "eager"}


class NativeFamily:
    """Implements ``runner.protocol.Family``: the model's own forward pass, its ``DynamicCache``, and longctx's greedy loop."""

    def __init__(self) -> None:
        self._model: Model | None = None
        self._network: Any = None
        self._decode: Decode | None = None

    def load(self, model: Model) -> None:
        """Load tokenizer and weights once."""
        self._network = weights.load(model, _ATTENTION[model.attention])
        self._decode = text.decoder_of(model.path, model.trust_remote_code)
        self._model = model

    def describe(self) -> Mapping[str, Any]:
        """Return transformers' name of the attention, the bytes of the weights and the model's configuration."""
        config = self._network.config
        return {
            "attention": f"transformers-{config._attn_implementation}",
            "weights": weights.weight_bytes(self._network),
            "config": json.loads(config.to_json_string(use_diff=False)),
        }

    def bind(self, method: str, policy: str | None, params: Mapping[str, Any]) -> Bound:
        """Return the only variant. ``policy`` names the decode loop. Raises ValueError for parameters: there are none."""
        if params:
            raise ValueError(f"{method} has no parameters; given {', '.join(sorted(params))}")
        module, _, attribute = (policy or "methods.kv.loop:greedy").partition(":")
        assert self._model is not None and self._decode is not None
        return NativeBound(self._model, self._network, self._decode, getattr(import_module(module), attribute))

    def close(self) -> None:
        """Free everything."""
        self._network = self._decode = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class NativeBound:
    """Full KV on a loaded model."""

    def __init__(self, model: Model, network: Any, decode: Decode, loop: Callable[..., list[Answer]]) -> None:
        self._model = model
        self._network = network
        self._decode = decode
        self._loop = loop
        self._shape = shape_of(network.config)

    def generate(self, batch: Sequence[Prompt], hooks: Hooks, exact_new_tokens: int | None = None) -> list[Answer]:
        """Answer a batch greedily. Raises TooLong, naming the requests that do not fit, before anything is computed."""
        refuse_too_long(batch, self._model.window, exact_new_tokens)
        lengths = [len(prompt.ids) for prompt in batch]

        def make() -> NativeDecoder:
            return NativeDecoder(self._network, self._shape, lengths, hooks.phase)

        return self._loop(make, batch, hooks, self._decode, exact_new_tokens)


class NativeDecoder:
    """Implements ``methods.kv.loop.Decoder`` over transformers' ``DynamicCache``.

    Rows are prefilled alone; where there are several, their caches are then padded on the left and stacked, layer by layer.
    """

    def __init__(self, network: Any, shape: CacheShape, lengths: Sequence[int], phase: Callable[[str, int], None]) -> None:
        self._network = network
        self._shape = shape
        self._lengths = list(lengths)
        self._phase = phase
        self._rows: list[Any] = []
        self._cache: Any = None
        self._mask: Tensor | None = None

    def prefill(self, row: int, ids: Sequence[int]) -> Tensor:
        """Take a row's prompt; return the logits of its last position, (1, vocabulary)."""
        tokens = torch.tensor([list(ids)], dtype=torch.long, device=self._network.device)
        size = _CHUNK.get(tokens.device.type, 2048)
        cache: Any = DynamicCache()
        hidden = None
        for first in range(0, tokens.shape[1], size):
            self._phase("prefill", first)
            output = self._network.base_model(input_ids=tokens[:, first : first + size], past_key_values=cache, use_cache=True)
            cache, hidden = _as_cache(output.past_key_values), output.last_hidden_state[:, -1]
        assert hidden is not None
        self._rows.append(cache)
        if len(self._rows) == len(self._lengths):
            self._cache = self._rows[0] if len(self._rows) == 1 else self._stacked()
            self._rows = []
        return self._network.lm_head(hidden)

    def _stacked(self) -> Any:
        longest = max(self._lengths)
        stacked: Any = DynamicCache()
        for layer in range(len(self._rows[0].key_cache)):
            parts = []
            for kind in ("key_cache", "value_cache"):
                rows = [getattr(cache, kind)[layer] for cache in self._rows]
                first = rows[0]
                merged = first.new_zeros(len(rows), first.shape[1], longest, first.shape[3])
                for number, held in enumerate(rows):
                    merged[number, :, longest - held.shape[2] :] = held[0]
                    getattr(self._rows[number], kind)[layer] = None
                parts.append(merged)
            stacked.update(parts[0], parts[1], layer)
        padding = torch.tensor([longest - length for length in self._lengths])
        self._mask = (torch.arange(longest) >= padding[:, None]).long().to(self._network.device)
        return stacked

    def holding(self, row: int) -> Holding:
        """Say what is held for a row at the end of the prompts. This cache keeps all tokens of sliding-window layers too."""
        element = self._cache.key_cache[0].element_size()
        entries = max(self._lengths)
        return Holding(
            at="prefill",
            logical=self._lengths[row],
            held=entries,
            analytic=entries * len(self._shape.windows) * self._shape.token_elements * element,
            full=self._shape.native_bytes(self._lengths[row], element),
            roots=[self._cache],
            parts={"dense": [*self._cache.key_cache, *self._cache.value_cache]},
        )

    def reserve(self, new_tokens: int) -> None:
        """Nothing: this cache grows by concatenation."""

    def step(self, tokens: Tensor) -> Tensor:
        """Take one token of each row, (rows,); return the next logits, (rows, vocabulary)."""
        options: dict[str, Any] = {}
        if self._mask is not None:
            self._mask = torch.cat((self._mask, self._mask.new_ones(len(self._lengths), 1)), dim=1)
            options = {"attention_mask": self._mask, "position_ids": self._mask.sum(1, keepdim=True) - 1}
        output = self._network.base_model(input_ids=tokens[:, None], past_key_values=self._cache, use_cache=True, **options)
        self._cache = _as_cache(output.past_key_values)
        return self._network.lm_head(output.last_hidden_state[:, -1])


def _as_cache(past: Any) -> Any:
    """Return what a model gave back as a cache: before 4.42 models unpack it into tuples."""
    return past if isinstance(past, DynamicCache) else DynamicCache.from_legacy_cache(past)
