"""Tiny random models, hooks that record, and references written the slow and obvious way."""

from __future__ import annotations

import importlib.util
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from runner.protocol import Hooks, Model, Prompt

MODERN = int(transformers.__version__.split(".", 1)[0]) >= 5
modern = unittest.skipUnless(MODERN, "needs transformers 5")
legacy = unittest.skipIf(MODERN, "needs transformers 4")

torch.set_num_threads(1)

_SHAPE = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "eos_token_id": 96, "pad_token_id": 0, "bos_token_id": 1,
}  # fmt: skip

CONFIGS = {
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {"sliding_window": 12}),
    "mistral-full": ("MistralConfig", {"sliding_window": None}),
    "qwen2": ("Qwen2Config", {"use_sliding_window": False}),
    "qwen3": ("Qwen3Config", {"head_dim": 16}),
    "gemma2": ("Gemma2Config", {"head_dim": 16, "sliding_window": 9, "attn_logit_softcapping": 3.0, "query_pre_attn_scalar": 16}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 16, "sliding_window": 9, "query_pre_attn_scalar": 16, "sliding_window_pattern": 2}),
    "phi3": ("Phi3Config", {}),
    "yarn": (
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}},
    ),
}


def folder(name: str, case: unittest.TestCase) -> str:
    """Write a tiny configuration to a folder of its own and return the folder."""
    kind, extra = CONFIGS[name]
    place = tempfile.TemporaryDirectory()
    case.addCleanup(place.cleanup)
    config = getattr(transformers, kind)(**{**_SHAPE, **extra})
    architecture = kind.replace("TextConfig", "Config").replace("Config", "ForCausalLM")
    config.architectures = [architecture]
    config.save_pretrained(place.name)
    return place.name


def model(path: str, **changes: object) -> Model:
    """Describe a tiny random model for a family."""
    settings: dict = {
        "name": "tiny", "path": path, "dtype": "float32", "window": 512, "rope": None, "weights": "random", "device": "cpu",
        "attention": "auto", "seed": 3,
    }  # fmt: skip
    return Model(**{**settings, **changes})


def prompt(ids: list[int], name: str = "a", **changes: object) -> Prompt:
    """Make a prompt without stops, ten new tokens."""
    settings: dict = {"spans": (), "stop_ids": (), "stop_strings": (), "min_new_tokens": 0, "max_new_tokens": 10}
    return Prompt(id=name, ids=ids, **{**settings, **changes})


def tokens(count: int, seed: int = 0) -> list[int]:
    """Draw token ids."""
    return torch.randint(1, 90, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


class Recorder:
    """Hooks that note every call; keeps measures of a holding, not its tensors."""

    def __init__(self) -> None:
        self.holdings: dict = {}
        self.measured: dict = {}
        self.phases: list = []
        self.calls: list = []
        self.named: dict = {}
        self.kept: dict = {}
        self.keep = lambda holding: None

    def hooks(self) -> Hooks:
        """Return the hooks."""
        return Hooks(
            clock=time.perf_counter, holding=self._holding, before_cache=lambda: self.calls.append("before_cache"),
            phase=self._phase, stopping=lambda: False,
        )  # fmt: skip

    def _phase(self, name: str, count: int) -> None:
        self.phases.append((name, count))
        self.calls.append(name)

    def _holding(self, name: str, holding: object) -> None:
        self.calls.append("holding")
        self.holdings[name] = holding
        self.measured[name] = reachable_bytes(holding.roots)
        self.named[name] = reachable_bytes(holding.parts)
        self.kept[name] = self.keep(holding)
        holding.roots, holding.parts = [], {part: [tensor.shape for tensor in tensors] for part, tensors in holding.parts.items()}


def estimate_of(method: str) -> Callable[..., int]:
    """Load what the host estimates with, from a method's folder."""
    path = Path(__file__).parents[4] / "methods" / method / "estimate.py"
    spec = importlib.util.spec_from_file_location(f"estimate_{method}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.estimate


def reachable_bytes(root: object) -> int:
    """Bytes of all distinct tensor storages reachable from an object."""
    seen, sizes, stack = set(), {}, [root]
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            sizes[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, (list, tuple, set)):
            stack.extend(item)
        elif hasattr(item, "__dict__") and not isinstance(item, (type, torch.nn.Module)):
            stack.extend(vars(item).values())
    return sum(sizes.values())


def streaming_reference(family: object, ids: list[int], split: tuple[int, int], steps: int) -> list[int]:
    """Decode greedily by StreamingLLM's ``windowed`` rule with a loop over queries, in float64, nothing cached.

    Every layer of every step is recomputed over all tokens; what the window hides, hides for good, as hidden states are those of the
    windowed pass itself.
    """
    network = family._loaded.network.double()
    chosen: list[int] = []
    for _ in range(steps):
        logits = _windowed_forward(network, ids + chosen, split)
        chosen.append(int(logits.argmax()))
    network.float()
    return chosen


def _turn(rows: torch.Tensor, positions: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Rotate (heads, n, head_dim), each of the n by its own position."""
    angle = positions[:, None] * frequencies
    first, second = rows.chunk(2, dim=-1)
    return torch.cat((first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()), dim=-1)


def _windowed_forward(network: object, ids: list[int], split: tuple[int, int]) -> torch.Tensor:
    """Return the last position's logits. Takes q, k and v from the model's own layers and attends query by query."""
    sinks, local = split
    frequencies = network.base_model.rotary_emb.inv_freq.double()

    def attend(module, query, key, value, attention_mask, scaling=None, softcap=None, sliding_window=None, **kwargs):
        group, length = query.shape[1] // key.shape[1], query.shape[2]
        k, v = key[0].repeat_interleave(group, 0), value[0].repeat_interleave(group, 0)
        near, used = (local, sinks) if not sliding_window or sliding_window > local else (sliding_window, 0)
        places = torch.arange(length, dtype=torch.float64)
        turned = _turn(k, places, frequencies)
        true = _turn(query[0], places, frequencies)
        fixed = _turn(query[0], torch.full_like(places, near + used - 1), frequencies)
        out = torch.zeros_like(query)
        for i in range(length):
            window = [j for j in range(i + 1) if i - j < near]
            first = [j for j in range(i + 1) if i - j >= near and j < used and (not sliding_window or i - j < sliding_window)]
            scores = (
                torch.cat(((true[:, i, None] * turned[:, window]).sum(-1), (fixed[:, i, None] * turned[:, first]).sum(-1)), dim=-1)
                * scaling
            )
            weights = (softcap * torch.tanh(scores / softcap) if softcap else scores).softmax(-1)
            out[0, :, i] = (weights[..., None] * v[:, window + first]).sum(1)
        return out.transpose(1, 2), None

    transformers.AttentionInterface.register("reference", attend)
    network.config._attn_implementation = "reference"
    try:
        with torch.no_grad():
            return network(torch.tensor([ids]), position_ids=torch.zeros(1, len(ids), dtype=torch.long), use_cache=False).logits[0, -1]
    finally:
        network.config._attn_implementation = "longctx"


def scratch(case: unittest.TestCase) -> Path:
    """Return an empty folder that goes away with the test."""
    place = tempfile.TemporaryDirectory()
    case.addCleanup(place.cleanup)
    return Path(place.name)
