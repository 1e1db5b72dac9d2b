"""A host without processes: ``execute`` as it is, an engine that makes nothing, a backend whose jobs answer at once as they are told."""

import hashlib
import io
import json
import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from unit.orchestrator.builders import HARDWARE, environment, given, verdict

from longctx.orchestrator import backends, devices, jobs, run, tasks, worker, world
from longctx.orchestrator.backends.base import State
from longctx.orchestrator.contracts.job import Batch, Job, JobCell
from longctx.orchestrator.contracts.manifest import EnvironmentSpec
from longctx.orchestrator.contracts.plan import Lock, LockedEnvironment, Plan, PlannedJob
from longctx.orchestrator.contracts.result import Summary
from longctx.orchestrator.errors import EnvironmentFailed
from longctx.orchestrator.plan import Options
from longctx.orchestrator.run import RunOptions
from longctx.orchestrator.settings import Settings
from longctx.orchestrator.store import RunFolder, digest, read_document, read_lines, write_document

MANIFEST = """
name: probe
description: what this is about
models: [{name: tiny, source: 'random:tiny-llama', dtype: float32}]
methods:
  - method: full-kv
  - method: streaming-llm
    params: {keep: [0.25]}
evals:
  - task: passkey/default
    params: {lengths: {words: [20, 40]}, depths: [0.1, 0.9], repeats: 1}
resources: {device: cpu}
timing: {per_bucket: 1, new_tokens: 4}
engine: venv
"""


class Killed(BaseException):
    """What stands for kill -9 of everything: no verdict is written, and no handler runs."""


