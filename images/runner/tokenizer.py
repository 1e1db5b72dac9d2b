"""Loads a model's tokenizer and reads what ends an answer. The only module that imports transformers, and only when asked."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .ending import Failed
from .prompting import plain


def load(folder: Path, trust_remote_code: bool, template: str | None = None) -> Any:
    """Return the tokenizer of a model's folder, with ``template`` in place of its own chat template if given.

    Raises Failed (load_failed) with what to look at.
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        transformers = importlib.import_module("transformers")
        if tuple(int(part) for part in transformers.__version__.split(".")[:2]) >= (4, 57):
            # Later versions offer to replace the pattern in a Mistral model's own file. The file rules, in every version alike.
            options["fix_mistral_regex"] = False
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **options)
    except Exception as error:  # whatever a tokenizer's own code raises; the next step is the same
        raise Failed("load_failed", f"the tokenizer in {folder.name}/ cannot be loaded: {type(error).__name__}: {error}") from error
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def stop_ids(folder: Path, tokenizer: Any, eos: str, tokens_of: Sequence[str]) -> list[int]:
    """Return the tokens that end an answer: end-of-sequence as ``eos`` says, then the last token of each text in ``tokens_of``.

    ``model``: ``eos_token_id`` of generation_config.json, else of config.json, else the tokenizer's; ``tokenizer``: the tokenizer's
    only (as evaluations that pass ``eos_token_id`` do); ``none``: no end of sequence.
    """
    found: list[int] = []
    if eos == "model":
        found = _eos(folder / "generation_config.json") or _eos(folder / "config.json")
    if eos == "tokenizer" or (eos == "model" and not found):
        found = _ids(tokenizer.eos_token_id)
    for text in tokens_of:
        found += plain(tokenizer, text)[-1:]
    return list(dict.fromkeys(found))


def _eos(path: Path) -> list[int]:
    try:
        document: Mapping[str, Any] = json.loads(path.read_bytes())
    except OSError:
        return []
    own = _ids(document.get("eos_token_id"))
    return own or _ids((document.get("text_config") or {}).get("eos_token_id"))


def _ids(value: Any) -> list[int]:
    return [] if value is None else [int(token) for token in (value if isinstance(value, (list, tuple)) else [value])]
