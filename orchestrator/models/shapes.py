"""``random:SHAPE``: public model shapes with weights drawn at load time. Only speed and bytes mean anything.

Configurations are written in the dialect of transformers 4.36 (top-level ``rope_theta`` and ``torch_dtype``), which later ones read.
"""

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any

from ..contracts.manifest import ModelSpec
from ..errors import ModelError
from ..settings import Settings
from . import byte_level
from .source import Located, Report
from .store import build, complete, write_json

SPECIAL = ("<pad>", "<s>", "</s>")
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)

_COMMON: dict[str, Any] = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
_TINY: dict[str, Any] = {
    **_COMMON,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "vocab_size": 512,
    "torch_dtype": "float32",
}
_LLAMA: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "attention_dropout": 0.0}
_MISTRAL: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "sliding_window": None,
    "attention_dropout": 0.0,
}
_7B: dict[str, Any] = {**_COMMON, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}

SHAPES: dict[str, dict[str, Any]] = {
    "llama-3-8b": {
        **_7B, **_LLAMA, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
    },
    "mistral-7b": {
        **_7B, **_MISTRAL, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
    },
    "longchat-7b": {
        **_7B, **_LLAMA, "intermediate_size": 11008, "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 32768,
        "rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 8.0},
    },
    "tiny-llama": {**_TINY, **_LLAMA},
    "tiny-mistral": {**_TINY, **_MISTRAL},
    "tiny-qwen2": {
        **_TINY, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": False, "sliding_window": None,
        "max_window_layers": 2, "tie_word_embeddings": True,
    },
    "tiny-qwen3": {
        **_TINY, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 16, "use_sliding_window": False,
        "sliding_window": None, "max_window_layers": 2, "attention_bias": False, "tie_word_embeddings": True,
    },
    "tiny-gemma2": {
        **_TINY, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "num_hidden_layers": 3, "head_dim": 16,
        "sliding_window": 256, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "tie_word_embeddings": True,
    },
}  # fmt: skip


def check(rest: str, spec: ModelSpec) -> str | None:
    """Say whether the shape is known, and which is meant."""
    if rest in SHAPES:
        return None
    near = difflib.get_close_matches(rest, SHAPES, n=1)
    meant = f"; did you mean random:{near[0]}?" if near else "."
    return f"{spec.source}: unknown shape{meant} There are: {', '.join(SHAPES)}"


def documents(shape: str) -> dict[str, dict[str, Any]]:
    """Return the files of a shape: configuration and a tokenizer of 256 bytes and three special tokens."""
    tokens = {text: number for number, text in enumerate((*SPECIAL, *byte_level.byte_alphabet()))}
    config = SHAPES[shape]
    return {
        "config.json": config,
        "generation_config.json": {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
        "tokenizer.json": byte_level.tokenizer_json(
            vocabulary=tokens,
            merges=[],
            added=[byte_level.added_token(number, text, special=True) for number, text in enumerate(SPECIAL)],
            pre_tokenizer=byte_level.byte_level(add_prefix_space=False, use_regex=False),
            before=(SPECIAL[1], 1),
        ),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": SPECIAL[0],
            "bos_token": SPECIAL[1],
            "eos_token": SPECIAL[2],
            "model_max_length": config["max_position_embeddings"],
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
            "chat_template": TEMPLATE,
        },
    }


def _key(shape: str) -> str:
    """Name the folder by its content, so that a changed shape is another folder."""
    return f"random-{shape}-{hashlib.sha256(json.dumps(documents(shape), sort_keys=True).encode()).hexdigest()[:12]}"


def locate(rest: str, spec: ModelSpec, settings: Settings) -> Located | None:
    """Return the folder, writing its few kilobytes if need be: there is nothing to fetch."""
    made = complete(settings, _key(rest))
    if made is None:
        return fetch(rest, spec, settings, lambda line: None)
    return Located(folder=made[0], files=made[1], revision=None, weights="random")


def fetch(rest: str, spec: ModelSpec, settings: Settings, report: Report) -> Located:
    """Write configuration and tokenizer."""
    if rest not in SHAPES:
        raise ModelError(f"model {spec.name}: unknown shape {rest}", f"There are: {', '.join(SHAPES)}.")

    def make(into: Path) -> None:
        for name, document in documents(rest).items():
            write_json(into / name, document)

    folder, files = build(settings, _key(rest), make, report)
    return Located(folder=folder, files=files, revision=None, weights="random")
