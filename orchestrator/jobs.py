"""From a plan to one attempt of a job: ``job.json``, the files it may read, and the ContainerSpec."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from . import batches
from .batches import Sized
from .code import stage
from .contracts.job import Batch, Job, JobCell, JobDevice, Limits, TimingBucket, TimingPass, TokeniseItem
from .contracts.plan import Lock, LockedModel, Plan, PlannedCell, PlannedJob, PlannedTask, TokeniseTask
from .contracts.request import Prompting
from .engines.base import ContainerSpec, Mount
from .environments import find_environment
from .store import RunFolder, digest, lines, plain, write_document, write_lines

_DEFAULT_PROMPTING = plain(Prompting())
RUNNER_ARGUMENTS = ("-m", "runner", "--root", "{root}")


@dataclass(frozen=True)
class Attempt:
    """One try of a job on disk."""

    folder: Path

    @property
    def number(self) -> int:
        """Counts from 1."""
        return int(self.folder.name)

    @property
    def out(self) -> Path:
        """The container's only writable folder."""
        return self.folder / "out"

    @property
    def inputs(self) -> Path:
        """Files made for this attempt, read-only inside."""
        return self.folder / "in"

    @property
    def log(self) -> Path:
        """What the process printed."""
        return self.folder / "log.txt"


def ids_name(model: str, task_key: str, prompting: Mapping[str, Any]) -> str:
    """Return the ids file of a model's prompts, below ``requests/``; a prompting other than the default shows in its name."""
    suffix = "" if prompting == _DEFAULT_PROMPTING else f".{digest(prompting)[:8]}"
    return f"{model}/{task_key}{suffix}.ids"


def sized(path: Path) -> Iterator[Sized]:
    """Yield id, request hash and length of every line of an ids file; one line in memory."""
    for line in lines(path):
        row = json.loads(line)
        yield Sized(row["id"], row["request_sha256"], len(row["ids"]))


@lru_cache(maxsize=64)
def _order(path: Path, modified_ns: int, size: int) -> tuple[Sized, ...]:
    return tuple(sized(path))


def order(path: Path) -> tuple[Sized, ...]:
    """Return what :func:`sized` yields; a file that did not change is read once, however many cells share it."""
    status = path.stat()
    return _order(path, status.st_mtime_ns, status.st_size)


def answered(path: Path, wanted: Mapping[str, str]) -> set[str]:
    """Return the ids whose responses exist already for the very request that is wanted."""
    if not path.exists():
        return set()
    found = set()
    for line in lines(path):
        row = json.loads(line)
        if wanted.get(row["id"]) == row["request_sha256"]:
            found.add(row["id"])
    return found


def timed(path: Path, new_tokens: int) -> set[str]:
    """Return the ids that the timing pass has measured with as many new tokens."""
    return {row["id"] for row in map(json.loads, lines(path)) if row["generated"] == new_tokens} if path.exists() else set()


def new_attempt(run: RunFolder, job: str) -> Attempt:
    """Make the next attempt's folder."""
    earlier = run.attempts(job)
    folder = run.job(job) / str(int(earlier[-1].name) + 1 if earlier else 1)
    (folder / "out").mkdir(parents=True)
    (folder / "in").mkdir()
    return Attempt(folder)


def model_mounts(model: LockedModel, *, weights: bool) -> tuple[Mount, ...]:
    """Return the model's files as mounts; without weights for a job that only needs the tokenizer."""
    folder = Path(model.folder)
    return tuple(
        Mount(source=(folder / file.path).resolve(), target=f"model/{file.path}")
        for file in model.files
        if weights or not file.path.endswith((".safetensors", ".safetensors.index.json"))
    )


def generate(
    run: RunFolder, plan: Plan, lock: Lock, planned: PlannedJob, attempt: Attempt, needed: Mapping[str, Path], cache: Path
) -> ContainerSpec | None:
    """Write ``job.json`` and the inputs of one attempt; return what to start, or None when nothing is missing any more."""
    model = next(model for model in lock.models if model.name == planned.model)
    by_name = {cell.cell: cell for cell in plan.cells}
    tasks = {task.key: task for task in plan.tasks}
    mounts: dict[str, Mount] = {}
    cells = []
    for name in planned.cells:
        cell = by_name[name]
        made = _cell(run, plan, planned, cell, tasks[cell.task], attempt, mounts)
        if made is not None:
            cells.append(made)
    if not cells:
        return None
    job = Job(
        kind="generate", run=plan.run, job=planned.job, attempt=attempt.number, family=planned.family, entry=planned.entry,
        environment=planned.environment, model=model.job, device=planned.device, cells=tuple(cells), limits=planned.limits,
        stream=plan.stream, seed=plan.seed,
    )  # fmt: skip
    return _spec(job, model, attempt, tuple(mounts.values()), stage(cache, needed))


