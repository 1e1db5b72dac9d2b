"""Requests and references of a task, built once per (eval code, parameters, seed) and kept in the cache with an index."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from ..evals import registry
from ..evals.base import BuildContext, DataMissing, ReadsData
from . import tasks
from .cells import covers
from .contracts.plan import LockedModel, PlannedTask
from .errors import DataError
from .manifest.selected import SelectedEval
from .plan import TaskFacts
from .settings import Settings
from .store import RunFolder, digest, file_digest, lines, link_or_copy, write

Lend = Callable[[LockedModel], AbstractContextManager[Callable[[Sequence[str]], Sequence[int]]]]


def needs_tokenizer(selected: SelectedEval) -> bool:
    """Whether every model gets requests of its own, because lengths are given in tokens."""
    name, _, task = selected.task.partition("/")
    return registry.get(name).needs_tokenizer(task, selected.params)


def folder_of(selected: SelectedEval, settings: Settings, seed: int, locked: LockedModel | None) -> Path:
    """Return where the task is kept, whether it is there or not."""
    name, _, task = selected.task.partition("/")
    one = registry.get(name)
    tokenizer = [file.sha256 for file in locked.files if not file.path.endswith(".safetensors")] if locked else None
    parts = [tasks.eval_sha256(one, task), task, dict(selected.params), seed, tokenizer]
    if isinstance(one, ReadsData):
        parts.append([_stamp(settings.data, path) for path in one.reads(task, selected.params)])
    key = digest(parts)
    return settings.cache / "tasks" / key[:24]


def _stamp(data: Path | None, path: str) -> list[str | int] | None:
    """Tell one state of a data file from another without reading it; whatever is built from it anew is the same or wrong."""
    try:
        file = (data or Path()) / path
        status = file.stat()
    except OSError:
        return None
    return [str(file.resolve()), status.st_size, status.st_mtime_ns, status.st_ino]


def facts(
    selected: SelectedEval, settings: Settings, seed: int, *, model: str | None, locked: LockedModel | None, build: bool, count: Lend | None
) -> TaskFacts:
    """Return what is known of a task; with ``build`` make what is missing. ``model`` is given for a task of lengths in tokens."""
    name, _, task = selected.task.partition("/")
    one = registry.get(name)
    key = f"{selected.key}.{model}" if model else selected.key
    sha256 = tasks.eval_sha256(one, task)
    requests: int | None
    if model and locked is None:
        return TaskFacts(planned=_planned(selected, key, sha256, _size(selected, settings)), covers=None)
    folder = folder_of(selected, settings, seed, locked)
    fetch = None
    if build and not (folder / "index.json").exists() and (count is not None or not model):
        try:
            _build(selected, settings, seed, folder, locked, count)
        except DataMissing as error:
            if count is not None:  # a run cannot go on without it; a plan names the command and lists what else there is
                raise DataError(str(error), f"Mend it with: {error.command}") from error
            fetch = error.command
    index = json.loads((folder / "index.json").read_bytes()) if (folder / "index.json").exists() else None
    requests = index["requests"] if index else _size(selected, settings)
    planned = _planned(selected, key, sha256, requests, fetch)
    if index is None:
        return TaskFacts(planned=planned, covers=None)
    return TaskFacts(planned=planned, covers=index["covers"], references_sha256=index["references_sha256"], folder=folder)


def _planned(selected: SelectedEval, key: str, sha256: str, requests: int | None, fetch: str | None = None) -> PlannedTask:
    return PlannedTask(
        key=key, task=selected.task, params=dict(selected.params), eval_sha256=sha256, requests=requests, fetch=fetch, note=selected.note
    )


def _size(selected: SelectedEval, settings: Settings) -> int | None:
    name, _, task = selected.task.partition("/")
    return registry.get(name).size(task, selected.params, settings.data).requests


def _build(selected: SelectedEval, settings: Settings, seed: int, folder: Path, locked: LockedModel | None, count: Lend | None) -> None:
    name, _, task = selected.task.partition("/")
    one = registry.get(name)
    if locked is not None and count is not None:
        with count(locked) as counter:
            context = BuildContext(seed=seed, data=settings.data, count=counter)
            written = tasks.write_task(one, task, selected.params, context, folder, "task")
    else:
        written = tasks.write_task(one, task, selected.params, BuildContext(seed=seed, data=settings.data), folder, "task")
    write(
        folder / "index.json",
        json.dumps({"requests": written, "covers": covers(pairs(folder)), "references_sha256": file_digest(references(folder))}),
    )


def requests(folder: Path) -> Path:
    """Return the requests file of a kept task."""
    return folder / "requests" / "task.jsonl"


def references(folder: Path) -> Path:
    """Return the references file of a kept task."""
    return folder / "references" / "task.jsonl"


def pairs(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (id, request hash) of every request."""
    for line in lines(requests(folder)):
        row = json.loads(line)
        yield row["id"], digest(row)


def place(task: TaskFacts, run: RunFolder) -> None:
    """Put a task's requests and references into a run's folder."""
    if task.folder is not None:
        link_or_copy(requests(task.folder), run.requests(task.planned.key))
        link_or_copy(references(task.folder), run.references(task.planned.key))
