"""Small Llama models written as GGUF on the spot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from longctx.orchestrator.models.byte_level import byte_alphabet

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS = 32, 64, 2, 4, 2
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ hello", "1 2"]
TOKENS = [*CONTROL, *byte_alphabet(), *(merge.replace(" ", "") for merge in MERGES)]

Array = np.ndarray[Any, Any]


def rotary_pairs(weight: Array, heads: int) -> Array:
    """What GGUF writers do to q and k: rows (0, w/2, 1, w/2 + 1, …) of each head. Written as a loop, to check the vectorised inverse."""
    width = len(weight) // heads
    rows = [head * width + half * width // 2 + i for head in range(heads) for i in range(width // 2) for half in (0, 1)]
    return weight[rows]


def random_weights(seed: int = 0) -> dict[str, Array]:
    """A tiny Llama under transformers' names, float32."""
    rng = np.random.default_rng(seed)
    kv = KV_HEADS * (HIDDEN // HEADS)

    def draw(*shape: int) -> Array:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    weights = {"model.embed_tokens.weight": draw(len(TOKENS), HIDDEN), "model.norm.weight": draw(HIDDEN)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        shapes = {
            "input_layernorm": (HIDDEN,), "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (kv, HIDDEN),
            "self_attn.v_proj": (kv, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN), "post_attention_layernorm": (HIDDEN,),
            "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER),
        }  # fmt: skip
        weights |= {f"{at}{name}.weight": draw(*shape) for name, shape in shapes.items()}
    return weights


GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(name: str) -> str:
    bare = name.removesuffix(".weight")
    if bare.startswith("model.layers."):
        _, _, layer, rest = bare.split(".", 3)
        return f"blk.{layer}.{GGUF_NAMES[rest]}.weight"
    return f"{GGUF_NAMES[bare]}.weight"


def write_gguf(
    path: Path,
    weights: dict[str, Array],
    *,
    metadata: dict[str, Any] | None = None,
    architecture: str = "llama",
    store: Callable[[str, Array], tuple[Array, Any]] = lambda name, values: (values, None),
    extra: dict[str, Array] | None = None,
) -> Path:
    """Write a GGUF. ``metadata`` overrides or (None) leaves out a key; ``store`` quantises a tensor."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    values: dict[str, Any] = {
        "llama.block_count": LAYERS, "llama.context_length": 512, "llama.embedding_length": HIDDEN, "llama.feed_forward_length": INNER,
        "llama.attention.head_count": HEADS, "llama.attention.head_count_kv": KV_HEADS, "llama.rope.freq_base": 100000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS, "tokenizer.ggml.token_type": [3] * len(CONTROL) + [1] * (len(TOKENS) - len(CONTROL)),
        "tokenizer.ggml.merges": MERGES, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0, "tokenizer.chat_template": "{{ messages[0]['content'] }}",
        **(metadata or {}),
    }  # fmt: skip
    for key, value in values.items():
        match value:
            case None:
                continue
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value)
    for name, tensor in weights.items():
        heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2])
        stored, kind = store(name, rotary_pairs(tensor, heads) if heads else tensor)
        writer.add_tensor(gguf_name(name), stored, raw_dtype=kind)
    for name, tensor in (extra or {}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
