"""Loading a model, in the dialect of transformers 4 and of 5."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import transformers
from runner.protocol import Model
from torch import Tensor, nn

from . import cpu

MODERN = int(transformers.__version__.split(".", 1)[0]) >= 5

_ROPE = frozenset({
    "rope_theta", "rope_type", "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
    "short_factor", "long_factor", "low_freq_factor", "high_freq_factor", "mscale", "mscale_all_dim", "truncate", "partial_rotary_factor",
})  # fmt: skip


def load(model: Model, attention: str) -> nn.Module:
    """Load or draw the weights onto the device, in the dtype wanted, ready for use. ``attention`` is transformers' name of it.

    Raises ValueError for RoPE overrides that this transformers version cannot express.
    """
    config = transformers.AutoConfig.from_pretrained(model.path, local_files_only=True, trust_remote_code=model.trust_remote_code)
    if model.rope:
        override_rope(config, model.rope)
    dtype = getattr(torch, model.dtype)
    options = {"attn_implementation": attention, "trust_remote_code": model.trust_remote_code}
    options["dtype" if MODERN else "torch_dtype"] = dtype
    if model.weights == "random":
        with torch.device(model.device):
            loaded = transformers.AutoModelForCausalLM.from_config(config, **options)
        draw(loaded, model.seed)
    else:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            model.path, config=config, local_files_only=True, use_safetensors=True, **options
        )
    network: nn.Module = loaded.to(model.device).eval()
    if model.device == "cpu" and not cpu.native(dtype):
        cpu.widen(network)
    if model.device != "cpu":
        _warm(torch.device(model.device), dtype)
    return network.requires_grad_(False)


def _warm(device: torch.device, dtype: torch.dtype) -> None:
    """Multiply once: cuBLAS takes its workspace (32 MiB on an H100) then, which would else be counted to the first request's cache."""
    some = torch.ones(64, 64, device=device, dtype=dtype)
    torch.mm(some, some)
    torch.cuda.synchronize(device)


def draw(network: nn.Module, seed: int) -> None:
    """Draw every matrix from a normal distribution of width 0.02 on its own device; vectors (norms, biases) stay as they were made."""
    generators: dict[torch.device, torch.Generator] = {}
    for parameter in network.parameters():
        if parameter.dim() < 2:
            continue
        if parameter.device not in generators:
            generators[parameter.device] = torch.Generator(parameter.device).manual_seed(seed)
        with torch.no_grad():
            parameter.normal_(0.0, 0.02, generator=generators[parameter.device])


def override_rope(config: Any, rope: Mapping[str, Any]) -> None:
    """Change the RoPE settings of a configuration in place. Keys are transformers' own, flat or under ``rope_scaling``."""
    flat = {key: value for key, value in rope.items() if key != "rope_scaling"}
    flat.update(rope.get("rope_scaling") or {})
    if "type" in flat:
        flat["rope_type"] = flat.pop("type")
    unknown = sorted(set(flat) - _ROPE)
    if unknown:
        raise ValueError(f"unknown RoPE setting {', '.join(unknown)}; known are {', '.join(sorted(_ROPE))}")
    if MODERN:
        parameters = dict(config.rope_parameters or {})
        if any(isinstance(value, Mapping) for value in parameters.values()):
            raise ValueError("this model has RoPE settings of their own for each kind of layer; they cannot be overridden")
        config.rope_parameters = {**parameters, **flat}
        config.standardize_rope_params()
        config.validate_rope()
        return
    if "rope_theta" in flat:
        config.rope_theta = flat.pop("rope_theta")
    if flat:
        if set(flat) != {"rope_type", "factor"}:
            raise ValueError(f"transformers {transformers.__version__} knows rope_type and factor, not {', '.join(sorted(flat))}")
        config.rope_scaling = {"type": flat["rope_type"], "factor": float(flat["factor"])}
        config._rope_scaling_validation()


def weight_bytes(network: nn.Module) -> int:
    """Bytes of all parameters and buffers, shared ones once."""
    return storage_bytes([*network.parameters(), *network.buffers()])


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages behind some tensors."""
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())
