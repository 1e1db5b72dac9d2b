"""Reads ``job.json``: a plain dictionary with light checks. The host has validated it against the contract already."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .ending import BadJob

VERSION = 1
KINDS = ("generate", "tokenise", "count")
CELL = ("cell", "method", "params", "requests", "ids", "batches", "responses")
ITEM = ("task", "prompting", "requests", "ids")


@dataclass(frozen=True)
class Job:
    """A job and the folder it speaks of."""

    root: Path
    data: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """``generate``, ``tokenise`` or ``count``."""
        return str(self.data["kind"])

    @property
    def model(self) -> Mapping[str, Any]:
        """The model's entry."""
        return self.data["model"]  # type: ignore[no-any-return]

    @property
    def device(self) -> Mapping[str, Any]:
        """The device's entry."""
        return self.data["device"]  # type: ignore[no-any-return]

    @property
    def seed(self) -> int:
        """What every batch is seeded with."""
        return int(self.data.get("seed", 0))

    def inside(self, relative: Any) -> Path:
        """Return a path below the root. Raises BadJob when it would lead elsewhere."""
        parts = str(relative).split("/")
        if not isinstance(relative, str) or "\\" in relative or "\0" in relative or any(not part or part.startswith(".") for part in parts):
            raise BadJob(f"job.json: {relative!r} is not a path below the root; give names joined by '/', none starting with a dot")
        return self.root.joinpath(*parts)

    def output(self, relative: Any) -> Path:
        """Return a path below ``out/``, the only folder that can be written."""
        path = self.inside(relative)
        if str(relative).split("/")[0] != "out" or path.parent == self.root:
            raise BadJob(f"job.json: {relative!r} would be written, so it must lie below out/")
        return path


def read(root: Path) -> Job:
    """Read and check ``job.json``. Raises BadJob with the place and what would be right."""
    path = root / "job.json"
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise BadJob(f"job.json cannot be read in the root: {error.strerror}") from error
    except ValueError as error:
        raise BadJob(f"job.json is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise BadJob("job.json holds no object")
    if data.get("schema_version", VERSION) != VERSION:
        raise BadJob(f"job.json has schema_version {data['schema_version']!r}; this runner reads {VERSION}: both must be of one longctx")
    if data.get("kind") not in KINDS:
        raise BadJob(f"job.json: kind is {data.get('kind')!r}; it must be one of {', '.join(KINDS)}")
    need(data, "job.json", ("model", "device"))
    need(data["model"], "job.json: model", ("name", "path", "dtype", "window"))
    need(data["device"], "job.json: device", ("kind",))
    if data["device"]["kind"] not in ("cpu", "cuda"):
        raise BadJob(f"job.json: device.kind is {data['device']['kind']!r}; it must be cpu or cuda")
    job = Job(root, data)
    written: set[Path] = set()
    if job.kind == "generate":
        if ":" not in str(data.get("entry") or ""):
            raise BadJob(f"job.json: entry is {data.get('entry')!r}; it must be 'module:attribute'")
        for number, cell in enumerate(data.get("cells", ())):
            _cell(job, cell, f"job.json: cells[{number}]", written)
    elif job.kind == "tokenise":
        for number, item in enumerate(data.get("tokenise", ())):
            where = f"job.json: tokenise[{number}]"
            need(item, where, ITEM)
            job.inside(item["requests"])
            _writes(job.output(item["ids"]), where, written)
    return job


def need(data: Any, where: str, keys: tuple[str, ...]) -> None:
    """Raise BadJob unless ``data`` is an object with all keys."""
    missing = [key for key in keys if key not in data] if isinstance(data, dict) else list(keys)
    if missing:
        raise BadJob(f"{where} lacks {', '.join(missing)}")


def _writes(path: Path, where: str, written: set[Path]) -> None:
    if path in written:
        raise BadJob(f"{where}: {path.name} is written by two parts of this job; every output has one writer")
    written.add(path)


def _cell(job: Job, cell: Any, where: str, written: set[Path]) -> None:
    need(cell, where, CELL)
    for key in ("requests", "ids", "batches"):
        job.inside(cell[key])
    _writes(job.output(cell["responses"]), where, written)
    if cell.get("timing"):
        need(cell["timing"], f"{where}.timing", ("buckets", "new_tokens", "out"))
        _writes(job.output(cell["timing"]["out"]), where, written)
