"""The cache family's entry object: one loaded model, as many policies as there are cells."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from runner.protocol import Answer, Bound, Hooks, Model, Prompt

from . import attention, seam, text, weights
from .decoder import CacheDecoder, Rooms
from .limits import refuse_too_long
from .loop import Decode, greedy
from .policy import Policy, make
from .rotary import Rotary
from .shape import CacheShape, shape_of
from .storage.base import Layout


@dataclass
class _Loaded:
    model: Model
    network: Any
    shape: CacheShape
    kernel: str
    decode: Decode
    facts: dict[str, Any] = field(default_factory=dict)


class CacheFamily:
    """Implements ``runner.protocol.Family`` for every method that is a policy over keys and values."""

    def __init__(self) -> None:
        self._loaded: _Loaded | None = None

    def load(self, model: Model) -> None:
        """Load tokenizer and weights once. Raises ValueError for models or attention settings that the family cannot run."""
        seam.register()
        network = weights.load(model, seam.NAME)
        config = network.config
        shape = shape_of(config)
        softcap = getattr(config, "attn_logit_softcapping", None)
        kernel = attention.choose(model.attention, torch.device(model.device), getattr(torch, model.dtype), shape.head_dim, softcap)
        facts = {
            "attention": kernel,
            "weights": weights.weight_bytes(network),
            "config": json.loads(config.to_json_string(use_diff=False)),
        }
        self._loaded = _Loaded(model, network, shape, kernel, text.decoder_of(model.path, model.trust_remote_code), facts)

    def describe(self) -> Mapping[str, Any]:
        """Return the attention kernel, the bytes of the weights and the model's configuration."""
        return self._need().facts

    def bind(self, method: str, policy: str | None, params: Mapping[str, Any]) -> Bound:
        """Return a variant. Raises ValueError without a policy or for parameters that do not fit."""
        if policy is None:
            raise ValueError(f"method {method}: methods of the cache family name a policy in method.yaml")
        return CacheBound(self._need(), make(policy, params))

    def close(self) -> None:
        """Free everything."""
        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _need(self) -> _Loaded:
        if self._loaded is None:
            raise RuntimeError("no model is loaded")
        return self._loaded


class CacheBound:
    """A policy bound to a loaded model."""

    def __init__(self, loaded: _Loaded, policy: Policy) -> None:
        self._loaded = loaded
        self._policy = policy

    def generate(self, batch: Sequence[Prompt], hooks: Hooks, exact_new_tokens: int | None = None) -> list[Answer]:
        """Answer a batch greedily. Raises TooLong, naming the requests that do not fit, before anything is computed."""
        if len(batch) > 1 and not self._policy.batch:
            raise ValueError("this method decodes one request at a time; set resources.batch to 1")
        refuse_too_long(batch, None if self._policy.extends_window else self._loaded.model.window, exact_new_tokens)
        loaded = self._loaded
        layout = Layout(
            shape=loaded.shape,
            lengths=tuple(len(prompt.ids) for prompt in batch),
            dtype=getattr(torch, loaded.model.dtype),
            device=torch.device(loaded.model.device),
            kernel=loaded.kernel,
            rotary=_rotary(loaded.network),
        )
        rooms = Rooms(loaded.network, self._policy, layout, hooks.phase)
        return greedy(lambda: CacheDecoder(rooms), batch, hooks, loaded.decode, exact_new_tokens)


def _rotary(network: Any) -> Rotary:
    embedding = network.base_model.rotary_emb
    frequencies = getattr(embedding, "original_inv_freq", None)
    if frequencies is None:
        frequencies = embedding.inv_freq
    return Rotary(frequencies)
