"""The one list of variants: every generic check in ``test_matrix`` runs each of them. A new method adds its lines here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Variant:
    """A method with parameters, and what the generic checks may expect of it."""

    method: str
    """Its folder; the policy is ``methods.<folder>.policy:build``."""
    params: Mapping[str, Any]
    exact: bool = False
    """Whether it answers as full attention does."""
    batch: bool = True
    """Whether rows may be decoded together."""
    forks: bool = True
    """Whether it reads prompts at full precision, and so can share a prefill."""
    chunks: bool = True
    """Whether the size of chunks changes no answer."""
    models: tuple[str, ...] = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3")
    """Of ``support.CONFIGS``."""

    @property
    def policy(self) -> str:
        """What method.yaml names."""
        return f"methods.{self.method}.policy:build"

    def __str__(self) -> str:
        return f"{self.method}{dict(self.params)}"


ONE_ROTATION = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3")
"""Models whose layers all rotate alike, for methods that rotate keys themselves."""

VARIANTS = (
    Variant("full_kv", {}, exact=True),
    Variant("streaming_llm", {"keep": 0.5, "sinks": 2}, batch=False, forks=False, models=ONE_ROTATION),
    Variant("streaming_llm", {"tokens": 64}, exact=True, batch=False, forks=False, models=ONE_ROTATION),
    Variant("streaming_llm", {"variant": "published", "tokens": 10, "sinks": 4}, batch=False, forks=False, models=("llama", "gemma2")),
    Variant("streaming_llm", {"variant": "pruned", "keep": 0.5}, models=("llama", "mistral")),
    Variant(
        "infllm",
        {"sinks": 2, "local": 5, "blocks": 2, "block": 4, "representatives": 2, "chunk": 6},
        batch=False,
        forks=False,
        models=ONE_ROTATION,
    ),
    Variant(
        "infllm",
        {"variant": "bench2024", "sinks": 2, "local": 7, "blocks": 2, "block": 4, "representatives": 2, "chunk": 6},
        batch=False,
        forks=False,
        models=("llama", "gemma2"),
    ),
    Variant("infllm", {"local": 64}, exact=True, batch=False, forks=False, models=("llama", "qwen3")),
    Variant("knorm", {"keep": 0.5}),
    Variant("knorm", {"tokens": 7}),
    Variant("knorm", {"keep": 1.0}, exact=True),
    Variant("adakv", {"keep": 0.5, "window": 4, "kernel": 3}),
    Variant("adakv", {"tokens": 9, "window": 2, "kernel": 5, "alpha": 0.0}, models=("llama", "gemma2")),
    Variant("adakv", {"keep": 1.0, "window": 4}, exact=True, models=("llama", "gemma3")),
    Variant("snapkv", {"keep": 0.5, "window": 4, "kernel": 3}),
    Variant("snapkv", {"tokens": 3, "window": 6, "pooling": "mean"}, models=("llama",)),
    Variant("snapkv", {"keep": 1.0}, exact=True, models=("llama", "gemma2")),
    Variant("pyramidkv", {"keep": 0.4, "window": 3, "kernel": 3, "beta": 4.0}),
    Variant("pyramidkv", {"tokens": 9, "window": 3}, models=("llama", "gemma2")),
    Variant("keydiff", {"keep": 0.5}),
    Variant("keydiff", {"tokens": 5}, models=("llama",)),
    Variant("expected_attention", {"keep": 0.5, "sinks": 2, "future": 16}),
    Variant("expected_attention", {"tokens": 6, "covariance": False, "values": False}, models=("llama", "phi3")),
    Variant("knorm", {"keep": 0.8, "bits": 4, "group": 4, "residual": 12}, models=("llama", "qwen3")),
    Variant("kivi", {"bits": 2, "group": 8, "residual": 16}),
    Variant("kivi", {"bits": 3, "group": 4, "residual": 16}, models=("llama", "gemma2")),
    Variant("flexgen", {"group": 8}),
    Variant("flexgen", {"group": 4, "simulated": True}, forks=False, models=("llama", "gemma2")),
    Variant("h2o", {"keep": 0.5}),
    Variant("h2o", {"tokens": 64}, exact=True, models=("llama", "gemma2")),
    Variant("h2o", {"variant": "bench2024", "ratio": 0.25}, models=("llama", "mistral", "gemma2")),
    Variant("tova", {"keep": 0.5}),
    Variant("tova", {"tokens": 64}, exact=True, models=("llama", "gemma2")),
)
