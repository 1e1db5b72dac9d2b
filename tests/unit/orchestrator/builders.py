"""Small factories with defaults that fit together: a run folder whose task, cell, jobs and answers agree unless a test says otherwise."""

import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longctx.orchestrator import jobs, system
from longctx.orchestrator.batches import Sized
from longctx.orchestrator.contracts.cell import CellState
from longctx.orchestrator.contracts.job import Batch, Job, JobCell, JobDevice, JobModel, TimingBucket, TimingPass
from longctx.orchestrator.contracts.manifest import TimingOptions
from longctx.orchestrator.contracts.outcome import Environment, Verdict
from longctx.orchestrator.contracts.plan import Lock, LockedModel, Plan, PlannedCell, PlannedTask
from longctx.orchestrator.contracts.request import Ids, Prompting, Reference, Request
from longctx.orchestrator.contracts.response import Response
from longctx.orchestrator.contracts.result import CellBytes, Counts, Interval, Result, Row, Speed, Summary
from longctx.orchestrator.engines.host import Run
from longctx.orchestrator.store import RunFolder, canonical, digest, plain, write, write_document, write_lines

TASK = "passkey/default"
KEY = "passkey-default"
CONFIG = "c" * 64
CODE = "d" * 64
OTHER_CODE = "e" * 64
HARDWARE = "A processor"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def request(name: str, text: str = "some words") -> Request:
    return Request.model_validate({"id": name, "segments": [{"role": "context", "text": text}], "max_new_tokens": 8})


def request_sha(name: str, text: str = "some words") -> str:
    return digest(plain(request(name, text)))


def reference(name: str, answer: str = "12345", **more: Any) -> Reference:
    return Reference.model_validate({"id": name, "answers": (answer,), "cluster": name, **more})


def given(ids: Sequence[int]) -> str:
    return hashlib.sha256(b"".join(one.to_bytes(4, "little") for one in ids)).hexdigest()


def ids(name: str, tokens: int = 10, text: str = "some words") -> Ids:
    numbers = tuple(range(3, 3 + tokens))
    return Ids(
        id=name, request_sha256=request_sha(name, text), ids=numbers, spans=(), truncated=0, given_sha256=given(numbers), stop_ids=(2,)
    )


def sized(name: str, tokens: int = 10) -> Sized:
    return Sized(name, request_sha(name), tokens)


def response(name: str, text: str = "12345", finish: str = "stop", **more: Any) -> Response:
    row: dict[str, Any] = {
        "id": name, "request_sha256": request_sha(name), "text": text if finish in ("stop", "length") else "", "finish": finish,
        "tokens": {"given": 10, "truncated": 0, "generated": 3}, "given_sha256": ids(name).given_sha256,
        "fed_sha256": ids(name).given_sha256, "batch": {"id": 0, "size": 1}, "time": {"prefill_s": 0.1, "decode_s": 0.2},
        "memory": {"weights": 1000, "peak": None}, "kv": None, "oom": {"phase": "prefill", "tokens": 7} if finish == "oom" else None,
        "error": {"type": "ValueError", "message": "no"} if finish == "error" else None, **more,
    }  # fmt: skip
    return Response.model_validate(row)


def kv(device: int | None = 100, full: int | None = 400, **more: Any) -> dict[str, Any]:
    parts = {"dense": device} if device is not None else None
    return {"at": "prefill", "logical": 10, "held": 5.0, "device": parts, "host": None, "analytic": 90, "full": full, **more}


def timing(name: str, bucket: int = 16, decode_s: float = 1.0, **more: Any) -> dict[str, Any]:
    return {
        "id": name, "bucket": bucket, "given": 10, "generated": 5, "time": {"prefill_s": 0.5, "decode_s": decode_s},
        "memory": {"weights": 1000, "peak": 50}, **more,
    }  # fmt: skip


def environment(cpu: str | None = HARDWARE, gpus: Sequence[str] = ()) -> Environment:
    return Environment(
        python="3.11.0", platform="linux", versions={"torch": "2.0"}, attention="sdpa", cpu=cpu, gpus=tuple({"name": gpu} for gpu in gpus)
    )


