"""A byte-level tokenizer small enough to write down: 256 bytes, two merges, three special tokens, a chat template."""

import json
from pathlib import Path

BOS, EOS, USER = 0, 1, 2
FIRST_BYTE = 3
"""The id of byte 0; byte n has this plus n."""
AB = FIRST_BYTE + 256
"""The id of the merged ``ab``."""
TEMPLATE = "<s><|user|>{{ messages[0]['content'] | trim }}{% if add_generation_prompt %}|{{ mood | default('') }}{% endif %}"


def alphabet() -> list[str]:
    """Return the printable character that byte-level tokenizers write for each byte (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def write(folder: Path) -> None:
    """Write tokenizer, model configuration and generation configuration into a model's folder."""
    names = ["<s>", "</s>", "<|user|>"]
    tokens = [*names, *alphabet(), "ab", "abab"]
    special = [
        {"id": number, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for number, name in enumerate(names)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    processor = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
    }
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "vocab": {token: number for number, token in enumerate(tokens)},
        "merges": ["a b", "ab ab"],
    }  # fmt: skip
    files = {
        "tokenizer.json": {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None, "pre_tokenizer": level,
            "post_processor": processor, "decoder": level, "model": model,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE,
            "model_max_length": 8,
        },
        "config.json": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "eos_token_id": EOS},
        "generation_config.json": {"eos_token_id": [EOS, USER]},
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
