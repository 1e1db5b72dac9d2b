"""The cache family's entry object: one loaded model, as many policies as there are cells."""

from __future__ import annotations

import gc
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Callable

import torch
from runner.protocol import Answer, Bound, Hooks, Model, Prompt

from . import attention, columns, seam, text, varlen, weights
from .decoder import CacheDecoder, Rooms
from .limits import refuse_too_long
from .loop import Decode, greedy
from .policy import Policy, make
from .prefill import Prefill, Reader, Start
from .prefix import Prefixes
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
    prefixes: Prefixes = field(default_factory=Prefixes)
    """One for all variants of the model, so that never more than one batch's is alive."""


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
            "kernels": {
                # What a decode step of fixed shape attends with; elsewhere it is the kernel of the prompt.
                "decode": "torch-matmul" if torch.device(model.device).type == "cuda" else kernel,
                "column_sums": columns.choose(torch.device(model.device).type),
                "packed": "torch-blocked",
                "ragged": varlen.choose(torch.device(model.device).type, kernel),
            },
            "weights": weights.weight_bytes(network),
            "config": json.loads(config.to_json_string(use_diff=False)),
        }
        self._loaded = _Loaded(model, network, shape, kernel, text.decoder_of(model.path, model.trust_remote_code), facts)

    def describe(self) -> Mapping[str, Any]:
        """Return the kernels for attention and for what observers sum of it, the bytes of the weights and the model's configuration."""
        return self._need().facts

    def bind(self, method: str, policy: str | None, params: Mapping[str, Any]) -> Bound:
        """Return a variant. Raises ValueError without a policy or for parameters that do not fit."""
        if policy is None:
            raise ValueError(f"method {method}: methods of the cache family name a policy in method.yaml")
        return CacheBound(self._need(), make(policy, params))

    def close(self) -> None:
        """Free everything."""
        self._loaded = None
        _release()

    def _need(self) -> _Loaded:
        if self._loaded is None:
            raise RuntimeError("no model is loaded")
        return self._loaded


@dataclass(frozen=True)
class Shared:
    """Prompts of a batch, read once for several variants."""

    prefills: tuple[Prefill, ...]
    """By row."""
    variants: tuple[Policy, ...]
    prompts: tuple[Prompt, ...]