def verdict(outcome: str = "done", attempt: int = 1, **more: Any) -> Verdict:
    row: dict[str, Any] = {
        "job": "kv.tf5--tiny", "attempt": attempt, "outcome": outcome, "retry": False, "charged": False, "exit_code": 0,
        "started_at": 1.0, "seconds": 2.0, "engine": "venv", "isolation": "partial", **more,
    }  # fmt: skip
    return Verdict.model_validate(row)


def cell(**more: Any) -> PlannedCell:
    row: dict[str, Any] = {
        "cell": "full-kv.tf5--tiny--passkey-default--cccccccccc", "label": "full-kv", "variant": "full-kv", "method": "full-kv",
        "params": {}, "model": "tiny", "task": KEY, "environment": "tf5", "family": "kv", "policy": None, "prompting": Prompting(),
        "config_sha256": CONFIG, "code_sha256": CODE, "status": "NEW", "reason": "not run yet", "requests": 3, "missing": 3, **more,
    }  # fmt: skip
    return PlannedCell.model_validate(row)


def task(**more: Any) -> PlannedTask:
    row: dict[str, Any] = {"key": KEY, "task": TASK, "params": {}, "eval_sha256": "f" * 64, "requests": 3, **more}
    return PlannedTask.model_validate(row)


def model(name: str = "tiny", **more: Any) -> LockedModel:
    row: dict[str, Any] = {
        "name": name, "source": "random:tiny-llama", "revision": None, "identity_sha256": "a" * 64, "folder": "/nowhere",
        "architecture": "LlamaForCausalLM",
        "config": {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64, "num_hidden_layers": 3, "width": 7}, "files": (),
        "job": JobModel(name=name, path="model", dtype="float32", window=4096), "environment": "tf5", **more,
    }  # fmt: skip
    return LockedModel.model_validate(row)


def plan(cells: Sequence[PlannedCell] = (), **more: Any) -> Plan:
    row: dict[str, Any] = {
        "run": "probe", "engine": "venv", "backend": "local", "seed": 42, "device": "cpu", "timing": TimingOptions(per_bucket=0),
        "tasks": (task(),), "cells": tuple(cells or (cell(),)), **more,
    }  # fmt: skip
    return Plan.model_validate(row)


def lock(**more: Any) -> Lock:
    row: dict[str, Any] = {
        "run": "probe", "longctx": "0", "created_at": 1.0, "models": (model(),), "environments": (), "methods": (),
        "tasks": (task(),), **more,
    }  # fmt: skip
    return Lock.model_validate(row)


def state(**more: Any) -> CellState:
    row: dict[str, Any] = {
        "cell": cell().cell, "config_sha256": CONFIG, "codes": (CODE,), "answered": 3, "covers_sha256": "0" * 64, **more,
    }  # fmt: skip
    return CellState.model_validate(row)


def result(**more: Any) -> Result:
    one = cell()
    row: dict[str, Any] = {
        "cell": one.cell, "label": one.label, "variant": one.variant, "method": one.method, "params": {}, "model": one.model,
        "model_source": "random:tiny-llama", "task": TASK, "task_key": KEY, "environment": "tf5", "prompting": Prompting(),
        "config_sha256": CONFIG, "code_sha256": CODE, "eval_sha256": "f" * 64, "references_sha256": "1" * 64, "responses_sha256": "2" * 64,
        "metric": "exact", "counts": Counts(requests=4, answered=4, scored=4), "partial": False,
        "scores": {"exact": Interval(n=4, mean=0.75, low=0.25, high=1.0, zeros=0.75)},
        "kv": CellBytes(at="prefill", device=2**20, host=None, analytic=2**20, full=4 * 2**20, ratio=4.0, ratio_analytic=4.0),
        "speed": Speed(), "weights": 1000, "isolation": "partial", "engine": "venv", "seed": 42, **more,
    }  # fmt: skip
    return Result.model_validate(row)


def row(label: str = "full-kv", **more: Any) -> Row:
    fields: dict[str, Any] = {
        "label": label,
        "model": "tiny",
        "task": KEY,
        "environment": "tf5",
        "status": "NEW",
        "result": result(),
        **more,
    }
    return Row.model_validate(fields)


