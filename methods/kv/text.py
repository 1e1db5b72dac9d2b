"""Turning generated ids into text, alike in every transformers version."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Callable

from transformers import AutoTokenizer

_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


def decoder_of(folder: str, trust_remote_code: bool) -> Callable[[Sequence[int]], str]:
    """Return a function from ids to text without special tokens. A folder without tokenizer (random weights) gives the ids in digits."""
    root = Path(folder)
    if not any((root / name).is_file() for name in _FILES):
        return lambda ids: " ".join(str(value) for value in ids)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    # The default changed between transformers 4 and 5: what the model's own file says, and nothing if it says nothing.
    settings = root / "tokenizer_config.json"
    clean = bool(json.loads(settings.read_text(encoding="utf-8")).get("clean_up_tokenization_spaces")) if settings.is_file() else False

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=clean))

    return decode
