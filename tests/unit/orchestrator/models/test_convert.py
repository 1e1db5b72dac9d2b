import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from longctx.orchestrator.errors import ModelError
from longctx.orchestrator.models.convert import convert

from .tiny_gguf import CONTROL, HEADS, HIDDEN, KV_HEADS, TOKENS, Array, random_weights, write_gguf


def converted(gguf: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    convert(gguf, folder, lambda line: None)
    return folder


def document(folder: Path, name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / name).read_text())
    return value


def test_weights_come_back_bit_for_bit(gguf: Path, tmp_path: Path) -> None:
    weights = load_file(converted(gguf, tmp_path) / "model.safetensors")
    wanted = random_weights()
    assert weights.keys() == wanted.keys()
    for name, values in wanted.items():
        assert weights[name].dtype == np.float32 and np.array_equal(weights[name].view(np.uint32), values.view(np.uint32)), name


def test_quantised_weights_are_what_ggml_says(tmp_path: Path) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    kept = {}

    def store(name: str, values: Array) -> tuple[Array, Any]:
        if values.ndim == 1:
            return values, None
        codes = quantize(values, GGMLQuantizationType.Q4_1)
        kept[name] = dequantize(codes, GGMLQuantizationType.Q4_1)
        return codes, GGMLQuantizationType.Q4_1

    folder = converted(write_gguf(tmp_path / "q.gguf", random_weights(), store=store), tmp_path)
    weights = load_file(folder / "model.safetensors")
    assert document(folder, "config.json")["torch_dtype"] == "float32"
    for name, values in kept.items():
        if "q_proj" not in name and "k_proj" not in name:
            assert np.array_equal(weights[name], values), name
    assert len(kept) == 15


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_only_where_nothing_is_lost(dtype: str, tmp_path: Path) -> None:
    def fit(values: Array) -> Array:
        if dtype == "float16":
            return values.astype(np.float16).astype(np.float32)
        bits: Array = values.view(np.uint32) & np.uint32(0xFFFF0000)
        return bits.view(np.float32)

    weights = {name: fit(values) for name, values in random_weights().items()}
    folder = converted(write_gguf(tmp_path / "half.gguf", weights), tmp_path)
    assert document(folder, "config.json")["torch_dtype"] == dtype
    name = "model.layers.1.self_attn.k_proj.weight"
    raw = stored(folder / "model.safetensors", name)
    back = raw.view("<f2").astype(np.float32) if dtype == "float16" else (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(back, weights[name].reshape(-1))


def stored(path: Path, name: str) -> Array:
    """Bytes of one tensor, read by the format's own description: numpy has no bfloat16."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    start, end = json.loads(content[8 : 8 + length])[name]["data_offsets"]
    assert (8 + length) % 8 == 0
    return np.frombuffer(content[8 + length + start : 8 + length + end], dtype=np.uint8)


def test_configuration_in_the_oldest_dialect(gguf: Path, tmp_path: Path) -> None:
    folder = converted(gguf, tmp_path)
    config = document(folder, "config.json")
    assert config["rope_theta"] == 100000.0 and config["torch_dtype"] == "float32"
    assert config["rms_norm_eps"] == 1e-5
    assert (config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]) == (HIDDEN, HEADS, KV_HEADS)
    assert config["vocab_size"] == len(TOKENS) and config["tie_word_embeddings"] is True
    assert not {"rope_parameters", "dtype", "head_dim"} & config.keys()
    assert document(folder, "generation_config.json") == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def test_an_output_matrix_of_its_own(tmp_path: Path) -> None:
    weights = {**random_weights(), "lm_head.weight": random_weights(1)["model.embed_tokens.weight"]}
    folder = converted(write_gguf(tmp_path / "untied.gguf", weights), tmp_path)
    assert document(folder, "config.json")["tie_word_embeddings"] is False
    assert np.array_equal(load_file(folder / "model.safetensors")["lm_head.weight"], weights["lm_head.weight"])


def test_linear_rope_scaling_and_a_turn_token(tmp_path: Path) -> None:
    metadata = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 8.0, "tokenizer.ggml.eot_token_id": 0}
    folder = converted(write_gguf(tmp_path / "x.gguf", random_weights(), metadata=metadata), tmp_path)
    assert document(folder, "config.json")["rope_scaling"] == {"type": "linear", "factor": 8.0}
    assert document(folder, "generation_config.json")["eos_token_id"] == [2, 0]


def test_tokenizer(gguf: Path, tmp_path: Path) -> None:
    folder = converted(gguf, tmp_path)
    tokenizer, config = document(folder, "tokenizer.json"), document(folder, "tokenizer_config.json")
    assert all(isinstance(merge, str) for merge in tokenizer["model"]["merges"])
    assert [token["content"] for token in tokenizer["added_tokens"] if token["special"]] == CONTROL
    assert tokenizer["pre_tokenizer"]["pretokenizers"][0] == {"type": "Digits", "individual_digits": True}
    assert tokenizer["post_processor"] is None
    assert (config["tokenizer_class"], config["eos_token"], config["pad_token"]) == ("PreTrainedTokenizerFast", "<|im_end|>", "<|im_end|>")
    assert config["chat_template"] == "{{ messages[0]['content'] }}" and "token_type_ids" not in config["model_input_names"]


def test_bos_only_where_the_file_says_so(tmp_path: Path) -> None:
    folder = converted(write_gguf(tmp_path / "x.gguf", random_weights(), metadata={"tokenizer.ggml.add_bos_token": True}), tmp_path)
    single = document(folder, "tokenizer.json")["post_processor"]["single"]
    assert single == [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model is llama"),
        ({"tokenizer.ggml.pre": "llama-bpe"}, "tokenizer.ggml.pre is llama-bpe; handled: gpt-2, smollm"),
        ({"tokenizer.ggml.pre": None}, "no tokenizer.ggml.pre"),
        ({"tokenizer.ggml.eos_token_id": None}, "no tokenizer.ggml.eos_token_id"),
        ({"tokenizer.ggml.eos_token_id": 9999}, "eos_token_id is 9999"),
        ({"tokenizer.ggml.merges": ["no such"]}, "merge 'no such'"),
        ({"tokenizer.ggml.token_type": [1]}, "1 entries for"),
        ({"tokenizer.ggml.token_type": [6] * len(TOKENS)}, "has type 6"),
        ({"tokenizer.ggml.tokens": ["a"] * len(TOKENS)}, "holds a token twice"),
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type is yarn"),
        ({"llama.rope.dimension_count": 4}, "llama.rope.dimension_count is 4"),
        ({"llama.expert_count": 8}, "llama.expert_count is set"),
        ({"llama.attention.head_count_kv": [1, 2]}, "llama.attention.head_count_kv is list, not int"),
        ({"llama.attention.head_count": 5}, "no multiple of head_count 5"),
        ({"llama.attention.head_count": None}, "no llama.attention.head_count"),
        ({"llama.block_count": 3}, "tensor blk.2.attn_k.weight is missing"),
        ({"llama.block_count": 1}, "tensor blk.1.attn_k.weight and 8 more, not handled"),
        ({"llama.feed_forward_length": 65}, "blk.0.ffn_gate.weight has shape [64, 32], not [65, 32]"),
    ],
)
def test_what_is_not_handled_is_named(metadata: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        converted(write_gguf(tmp_path / "x.gguf", random_weights(), metadata=metadata), tmp_path)
    assert says in str(caught.value) and "x.gguf" in str(caught.value)


def test_another_architecture_or_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"general\.architecture is gemma2"):
        converted(write_gguf(tmp_path / "x.gguf", {}, architecture="gemma2"), tmp_path)
    with pytest.raises(ModelError, match=r"tensor rope_freqs.weight, not handled"):
        convert(
            write_gguf(tmp_path / "y.gguf", random_weights(), extra={"rope_freqs.weight": np.ones(4, np.float32)}), tmp_path / "made", print
        )


@pytest.mark.parametrize("keep", [0, 3, 100, 4000, -1])
def test_a_file_cut_short(keep: int, gguf: Path, tmp_path: Path) -> None:
    gguf.write_bytes(gguf.read_bytes()[:keep])
    with pytest.raises(ModelError, match="not a whole GGUF file"):
        converted(gguf, tmp_path)
    assert not any((tmp_path / "made").iterdir())
