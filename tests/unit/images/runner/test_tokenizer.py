"""What ends an answer, read from a model's files."""

import json
from pathlib import Path
from typing import Any

import pytest

from longctx.images.runner.tokenizer import stop_ids


class Fixed:
    """A tokenizer with an end of sequence and nothing else."""

    eos_token_id = 9

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}


@pytest.mark.parametrize(
    ("files", "eos", "expected"),
    [
        ({"generation_config.json": {"eos_token_id": [3, 4]}, "config.json": {"eos_token_id": 5}}, "model", [3, 4]),
        ({"generation_config.json": {}, "config.json": {"eos_token_id": 5}}, "model", [5]),
        ({"config.json": {"text_config": {"eos_token_id": [6]}}}, "model", [6]),
        ({"config.json": {"eos_token_id": 0}}, "model", [0]),
        ({}, "model", [9]),
        ({"config.json": {"eos_token_id": 5}}, "tokenizer", [9]),
        ({"config.json": {"eos_token_id": 5}}, "none", []),
    ],
)
def test_stop_ids(tmp_path: Path, files: dict[str, Any], eos: str, expected: list[int]) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert stop_ids(tmp_path, Fixed(), eos, []) == expected
    assert stop_ids(tmp_path, Fixed(), eos, ["x\n", "\n", ""]) == [*expected, 10]
