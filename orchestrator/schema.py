"""The JSON schemas of every document, made from the contracts. ``longctx schema --write`` writes them, a test fails when they drift."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from .contracts.cell import CellState
from .contracts.job import Batch, Job
from .contracts.manifest import EnvironmentSpec, Manifest, MethodSpec, ModelsFile
from .contracts.outcome import Environment, Event, Exit, Verdict
from .contracts.plan import Lock, Plan
from .contracts.request import Ids, Reference, Request
from .contracts.response import Response, Timing
from .contracts.result import Result, Score, Summary
from .errors import UsageError
from .manifest.problems import nearest
from .settings import Settings

FOLDER = Path(__file__).parent / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

DOCUMENTS: Mapping[str, Any] = {
    "batch": Batch,
    "cell": CellState,
    "environment": Environment,
    "environment-spec": EnvironmentSpec,
    "event": Event,
    "exit": Exit,
    "ids": Ids,
    "job": Job,
    "lock": Lock,
    "manifest": Manifest,
    "method": MethodSpec,
    "models": ModelsFile,
    "plan": Plan,
    "reference": Reference,
    "request": Request,
    "response": Response,
    "result": Result,
    "score": Score,
    "settings": Settings,
    "summary": Summary,
    "timing": Timing,
    "verdict": Verdict,
}
"""Document name to its type: a whole file, or one line of a JSON-lines file."""


def adapter(name: str) -> TypeAdapter[Any]:
    """Return what validates and writes documents of this name. Raises UsageError for an unknown one."""
    if name not in DOCUMENTS:
        near = nearest(name, DOCUMENTS)
        raise UsageError(
            f"no document is called {name!r}" + (f"; did you mean {near!r}?" if near else ""), f"There are: {', '.join(DOCUMENTS)}."
        )
    return TypeAdapter(DOCUMENTS[name])


def generate(name: str) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a document. Raises UsageError for an unknown name."""
    return {"$schema": DIALECT, **adapter(name).json_schema(mode="validation")}


def file_of(name: str, folder: Path = FOLDER) -> Path:
    """Return where the schema of a document is kept."""
    return folder / f"{name}.schema.json"


def text_of(name: str) -> str:
    """Return the schema as it is committed: sorted keys, so that it changes only with the contract."""
    return json.dumps(generate(name), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write_all(folder: Path = FOLDER) -> tuple[Path, ...]:
    """Write every schema into ``folder`` and remove those of documents that are no more. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = tuple(file_of(name, folder) for name in DOCUMENTS)
    for name, path in zip(DOCUMENTS, files, strict=True):
        path.write_text(text_of(name), encoding="utf-8")
    for stale in set(folder.glob("*.schema.json")) - set(files):
        stale.unlink()
    return files
