"""The Llama architecture in GGUF: its configuration and tensors under the names that transformers gives them."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from .gguf_file import GgufFile
from .safetensors_file import Tensor

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, numpy.dtype[numpy.float32]]

REFUSED = ("llama.expert_count", "llama.attention.sliding_window", "llama.attention.key_length_mla")
"""Keys that, unless 0, mean a model that computes something else."""


def config(file: GgufFile) -> dict[str, Any]:
    """Return ``config.json`` in the dialect of transformers 4.36: ``rope_theta``, ``rope_scaling`` and no ``head_dim``."""
    for key in REFUSED:
        if file.optional(key, int):
            raise file.unsupported(f"{key} is set")
    hidden = file.get("llama.embedding_length", int)
    heads = file.get("llama.attention.head_count", int)
    if heads < 1 or hidden % heads:
        raise file.unsupported(f"embedding_length {hidden} is no multiple of head_count {heads}")
    width = hidden // heads
    for key in ("llama.attention.key_length", "llama.attention.value_length", "llama.rope.dimension_count"):
        if file.get(key, int, width) != width:
            raise file.unsupported(f"{key} is {file.get(key, int)}, not embedding_length / head_count = {width}")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": file.get("llama.feed_forward_length", int),
        "max_position_embeddings": file.get("llama.context_length", int),
        "num_attention_heads": heads,
        "num_hidden_layers": file.get("llama.block_count", int),
        "num_key_value_heads": file.get("llama.attention.head_count_kv", int, heads),
        "pretraining_tp": 1,
        "rms_norm_eps": _short(file.get("llama.attention.layer_norm_rms_epsilon", float)),
        "rope_scaling": _rope_scaling(file),
        "rope_theta": file.get("llama.rope.freq_base", float, 10000.0),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "use_cache": True,
        "vocab_size": file.shape("token_embd.weight")[0] if "token_embd.weight" in file.tensors else 0,
    }


def _short(value: float) -> float:
    """Return the shortest decimal that is the same float32: GGUF stores 1e-5 as 9.999999747378752e-06."""
    import numpy as np

    return float(str(np.float32(value)))


def _rope_scaling(file: GgufFile) -> dict[str, Any] | None:
    kind = file.get("llama.rope.scaling.type", str, "none")
    if kind == "none":
        return None
    if kind != "linear":
        raise file.unsupported(f"llama.rope.scaling.type is {kind}")
    return {"type": "linear", "factor": file.get("llama.rope.scaling.factor", float)}


def tensors(file: GgufFile, settings: dict[str, Any]) -> list[Tensor]:
    """Return every tensor with its name and shape. Raises ModelError if one is missing, of another shape, or not known."""
    hidden, inner = settings["hidden_size"], settings["intermediate_size"]
    heads, kv_heads = settings["num_attention_heads"], settings["num_key_value_heads"]
    kv = kv_heads * (hidden // heads)
    layer: dict[str, tuple[str, tuple[int, ...], Callable[[Array], Array] | None]] = {
        "attn_norm": ("input_layernorm", (hidden,), None),
        "attn_q": ("self_attn.q_proj", (hidden, hidden), partial(halves, heads=heads)),
        "attn_k": ("self_attn.k_proj", (kv, hidden), partial(halves, heads=kv_heads)),
        "attn_v": ("self_attn.v_proj", (kv, hidden), None),
        "attn_output": ("self_attn.o_proj", (hidden, hidden), None),
        "ffn_norm": ("post_attention_layernorm", (hidden,), None),
        "ffn_gate": ("mlp.gate_proj", (inner, hidden), None),
        "ffn_up": ("mlp.up_proj", (inner, hidden), None),
        "ffn_down": ("mlp.down_proj", (hidden, inner), None),
    }
    wanted: dict[str, tuple[str, tuple[int, ...], Callable[[Array], Array] | None]] = {
        "token_embd.weight": ("model.embed_tokens.weight", (settings["vocab_size"], hidden), None),
        "output_norm.weight": ("model.norm.weight", (hidden,), None),
    }
    if not settings["tie_word_embeddings"]:
        wanted["output.weight"] = ("lm_head.weight", (settings["vocab_size"], hidden), None)
    for number in range(settings["num_hidden_layers"]):
        for short, (name, shape, mend) in layer.items():
            wanted[f"blk.{number}.{short}.weight"] = (f"model.layers.{number}.{name}.weight", shape, mend)
    if unknown := sorted(file.tensors.keys() - wanted.keys()):
        raise file.unsupported(f"it holds tensor {unknown[0]}{f' and {len(unknown) - 1} more' if len(unknown) > 1 else ''}, not handled")
    if missing := sorted(wanted.keys() - file.tensors.keys()):
        raise file.unsupported(f"tensor {missing[0]} is missing")
    found = []
    for source, (name, shape, mend) in wanted.items():
        if file.shape(source) != shape:
            raise file.unsupported(f"{source} has shape {list(file.shape(source))}, not {list(shape)}")
        found.append(Tensor(name=name, shape=shape, load=partial(_load, file, source, mend)))
    return found


def _load(file: GgufFile, source: str, mend: "Callable[[Array], Array] | None") -> "Array":
    values = file.values(source)
    return mend(values) if mend else values


def halves(weight: "Array", heads: int) -> "Array":
    """Reorder the rows of each head from GGUF's rotary pairs (0, 1), (2, 3), … to transformers' halves (0, w/2), (1, w/2 + 1), …

    ``weight`` is [heads x width, hidden].
    """
    import numpy as np

    rows, hidden = weight.shape
    width = rows // heads
    return np.ascontiguousarray(weight.reshape(heads, width // 2, 2, hidden).swapaxes(1, 2).reshape(rows, hidden))
