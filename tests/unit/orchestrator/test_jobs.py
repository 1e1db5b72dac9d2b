"""One attempt of a job: what it is told, and what it may read."""

import json
from pathlib import Path
from typing import Any

import pytest
from unit.orchestrator.builders import CONFIG, KEY, Bench, cell, lock, model, plan, request_sha, response, task, timing

from longctx.orchestrator import cells, jobs
from longctx.orchestrator.contracts.job import Batch, Job, JobDevice, Limits
from longctx.orchestrator.contracts.manifest import TimingOptions
from longctx.orchestrator.contracts.plan import LockedFile, PlannedJob, TokeniseTask
from longctx.orchestrator.contracts.request import Prompting
from longctx.orchestrator.engines.base import ContainerSpec
from longctx.orchestrator.store import plain, read_document, read_lines

IDS = f"tiny/{KEY}.ids"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, ["r0", "r1", "r2", "r3", "r4"])


@pytest.fixture(autouse=True)
def _staged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jobs, "stage", lambda cache, needed: tmp_path / "staged")


def planned(**more: Any) -> PlannedJob:
    fields: dict[str, Any] = {
        "task": 0, "job": "kv.tf5--tiny", "family": "kv", "environment": "tf5", "entry": "methods.kv.family:Family", "model": "tiny",
        "cells": (cell().cell,), "device": JobDevice(kind="cpu", threads=2), "limits": Limits(sample_s=5, memory_bytes=2**30), **more,
    }  # fmt: skip
    return PlannedJob.model_validate(fields)


def generate(bench: Bench, one: PlannedJob | None = None, **more: Any) -> ContainerSpec | None:
    whole = more.pop("whole", None) or plan(**more)
    attempt = jobs.new_attempt(bench.run, (one or planned()).job)
    return jobs.generate(bench.run, whole, lock(), one or planned(), attempt, {}, bench.path / "cache")


def job_of(spec: ContainerSpec | None) -> Job:
    assert spec is not None
    return read_document(next(mount.source for mount in spec.mounts if mount.target == "job.json"), Job)


def batches_of(spec: ContainerSpec | None) -> list[Batch]:
    assert spec is not None
    (source,) = [mount.source for mount in spec.mounts if mount.target.startswith("requests/batches/")]
    return list(read_lines(source, Batch))


def answer(bench: Bench, *names: str) -> None:
    number = len(bench.run.attempts("earlier")) + 1
    bench.attempt([response(name) for name in names], job="earlier", number=number)
    cells.collect(bench.run, {cell().cell: cell()})


def test_a_job_names_exactly_what_it_may_read(bench: Bench) -> None:
    spec = generate(bench)
    assert spec is not None
    job = job_of(spec)
    (one,) = job.cells
    targets = {mount.target: mount for mount in spec.mounts}
    assert set(targets) == {"job.json", "code", "out", one.requests, one.ids, one.batches}
    assert [target for target, mount in targets.items() if mount.writable] == ["out"]
    assert not any("references" in str(mount.source) for mount in spec.mounts)
    assert (one.requests, one.ids, one.responses) == (f"requests/{KEY}.jsonl", f"requests/{IDS}", f"out/{cell().cell}.responses.jsonl")
    assert (one.config_sha256, one.task, job.seed, job.attempt) == (CONFIG, "passkey/default", 42, 1)
    assert (spec.memory_bytes, spec.threads, spec.env) == (2**30, 2, {"LONGCTX_LIFELINE": "stdin"})
    assert (spec.argv, spec.log) == (("-m", "runner", "--root", "{root}"), bench.run.job("kv.tf5--tiny") / "1" / "log.txt")


def test_only_what_is_missing_is_asked_for_and_batches_keep_their_members(bench: Bench) -> None:
    answer(bench, "r0", "r3")
    two = cell(batch=2)
    found = batches_of(generate(bench, cells=(two,)))
    assert [(batch.id, batch.members, batch.keep) for batch in found] == [
        (0, ("r0", "r1"), ("r1",)), (1, ("r2", "r3"), ("r2",)), (2, ("r4",), ("r4",)),
    ]  # fmt: skip


def test_an_answer_to_an_older_request_is_missing(bench: Bench) -> None:
    answer(bench, "r0")
    bench.build(bench.names, text="other words")
    assert [batch.keep for batch in batches_of(generate(bench))] == [(f"r{number}",) for number in range(5)]


def test_nothing_missing_starts_nothing(bench: Bench) -> None:
    answer(bench, *bench.names)
    assert generate(bench) is None