class CacheBound:
    """A policy bound to a loaded model. Implements ``runner.protocol.SharingBound``."""

    def __init__(self, loaded: _Loaded, policy: Policy) -> None:
        self._loaded = loaded
        self._policy = policy

    @property
    def shares_with(self) -> Hashable | None:
        """Return what bounds must have in common to fork from one prefill; None for a policy that reads prompts its own way."""
        policy = self._policy
        return (policy.chunk, policy.extends_window) if policy.shares_prefill else None

    def share(self, bounds: Sequence[CacheBound], batch: Sequence[Prompt], phase: Callable[[str, int], None]) -> Shared:
        """Read a batch's prompts once, observed by every one of ``bounds``. Raises TooLong like ``generate``."""
        self._refuse(batch, None)
        policies = tuple(bound._policy for bound in bounds)
        layout = self._layout(batch)
        reader = Reader(self._loaded.network, layout, phase)
        try:
            with torch.inference_mode():
                starts = self._starts(batch, policies, phase)
                prefills = tuple(
                    reader.read(
                        prompt.ids[: layout.contexts[row]],
                        [policy.observers(layout, row) for policy in policies],
                        shared=True,
                        chunk=self._policy.chunk,
                        start=starts[row],
                    )
                    for row, prompt in enumerate(batch)
                )
        except torch.OutOfMemoryError:
            self.forget()
            raise
        return Shared(prefills, policies, tuple(batch))

    def generate(
        self, batch: Sequence[Prompt], hooks: Hooks, exact_new_tokens: int | None = None, shared: Shared | None = None
    ) -> list[Answer]:
        """Answer a batch greedily, forking from a prefill of the same batch if there is one.

        Otherwise requests of one group start from what the batch before read of their common beginning, and say so; where there is no
        memory for that, and when timing, each is read from its first token. Raises TooLong, naming the requests that do not fit, before
        anything is computed.
        """
        self._refuse(batch, exact_new_tokens)
        if shared is not None:
            return self._forked(batch, hooks, exact_new_tokens, shared)
        if exact_new_tokens is not None or not self._policy.shares_prefill:
            self.forget()
            return self._decoded(batch, hooks, exact_new_tokens, None)
        try:
            return self._decoded(batch, hooks, None, self._starts(batch, (self._policy,), hooks.phase))
        except torch.OutOfMemoryError:
            if not self.forget():
                raise
        _release()  # outside of the handler, whose exception keeps tensors alive
        return self._decoded(batch, hooks, None, self._starts(batch, (self._policy,), hooks.phase, keep=False))

    def forget(self) -> bool:
        """Let go of what is kept for the next batch; return whether there was anything."""
        return self._loaded.prefixes.clear()

    def _starts(
        self, batch: Sequence[Prompt], policies: Sequence[Policy], phase: Callable[[str, int], None], *, keep: bool = True
    ) -> list[Start]:
        """Return where to start reading each prompt; what a group shares is read and kept unless it is there."""
        layout, chunk = self._layout(batch), self._policy.chunk

        def read(ids: Sequence[int]) -> Prefill:
            alone = replace(layout, lengths=(len(ids),), after=None)
            reader = Reader(self._loaded.network, alone, phase)
            with torch.inference_mode():
                return reader.read(ids, [policy.observers(alone, 0) for policy in policies], shared=True, chunk=chunk)

        return self._loaded.prefixes.starts(batch, policies, read, keep=keep)

    def _decoded(self, batch: Sequence[Prompt], hooks: Hooks, exact_new_tokens: int | None, starts: Sequence[Start] | None) -> list[Answer]:
        loaded = self._loaded
        rooms = Rooms(loaded.network, self._policy, self._layout(batch), hooks.phase, starts=starts)
        answers = greedy(lambda: CacheDecoder(rooms), batch, hooks, loaded.decode, exact_new_tokens)
        for answer, start in zip(answers, starts or ()):
            if start.prefill is not None:
                answer.prefill, answer.prefill_s = "shared", None
        return answers

    def _forked(self, batch: Sequence[Prompt], hooks: Hooks, exact_new_tokens: int | None, shared: Shared) -> list[Answer]:
        loaded = self._loaded
        if [prompt.id for prompt in shared.prompts] != [prompt.id for prompt in batch]:
            raise ValueError("the shared prefill is of another batch")
        variant = [policy is self._policy for policy in shared.variants].index(True)
        rooms = Rooms(loaded.network, self._policy, self._layout(batch), hooks.phase, forks=shared.prefills, variant=variant)
        answers = greedy(lambda: CacheDecoder(rooms), batch, hooks, loaded.decode, exact_new_tokens)
        for answer in answers:  # one prefill was read for several: nobody's own time
            answer.prefill, answer.prefill_s = "forked", None
        return answers

    def _refuse(self, batch: Sequence[Prompt], exact_new_tokens: int | None) -> None:
        if len(batch) > 1 and not self._policy.batch:
            raise ValueError("this method decodes one request at a time; set resources.batch to 1")
        refuse_too_long(batch, None if self._policy.extends_window else self._loaded.model.window, exact_new_tokens)

    def _layout(self, batch: Sequence[Prompt]) -> Layout:
        loaded, device = self._loaded, torch.device(self._loaded.model.device)
        after = tuple(0 if prompt.unseen_from is None else len(prompt.ids) - prompt.unseen_from for prompt in batch)
        return Layout(
            shape=loaded.shape,
            lengths=tuple(len(prompt.ids) for prompt in batch),
            dtype=getattr(torch, loaded.model.dtype),
            device=device,
            kernel=loaded.kernel,
            rotary=_rotary(loaded.network),
            after=after if any(after) else None,
            fixed=device.type == "cuda",
            full_rotary=_rotary(loaded.network) or _rotary(loaded.network, "full_attention_"),
        )


def _release() -> None:
    """Hand memory back that nothing refers to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _rotary(network: Any, kind: str = "") -> Rotary | None:
    """Return the model's rotation, or that of one kind of layers; None where there is none of that name."""
    embedding = network.base_model.rotary_emb
    frequencies = getattr(embedding, f"{kind}original_inv_freq", None)
    if frequencies is None:
        frequencies = getattr(embedding, f"{kind}inv_freq", None)
    return None if frequencies is None else Rotary(frequencies, float(getattr(embedding, f"{kind}attention_scaling", None) or 1.0))
