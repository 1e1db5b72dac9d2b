"""A GGUF file to a folder that every transformers release since 4.36 loads: config, tokenizer and safetensors, without torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import gguf_llama
from .gguf_file import GgufFile
from .gguf_tokenizer import special_ids, tokenizer
from .safetensors_file import Tensor, lossless, write
from .source import Report
from .store import write_json

ARCHITECTURES: dict[str, tuple[Callable[[GgufFile], dict[str, Any]], Callable[[GgufFile, dict[str, Any]], list[Tensor]]]] = {
    "llama": (gguf_llama.config, gguf_llama.tensors),
}
"""``general.architecture`` -> (configuration, tensors)."""


def convert(source: Path, folder: Path, report: Report) -> None:
    """Write the model into ``folder``. Weights are exactly the dequantised float32 values, stored as bfloat16 or float16 only if
    every one of them fits. Raises ModelError naming what in the file is not handled.
    """
    file = GgufFile(source)
    architecture = file.get("general.architecture", str)
    if architecture not in ARCHITECTURES:
        raise file.unsupported(f"general.architecture is {architecture}; handled: {', '.join(ARCHITECTURES)}")
    make_config, make_tensors = ARCHITECTURES[architecture]
    config = make_config(file)
    tensors = make_tensors(file, config)
    documents = tokenizer(file)
    ids = special_ids(file)
    dtype = lossless(tensors)
    report(f"converting {source.name} ({source.stat().st_size / 1e6:.0f} MB) to safetensors in {dtype}")
    write_json(folder / "config.json", {**config, **ids, "torch_dtype": dtype})
    write_json(folder / "generation_config.json", {**ids, "eos_token_id": _ends(file, ids["eos_token_id"])})
    for name, document in documents.items():
        write_json(folder / name, document)
    write(folder / "model.safetensors", tensors, dtype)


def _ends(file: GgufFile, eos: int) -> int | list[int]:
    """Return what ends an answer: the end token, and the end of a turn where the file names another token for it."""
    turn = file.optional("tokenizer.ggml.eot_token_id", int)
    return eos if turn in (None, eos) else [eos, int(turn or 0)]