def test_a_whole_cell_without_times_is_only_timed(bench: Bench) -> None:
    answer(bench, *bench.names)
    spec = generate(bench, timing=TimingOptions(per_bucket=2, new_tokens=4))
    (one,) = job_of(spec).cells
    assert one.timing is not None
    assert [(bucket.tokens, bucket.requests) for bucket in one.timing.buckets] == [(16, ("r0", "r1"))]
    assert (one.timing.new_tokens, one.timing.out) == (4, f"out/{cell().cell}.timing.jsonl")
    assert batches_of(spec) == []


def test_only_the_first_shard_times(bench: Bench) -> None:
    timing = TimingOptions(per_bucket=1)
    shards = [planned(job=f"j.{shard}", shard=shard, shards=2) for shard in (0, 1)]
    specs = [generate(bench, one, timing=timing) for one in shards]
    assert [job_of(spec).cells[0].timing is not None for spec in specs] == [True, False]
    kept = [[name for batch in batches_of(spec) for name in batch.keep] for spec in specs]
    assert kept == [["r0", "r2", "r4"], ["r1", "r3"]]


def test_two_cells_of_one_task_share_its_files(bench: Bench) -> None:
    other = cell(cell="other", method="streaming-llm", policy="methods.streaming_llm.policy:P", params={"keep": 0.5})
    spec = generate(bench, planned(cells=(cell().cell, "other")), cells=(cell(), other))
    assert spec is not None
    targets = [mount.target for mount in spec.mounts]
    assert len(targets) == len(set(targets))
    assert [one.cell for one in job_of(spec).cells] == [cell().cell, "other"]
    assert job_of(spec).cells[1].params == {"keep": 0.5}


def test_an_ids_file_that_changed_is_read_again(bench: Bench) -> None:
    path = bench.run.ids(IDS)
    first = jobs.order(path)
    assert jobs.order(path) is first
    bench.build(["x"])
    assert [one.id for one in jobs.order(path)] == ["x"]


def test_attempts_count_up(bench: Bench) -> None:
    numbers = [jobs.new_attempt(bench.run, "j").number for _ in range(11)]
    assert numbers == list(range(1, 12))
    assert (bench.run.attempts("j")[-1] / "out").is_dir()


def test_the_name_of_an_ids_file_shows_a_prompting_of_its_own() -> None:
    assert jobs.ids_name("m", "k", plain(Prompting())) == "m/k.ids"
    other = jobs.ids_name("m", "k", plain(Prompting(bos="none")))
    assert other.startswith("m/k.")
    assert other.endswith(".ids")
    assert other not in ("m/k.ids", jobs.ids_name("m", "k", plain(Prompting(bos="double"))))


def test_answers_and_times_that_are_there(tmp_path: Path) -> None:
    wanted = {"a": request_sha("a"), "b": request_sha("b", "other")}
    path = tmp_path / "responses.jsonl"
    assert jobs.answered(path, wanted) == jobs.timed(path, 5) == set()
    path.write_text("".join(response(name).model_dump_json() + "\n" for name in "abc"))
    assert jobs.answered(path, wanted) == {"a"}
    path.write_text("".join(json.dumps(timing(name)) + "\n" for name in "abc"))
    assert jobs.timed(path, 5) == {"a", "b", "c"}
    assert jobs.timed(path, 6) == set()


def test_a_tokenising_job_sees_no_weights(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "blob").touch()
    (tmp_path / "model").mkdir()
    files = ("config.json", "tokenizer.json", "model.safetensors", "model.safetensors.index.json")
    for name in files:
        (tmp_path / "model" / name).symlink_to(tmp_path / "blob")
    one = model(folder=str(tmp_path / "model"), files=tuple(LockedFile(path=name, size=0, sha256="0" * 64) for name in files))
    item = TokeniseTask(task=0, job="tokenise--tiny", model="tiny", environment="tf5", items=((KEY, Prompting(), IDS),))
    attempt = jobs.new_attempt(bench.run, item.job)
    spec = jobs.tokenise(bench.run, plan(tasks=(task(),)), lock(models=(one,)), item, attempt, tmp_path)
    targets = {mount.target: mount.source for mount in spec.mounts}
    assert set(targets) == {"job.json", "code", "out", f"requests/{KEY}.jsonl", "model/config.json", "model/tokenizer.json"}
    assert targets["model/config.json"] == tmp_path / "blob", "links are followed here, not inside"
    job = job_of(spec)
    assert (job.kind, job.device.kind) == ("tokenise", "cpu")
    assert [entry.ids for entry in job.tokenise] == [f"out/{IDS}"]
    whole = {mount.target for mount in jobs.model_mounts(one, weights=True)}
    assert whole == {f"model/{name}" for name in files}