def summary(rows: Iterable[Row], **more: Any) -> Summary:
    fields: dict[str, Any] = {
        "run": "probe", "description": "", "longctx": "0", "finished_at": 1.0, "complete": True, "rows": tuple(rows), **more,
    }  # fmt: skip
    return Summary.model_validate(fields)


HELD = {"torch": "2.12.0+cu128", "transformers": "5.23.1", "numpy": "2.3.0"}
"""What the Python of a simulated host holds."""


def answering(**changes: Any) -> Run:
    """Return a host's Python that says what it holds, whatever it is asked."""
    answer = {"python": "3.12.4", "packages": HELD, "torch_record_sha256": "b" * 64, "torch_cuda": "12.8"} | changes
    return lambda argv: subprocess.CompletedProcess(list(argv), 0, json.dumps(answer) + "\n", "")


def record_system(like: str = "tf5", **more: Any) -> system.Recorded:
    """Record a Python as this host's; ``changes`` are in what it says of itself."""
    return system.record(like, more.pop("python", "/host/python"), run=answering(**more.pop("changes", {})), **more)


@dataclass
class Bench:
    """A run folder with one task of the given requests, tokenised."""

    path: Path
    names: Sequence[str] = ("c", "a", "b")
    run: RunFolder = field(init=False)

    def __post_init__(self) -> None:
        self.run = RunFolder(self.path / "runs" / "probe")
        self.build(self.names)

    def build(self, names: Sequence[str], text: str = "some words") -> None:
        """(Re)build the task's requests, references and ids."""
        write(self.run.requests(KEY), b"".join(canonical(plain(request(name, text))) + b"\n" for name in names))
        write_lines(self.run.references(KEY), (reference(name) for name in names))
        write_lines(self.run.ids(jobs.ids_name("tiny", KEY, plain(Prompting()))), (ids(name, text=text) for name in names))

    def folder(self, planned: PlannedCell | None = None) -> Path:
        return self.run.cell((planned or cell()).cell)

    def attempt(
        self, answers: Iterable[Response | bytes], *, number: int = 1, job: str = "kv.tf5--tiny", asked: Sequence[str] | None = None,
        timings: Iterable[Mapping[str, Any]] = (), outcome: str | None = "done", cpu: str | None = HARDWARE, **cell_fields: Any,
    ) -> Path:  # fmt: skip
        """Write one attempt of a job as its worker and its runner would; ``outcome`` None is one that was killed."""
        folder = self.run.job(job) / str(number)
        (folder / "out").mkdir(parents=True)
        name = cell_fields.get("cell", cell().cell)
        timed = [row["id"] for row in timings]
        buckets = (TimingBucket(tokens=16, warmup=timed[0], requests=tuple(timed)),) if timed else ()
        fields: dict[str, Any] = {
            "cell": name, "method": "full-kv", "params": {}, "task": TASK, "prompting": Prompting(), "requests": "requests/r.jsonl",
            "ids": "requests/r.ids", "batches": f"requests/batches/{name}.batches.jsonl", "responses": f"out/{name}.responses.jsonl",
            "timing": TimingPass(buckets=buckets, new_tokens=5, out=f"out/{name}.timing.jsonl") if buckets else None,
            "config_sha256": CONFIG, "code_sha256": CODE, **cell_fields,
        }  # fmt: skip
        write_document(
            folder / "job.json",
            Job(
                kind="generate",
                run="probe",
                job=job,
                attempt=number,
                family="kv",
                entry="methods.kv.family:Family",
                environment="tf5",
                model=model().job,
                device=JobDevice(kind="cpu"),
                cells=(JobCell.model_validate(fields),),
            ),
        )
        wanted = asked if asked is not None else self.names
        write_lines(folder / "in" / f"{name}.batches.jsonl", (Batch(id=n, members=(one,), keep=(one,)) for n, one in enumerate(wanted)))
        lines = [one if isinstance(one, bytes) else one.model_dump_json().encode() + b"\n" for one in answers]
        (folder / "out" / f"{name}.responses.jsonl").write_bytes(b"".join(lines))
        if timed:
            (folder / "out" / f"{name}.timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in timings))
        write_document(folder / "out" / "environment.json", environment(cpu))
        if outcome is not None:
            write_document(folder / "verdict.json", verdict(outcome, number, job=job))
        return folder
