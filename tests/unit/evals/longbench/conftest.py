"""What LongBench's tests share: a data folder with made-up sets, and the real one where it is."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from longctx.evals import sources
from longctx.evals.longbench import eval as module
from longctx.evals.longbench import rows

REAL = os.environ.get("LONGCTX_DATA")
"""Read before the tests' own home hides it."""

TEMPLATES = {
    "qasper": "Read this.\n\n{context}\n\nNow tell.\n\nQ: {input}\n\nA:",
    "samsum": "Sum it up.\n{context}\n{input}",
    "lcc": "Go on. \n{context}Next line:\n",
}
LENGTHS = {"qasper": 12, "samsum": 9, "lcc": 7}

WriteRows = Callable[..., Path]


def row(**more: Any) -> dict[str, Any]:
    values = {"input": "Why?", "context": "Some text.", "answers": ["so"], "length": 5, "dataset": "qasper", "language": "en"}
    return {**values, "all_classes": None, "_id": "abc", **more}


@pytest.fixture
def write_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteRows:
    """Return a function that fills a data folder: rows by set, and the two configuration files, whose checksums count as pinned."""

    def write(sets: Mapping[str, Sequence[dict[str, Any]]], templates: Mapping[str, Any] = TEMPLATES) -> Path:
        folder = tmp_path / "data" / "longbench"
        folder.mkdir(parents=True, exist_ok=True)
        for name, lines in sets.items():
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        pins = {}
        for name, content in (("dataset2prompt.json", templates), ("dataset2maxlen.json", LENGTHS)):
            (folder / name).write_text(json.dumps(content))
            pins[f"longbench/{name}"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        repository = sources.LONGBENCH.repositories[0]
        files = tuple(dataclasses.replace(file, sha256=pins[file.path]) for file in repository.files)
        pinned = dataclasses.replace(sources.LONGBENCH, repositories=(dataclasses.replace(repository, files=files),))
        for place in (module, rows):
            monkeypatch.setattr(place, "LONGBENCH", pinned)
        return tmp_path / "data"

    return write


@pytest.fixture
def real() -> Path:
    """Return the data folder that ``$LONGCTX_DATA`` names, for tests marked ``data``."""
    assert REAL is not None
    return Path(REAL).absolute()