def _cell(
    run: RunFolder, plan: Plan, planned: PlannedJob, cell: PlannedCell, task: PlannedTask, attempt: Attempt, mounts: dict[str, Mount]
) -> JobCell | None:
    ids = ids_name(cell.model, cell.task, plain(cell.prompting))
    requests: Sequence[Sized] = order(run.ids(ids))
    wanted = {request.id: request.request_sha256 for request in requests}
    have = answered(run.cell(cell.cell) / "responses.jsonl", wanted)
    batch_file = attempt.inputs / f"{cell.cell}.batches.jsonl"
    count = write_lines(batch_file, batches.missing(requests, cell.batch, have, planned.shard, planned.shards))
    buckets: tuple[TimingBucket, ...] = ()
    if plan.timing.per_bucket and planned.shard == 0:
        buckets = batches.timing(requests, plan.timing.per_bucket, timed(run.cell(cell.cell) / "timing.jsonl", plan.timing.new_tokens))
    if not count and not buckets:
        return None
    timing = TimingPass(buckets=buckets, new_tokens=plan.timing.new_tokens, out=f"out/{cell.cell}.timing.jsonl") if buckets else None
    return _job_cell(run, cell, task, batch_file, timing, mounts)


def _job_cell(
    run: RunFolder, cell: PlannedCell, task: PlannedTask, batch_file: Path, timing: TimingPass | None, mounts: dict[str, Mount]
) -> JobCell:
    """Return a cell as a job names it, and add the files that it reads to ``mounts``."""
    ids = ids_name(cell.model, cell.task, plain(cell.prompting))
    targets = f"requests/{cell.task}.jsonl", f"requests/{ids}", f"requests/batches/{batch_file.name}"
    for target, source in zip(targets, (run.requests(cell.task), run.ids(ids), batch_file), strict=True):
        mounts[target] = Mount(source=source, target=target)
    return JobCell(
        cell=cell.cell, method=cell.method, policy=cell.policy, params=cell.params, task=task.task, prompting=cell.prompting,
        requests=targets[0], ids=targets[1], batches=targets[2], responses=f"out/{cell.cell}.responses.jsonl", timing=timing,
        config_sha256=cell.config_sha256, code_sha256=cell.code_sha256,
    )  # fmt: skip


def again(
    run: RunFolder, plan: Plan, lock: Lock, earlier: Job, cell: PlannedCell, batch: Batch, attempt: Attempt, needed: Mapping[str, Path],
    cache: Path,
) -> ContainerSpec:  # fmt: skip
    """Write ``job.json`` of one batch of one cell of an ``earlier`` job, whether it is answered or not; return what to start."""
    model = next(model for model in lock.models if model.name == cell.model)
    task = next(task for task in plan.tasks if task.key == cell.task)
    batch_file = attempt.inputs / f"{cell.cell}.batches.jsonl"
    write_lines(batch_file, [batch])
    mounts: dict[str, Mount] = {}
    made = _job_cell(run, cell, task, batch_file, None, mounts)
    job = earlier.model_copy(update={"attempt": attempt.number, "cells": (made,), "stream": False, "model": model.job})
    return _spec(job, model, attempt, tuple(mounts.values()), stage(cache, needed))


def tokenise(run: RunFolder, plan: Plan, lock: Lock, planned: TokeniseTask, attempt: Attempt, cache: Path) -> ContainerSpec:
    """Write ``job.json`` of a tokenising job; return what to start."""
    model = next(model for model in lock.models if model.name == planned.model)
    tasks = {task.key: task for task in plan.tasks}
    items, mounts = [], {}
    for key, prompting, name in planned.items:
        target = f"requests/{key}.jsonl"
        mounts[target] = Mount(source=run.requests(key), target=target)
        items.append(TokeniseItem(task=tasks[key].task, prompting=prompting, requests=target, ids=f"out/{name}"))
    job = Job(
        kind="tokenise", run=plan.run, job=planned.job, attempt=attempt.number, environment=planned.environment, model=model.job,
        device=JobDevice(kind="cpu"), tokenise=tuple(items), limits=Limits(load_s=1800), seed=plan.seed,
    )  # fmt: skip
    return _spec(job, model, attempt, tuple(mounts.values()), stage(cache, {}), weights=False)


def _spec(job: Job, model: LockedModel, attempt: Attempt, mounts: tuple[Mount, ...], code: Path, *, weights: bool = True) -> ContainerSpec:
    """Write job.json; return the container that sees exactly the files the job names."""
    write_document(attempt.folder / "job.json", job)
    return ContainerSpec(
        run=job.run,
        job=job.job,
        attempt=job.attempt,
        environment=find_environment(job.environment).spec,
        device=job.device.kind,
        family=job.family,
        argv=RUNNER_ARGUMENTS,
        mounts=(
            Mount(source=attempt.folder / "job.json", target="job.json"),
            Mount(source=code, target="code"),
            *model_mounts(model, weights=weights),
            *mounts,
            Mount(source=attempt.out, target="out", writable=True),
        ),
        scratch=attempt.folder / "scratch",
        log=attempt.log,
        env={"LONGCTX_LIFELINE": "stdin"},
        gpus=job.device.gpus,
        threads=job.device.threads,
        memory_bytes=job.limits.memory_bytes,
    )
