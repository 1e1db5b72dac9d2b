"""A byte-level BPE as ``tokenizer.json``, in the form that every tokenizers release since 2023 reads."""

from collections.abc import Mapping, Sequence
from typing import Any


def byte_alphabet() -> list[str]:
    """Return the character that byte-level BPE writes for each byte 0 … 255: itself where printable, else U+0100 onwards (GPT-2)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    alphabet, shifted = [], 0
    for byte in range(256):
        if byte in printable:
            alphabet.append(chr(byte))
        else:
            alphabet.append(chr(0x100 + shifted))
            shifted += 1
    return alphabet


def added_token(number: int, text: str, *, special: bool) -> dict[str, Any]:
    """Return one entry of ``added_tokens``: text that is found before any splitting, exactly as it stands."""
    return {"id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}


def tokenizer_json(
    *,
    vocabulary: Mapping[str, int],
    merges: Sequence[str],
    added: Sequence[Mapping[str, Any]],
    pre_tokenizer: Mapping[str, Any],
    before: tuple[str, int] | None = None,
    after: tuple[str, int] | None = None,
) -> dict[str, Any]:
    """Return the document. ``merges`` are ``"a b"`` strings (tokenizers 0.19 fails on pairs); ``before`` and ``after`` are
    (token, id) put around every text.
    """
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(added),
        "normalizer": None,
        "pre_tokenizer": dict(pre_tokenizer),
        "post_processor": _around(before, after),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": dict(vocabulary),
            "merges": list(merges),
        },
    }


def byte_level(*, add_prefix_space: bool, use_regex: bool) -> dict[str, Any]:
    """Return the pre-tokenizer that maps bytes to characters; ``use_regex`` also splits words as GPT-2 does."""
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": use_regex}


def _around(before: tuple[str, int] | None, after: tuple[str, int] | None) -> dict[str, Any] | None:
    if before is None and after is None:
        return None

    def special(token: tuple[str, int] | None, type_id: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": token[0], "type_id": type_id}}] if token else []

    def one(sequence: str, type_id: int) -> list[dict[str, Any]]:
        return [*special(before, type_id), {"Sequence": {"id": sequence, "type_id": type_id}}, *special(after, type_id)]

    named = {token[0]: {"id": token[0], "ids": [token[1]], "tokens": [token[0]]} for token in (before, after) if token}
    return {"type": "TemplateProcessing", "single": one("A", 0), "pair": [*one("A", 0), *one("B", 1)], "special_tokens": named}
