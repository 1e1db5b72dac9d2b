"""A GGUF's tokenizer metadata as ``tokenizer.json`` and ``tokenizer_config.json``."""

from typing import Any

from . import byte_level
from .gguf_file import GgufFile

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
"""ggml's token types; 6 (a byte of a SentencePiece model) has no place in a byte-level BPE."""

DIGITS = {"type": "Digits", "individual_digits": True}
PRE_TOKENIZERS: dict[str, tuple[dict[str, Any], ...]] = {"gpt-2": (), "smollm": (DIGITS,)}
"""What happens before GPT-2's own split, by ``tokenizer.ggml.pre``."""


def tokenizer(file: GgufFile) -> dict[str, dict[str, Any]]:
    """Return both documents. Raises ModelError naming the tokenizer model, pre-tokenizer or token that is not handled."""
    model = file.get("tokenizer.ggml.model", str)
    if model != "gpt2":
        raise file.unsupported(f"tokenizer.ggml.model is {model}")
    pre = file.get("tokenizer.ggml.pre", str)
    if pre not in PRE_TOKENIZERS:
        raise file.unsupported(f"tokenizer.ggml.pre is {pre}; handled: {', '.join(PRE_TOKENIZERS)}")
    tokens = file.array("tokenizer.ggml.tokens", str)
    vocabulary = {text: number for number, text in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise file.unsupported("tokenizer.ggml.tokens holds a token twice")
    bos = _token(file, tokens, "bos") if file.get("tokenizer.ggml.add_bos_token", bool, False) else None
    eos = _token(file, tokens, "eos") if file.get("tokenizer.ggml.add_eos_token", bool, False) else None
    split = byte_level.byte_level(add_prefix_space=file.get("tokenizer.ggml.add_space_prefix", bool, False), use_regex=True)
    document = byte_level.tokenizer_json(
        vocabulary=vocabulary,
        merges=_merges(file, vocabulary),
        added=_added(file, tokens),
        pre_tokenizer={"type": "Sequence", "pretokenizers": [*PRE_TOKENIZERS[pre], split]},
        before=bos,
        after=eos,
    )
    return {"tokenizer.json": document, "tokenizer_config.json": _config(file, tokens)}


def _added(file: GgufFile, tokens: list[str]) -> list[dict[str, Any]]:
    types = file.array("tokenizer.ggml.token_type", int)
    if len(types) != len(tokens):
        raise file.unsupported(f"tokenizer.ggml.token_type has {len(types)} entries for {len(tokens)} tokens")
    added = []
    for number, (text, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind in (CONTROL, USER_DEFINED):
            added.append(byte_level.added_token(number, text, special=kind == CONTROL))
        elif kind not in (NORMAL, UNUSED):
            raise file.unsupported(f"token {number} {text!r} has type {kind}")
    return added


def _merges(file: GgufFile, vocabulary: dict[str, int]) -> list[str]:
    merges = file.array("tokenizer.ggml.merges", str)
    for merge in merges:
        left, _, right = merge.partition(" ")
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise file.unsupported(f"merge {merge!r} names something that is no token")
    return merges


def _token(file: GgufFile, tokens: list[str], role: str) -> tuple[str, int]:
    number = file.get(f"tokenizer.ggml.{ROLES[role]}", int)
    if number >= len(tokens):
        raise file.unsupported(f"tokenizer.ggml.{ROLES[role]} is {number}, but there are {len(tokens)} tokens")
    return tokens[number], number


ROLES = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}


def special_ids(file: GgufFile) -> dict[str, int]:
    """Return ``bos_token_id``, ``eos_token_id`` and ``pad_token_id`` as far as named; padding is the end token where it is not."""
    ids = {f"{role}_token_id": file.optional(f"tokenizer.ggml.{ROLES[role]}", int) for role in ("bos", "eos", "pad")}
    if ids["pad_token_id"] is None:
        ids["pad_token_id"] = ids["eos_token_id"]
    if ids["eos_token_id"] is None:
        raise file.unsupported("its metadata has no tokenizer.ggml.eos_token_id, so nothing would end an answer")
    return {name: number for name, number in ids.items() if number is not None}


def _config(file: GgufFile, tokens: list[str]) -> dict[str, Any]:
    special_ids(file)
    named = {role: _token(file, tokens, role)[0] for role, key in ROLES.items() if file.optional(f"tokenizer.ggml.{key}", int) is not None}
    named.setdefault("pad", named["eos"])
    config: dict[str, Any] = {
        # Not LlamaTokenizerFast: that one would add a BOS and, in some releases, rebuild itself as SentencePiece.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": text for role, text in named.items()},
        "model_max_length": file.get("llama.context_length", int),
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    if template := file.optional("tokenizer.chat_template", str):
        config["chat_template"] = template
    return config
