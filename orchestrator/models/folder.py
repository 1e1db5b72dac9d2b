"""Which files of a model's folder or repository a job reads, and whether they are all there."""

import json
import struct
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..errors import ModelError

CONFIG = "config.json"
SMALL = (
    CONFIG, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja",
    "chat_template.json",
)  # fmt: skip
TOKENIZERS: tuple[frozenset[str], ...] = (
    frozenset({"tokenizer.json"}), frozenset({"tokenizer.model"}), frozenset({"vocab.json", "merges.txt"}), frozenset({"vocab.txt"}),
    frozenset({"spiece.model"}), frozenset({"sentencepiece.bpe.model"}),
)  # fmt: skip
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
SHARD = "model-*-of-*.safetensors"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
HEADER_LIMIT = 100 * 2**20
"""Bytes of JSON that a safetensors file may begin with, by its format."""


def choose(names: Collection[str], *, where: str, code: bool = False) -> tuple[str, ...]:
    """Return the files a job reads, sorted: config, tokenizer, safetensors, and Python files where ``code`` is allowed.

    ``names`` are file names at the top of a folder or repository. Raises ModelError if something needed is missing.
    """
    present = set(names)
    if CONFIG not in present:
        raise ModelError(
            f"{where}: no {CONFIG}, so this is no model that transformers can load.", "A GGUF file is named itself: `path:FILE.gguf`."
        )
    if not any(needed <= present for needed in TOKENIZERS):
        raise ModelError(f"{where}: no tokenizer.", f"It must hold one of: {', '.join(' + '.join(sorted(files)) for files in TOKENIZERS)}.")
    chosen = present.intersection(SMALL)
    if INDEX in present:
        chosen |= {INDEX} | {name for name in present if fnmatchcase(name, SHARD)}
    elif WEIGHTS in present:
        chosen.add(WEIGHTS)
    else:
        raise ModelError(*_no_weights(present, where))
    if code:
        chosen |= {name for name in present if name.endswith(".py")}
    return tuple(sorted(chosen))


def _no_weights(present: set[str], where: str) -> tuple[str, str]:
    if pickled := sorted(name for name in present if any(fnmatchcase(name, pattern) for pattern in PICKLED)):
        return (
            f"{where}: its weights are pickles only (such as {pickled[0]}). Unpickling runs code, so longctx does not load them.",
            "Name a revision or a repository with safetensors, or convert them once in an isolated place and use `path:FOLDER`.",
        )
    return f"{where}: no {WEIGHTS} or {INDEX}.", "Weights must be safetensors, under the names that transformers gives them."


def choose_in(folder: Path, *, code: bool = False) -> tuple[str, ...]:
    """Return the files of a folder that a job reads, each checked for being whole. Raises ModelError, StorageError never."""
    try:
        names = [path.name for path in folder.iterdir() if path.is_file()]
    except OSError as error:
        raise ModelError(f"{folder}: {error.strerror or error}", "Name a folder that can be read.") from error
    chosen = choose(names, where=str(folder), code=code)
    if INDEX in chosen:
        for shard in sorted(shards(folder)):
            if shard not in chosen:
                raise ModelError(f"{folder}: {INDEX} names {shard}, which is not there.", "Fetch or copy the model again, whole.")
    for name in chosen:
        if name.endswith(".safetensors"):
            verify_safetensors(folder / name)
    return chosen


def shards(folder: Path) -> set[str]:
    """Return the weight files that a folder's index names. Raises ModelError if it is no index."""
    index = read_object(folder / INDEX)
    named = index.get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise ModelError(f"{folder / INDEX}: no weight_map.", "Fetch or copy the model again, whole.")
    return set(named.values())


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ModelError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {error}", "Fetch or copy the model again, whole.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: not a JSON object.", "Fetch or copy the model again, whole.")
    return value


def verify_safetensors(path: Path) -> None:
    """Compare a safetensors file's length with what its header promises, so that a copy cut short is seen before a job runs."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(HEADER_LIMIT, size):
                raise ValueError(f"its header would be {length} bytes long")
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, struct.error, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ModelError(f"{path}: not a whole safetensors file ({error}).", "Fetch or copy it again.") from error
    if (promised := 8 + length + max(ends, default=0)) != size:
        raise ModelError(f"{path}: {size} bytes, but its header promises {promised}.", "Fetch or copy it again.")