class Simulated:
    """The host. ``asked`` lists what jobs were asked for since it was last cleared."""

    name = "venv"

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.settings = Settings(cache=folder / "cache", runs=folder / "runs", data=folder / "data")
        self.text = MANIFEST
        self.asked: list[tuple[str, str]] = []
        self.timed: list[tuple[str, str]] = []
        self.errors: set[str] = set()
        self.limit: int | None = None
        """Answers until everything is killed."""
        self.outcomes: list[str] = []
        """Of the next generating tasks; done when there are no more."""
        self.unavailable: set[str] = set()
        self.on_answer: Callable[[], None] = lambda: None
        self.said = ""
        self._states: dict[int, State] = {}
        monkeypatch.setattr(world, "choose_engine", lambda wanted, settings: self)
        monkeypatch.setattr(backends, "make", lambda name, parallel: self)
        monkeypatch.setattr(devices, "hardware", lambda kind: HARDWARE)
        monkeypatch.setattr(run, "POLL_SECONDS", 0.0)
        monkeypatch.setattr(jobs, "stage", lambda cache, needed: cache)  # nothing runs it
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nobody pulls the plug here

    # The engine's part.

    def prepare(self, spec: EnvironmentSpec, device: str, report: object) -> LockedEnvironment:
        if spec.name in self.unavailable:
            raise EnvironmentFailed(f"no Python for {spec.name}", "Install one.")
        return LockedEnvironment.model_validate(
            {"name": spec.name, "kind": device, "engine": "venv", "spec_sha256": digest(spec.name), "python": "3.11.0", "packages": {}}
        )

    def find(self, spec: EnvironmentSpec, device: str) -> LockedEnvironment | None:
        return None

    # The backend's part.

    def submit(self, path: Path, numbers: Sequence[int]) -> None:
        folder = RunFolder(path.parent)
        plan, lock = read_document(path, Plan), read_document(folder.lock, Lock)
        for number in numbers:
            self._states[number] = self._task(folder, plan, lock, number)

    def states(self) -> dict[int, State]:
        return dict(self._states)

    def cancel(self, *, now: bool = False) -> None:
        self._states = dict.fromkeys(self._states, "done")

    def _task(self, folder: RunFolder, plan: Plan, lock: Lock, number: int) -> State:
        task = worker._task(plan, number)
        attempt = jobs.new_attempt(folder, task.job)
        outcome = "done"
        if isinstance(task, PlannedJob):
            outcome = self.outcomes.pop(0) if self.outcomes else "done"
            spec = jobs.generate(folder, plan, lock, task, attempt, worker._required(plan, task), self.settings.cache)
            if spec is not None and outcome != "load_failed":
                self._generate(folder, plan, attempt)
        else:
            jobs.tokenise(folder, plan, lock, task, attempt, self.settings.cache)
            for key, _, name in task.items:
                self._tokenise(folder.requests(key), attempt.out / name)
        found = verdict(outcome, attempt.number, job=task.job, retry=outcome == "killed", next_step="Do this.")
        write_document(attempt.folder / "verdict.json", found)
        return "done" if outcome == "done" else "failed"

    def _tokenise(self, requests: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for request in tasks.read_requests(requests):
            ids = [int(hashlib.sha256(word.encode()).hexdigest()[:6], 16) for word in request.prompt.split()]
            row = {"id": request.id, "request_sha256": tasks.request_sha256(request), "ids": ids, "spans": [], "truncated": 0}
            lines.append(json.dumps({**row, "given_sha256": given(ids), "stop_ids": [2]}) + "\n")
        target.write_text("".join(lines))

    def _generate(self, folder: RunFolder, plan: Plan, attempt: jobs.Attempt) -> None:
        job = read_document(attempt.folder / "job.json", Job)
        write_document(attempt.out / "environment.json", environment())
        for cell in job.cells:
            self._cell(folder, attempt, cell)

    def _cell(self, folder: RunFolder, attempt: jobs.Attempt, cell: JobCell) -> None:
        ids = {json.loads(line)["id"]: json.loads(line) for line in (folder.path / cell.ids).read_text().splitlines()}
        with (attempt.folder / cell.responses).open("a") as file:
            for batch in read_lines(attempt.inputs / f"{cell.cell}.batches.jsonl", Batch):
                for name in batch.keep:
                    if self.limit is not None and self.limit <= 0:
                        raise Killed
                    self.limit = None if self.limit is None else self.limit - 1
                    file.write(json.dumps(self._response(cell, batch, ids[name])) + "\n")
                    file.flush()
                    self.asked.append((cell.method, name))
                    self.on_answer()
        if cell.timing:
            with (attempt.folder / cell.timing.out).open("a") as file:
                for bucket in cell.timing.buckets:
                    for name in bucket.requests:
                        self.timed.append((cell.method, name))
                        file.write(json.dumps(self._timing(name, bucket.tokens)) + "\n")

    def _response(self, cell: JobCell, batch: Batch, row: dict[str, Any]) -> dict[str, Any]:
        failed = row["id"] in self.errors
        return {
            "id": row["id"], "request_sha256": row["request_sha256"], "text": "" if failed else f"{cell.method} says {row['id']}",
            "finish": "error" if failed else "stop", "error": {"type": "ValueError", "message": "no"} if failed else None,
            "tokens": {"given": len(row["ids"]), "truncated": 0, "generated": 3}, "given_sha256": row["given_sha256"],
            "fed_sha256": row["given_sha256"], "batch": {"id": batch.id, "size": len(batch.members)},
            "time": {"prefill_s": 0.1, "decode_s": 0.2}, "memory": {"weights": 1000, "peak": None},
            "kv": {"at": "prefill", "logical": 10, "held": 5.0, "device": {"dense": 100}, "analytic": 100, "full": 400},
        }  # fmt: skip

    def _timing(self, name: str, bucket: int) -> dict[str, Any]:
        return {
            "id": name, "bucket": bucket, "given": 10, "generated": 4, "time": {"prefill_s": 0.5, "decode_s": 1.0},
            "memory": {"weights": 1000, "peak": None},
        }  # fmt: skip

    # What a person does.

    def edit(self, old: str, new: str) -> None:
        assert old in self.text
        self.text = self.text.replace(old, new)

    def __call__(self, **options: Any) -> Summary:
        path = self.folder / "m.yaml"
        path.write_text(textwrap.dedent(self.text))
        self.asked, self.timed, self._states = [], [], {}
        out = io.StringIO()
        try:
            return run.execute(RunOptions(manifest=path, **options), self.settings, Console(file=out, width=200))
        finally:
            self.said = out.getvalue()

    def plan(self, **options: Any) -> dict[str, str]:
        """Return each cell's status by label, as ``longctx plan`` would say."""
        path = self.folder / "m.yaml"
        path.write_text(textwrap.dedent(self.text))
        here = world.look(world.read(path, self.settings), self.settings, "venv", lambda line: None, fetch=False)
        folder = RunFolder(self.settings.runs / here.loaded.manifest.name)
        made = world.make_plan(here, world.facts(here, build=True), folder, Options(run=folder.name, **options))
        return {cell.label: cell.status for cell in made.cells}

    def answers(self, name: str = "probe") -> dict[str, bytes]:
        found = (self.settings.runs / name / "cells").glob("*/responses.jsonl")
        return {path.parent.name: path.read_bytes() for path in found}
