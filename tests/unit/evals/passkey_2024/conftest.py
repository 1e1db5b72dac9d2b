"""A small data folder of made-up essays and configurations, in place of the real ones."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from longctx.evals.data import File, Repository
from longctx.evals.passkey_2024 import material
from longctx.evals.sources import PASSKEY

ESSAYS = {
    "b.txt": "Second essay here,\n\nwith two paragraphs",
    "a.txt": " First essay: one two\tthree.\n",
    "B.txt": "Capital\u00a0letters sort before",
}
"""In bytewise order: B, a, b. 'paragraphs' and 'Capital' are glued where the essays start again."""
EVAL_PARAMS = {
    "background_len_min": 10, "background_len_max": 31, "n_background_lens": 3, "depth_min": 0, "depth_max": 1, "n_depths": 3,
    "depth_num_iterations": 2, "max_new_tokens": 20, "instruction": "Find it.\n", "instruction_position": "prefix",
    "retrieval_target_template": "Key <K>, <K>.", "retrieval_target_placeholder": "<K>", "retrieval_question": "\nKey? ",
    "retrieval_target_style": "int", "retrieval_target_wrapper": "naked", "retrieval_target_len": 7,
}  # fmt: skip

Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """Return what makes the folder: essays by name, and what the configurations say instead."""

    def make(essays: Mapping[str, str] = ESSAYS, **changes: Any) -> Path:
        configs = {name: json.dumps({"eval_params": {**EVAL_PARAMS, **changes}}) for name in material.FILES.values()}
        contents = {f"{material.ESSAYS}/{name}": text for name, text in essays.items()}
        contents |= {f"{material.CONFIGS}/{name}": text for name, text in configs.items()}
        files = []
        for path, text in contents.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(text.encode())
            files.append(File(path=path, upstream=path, sha256=hashlib.sha256(text.encode()).hexdigest()))
        monkeypatch.setattr(material, "PASSKEY", replace(PASSKEY, repositories=(Repository(name="r", commit="c", files=tuple(files)),)))
        return tmp_path

    return make
