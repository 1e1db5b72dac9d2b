"""One request again: which cell, which batch, which job, and what is left where."""

import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from unit.orchestrator.builders import CODE, OTHER_CODE, Bench, cell, lock, plan, response

from longctx.orchestrator import debug, engines, jobs
from longctx.orchestrator.contracts.job import Batch, Job
from longctx.orchestrator.contracts.outcome import Isolation
from longctx.orchestrator.contracts.plan import LockedEnvironment
from longctx.orchestrator.debug import Wanted
from longctx.orchestrator.engines.base import ContainerSpec, Debuggable, Ended
from longctx.orchestrator.engines.docker.engine import DockerEngine
from longctx.orchestrator.engines.venv import VenvEngine
from longctx.orchestrator.errors import BadRunFolder, RunIncomplete, UsageError
from longctx.orchestrator.settings import Settings
from longctx.orchestrator.store import read_document, read_lines, write_document

DONE = '{"status": "done", "phase": "respond", "reason": "ok"}'
FAILED = '{"status": "failed", "phase": "load", "reason": "load_failed", "message": "no \\u001b[31msuch file"}'


class FakeProcess:
    """Prints in two pieces and leaves what it is told."""

    isolation: Isolation = "full"
    isolation_detail: Mapping[str, bool] = {}

    def __init__(self, spec: ContainerSpec, engine: "FakeEngine") -> None:
        self.spec, self.engine, self.polls = spec, engine, 0

    def poll(self) -> Ended | None:
        self.polls += 1
        with self.spec.log.open("a") as log:
            log.write("loading\nha" if self.polls == 1 else "lf\n")
        if self.polls == 1:
            return None
        out = next(mount.source for mount in self.spec.mounts if mount.writable)
        for name, text in self.engine.leaves.items():
            (out / name).write_text(text)
        return Ended(code=self.engine.code)

    def terminate(self) -> None:
        """Nobody asks."""

    kill = terminate

    def __enter__(self) -> "FakeProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.left += 1


class FakeEngine:
    """An engine that keeps containers."""

    name = "docker"

    def __init__(self) -> None:
        self.leaves = {"exit.json": DONE, f"{cell().cell}.responses.jsonl": response("b").model_dump_json() + "\n"}
        self.code = self.left = 0
        self.specs: list[ContainerSpec] = []
        self.names: list[str | None] = []

    def unavailable(self) -> str | None:
        return None

    def find(self, *_: object) -> None:
        return None

    def prepare(self, *_: object) -> LockedEnvironment:
        return LockedEnvironment(name="tf5", kind="cpu", engine="docker", spec_sha256="0" * 64, python="3.11.7", packages={})

    def start(self, spec: ContainerSpec, *, keep: str | None = None) -> FakeProcess:
        self.specs.append(spec)
        self.names.append(keep)
        return FakeProcess(spec, self)

    def interact(self, spec: ContainerSpec, *, keep: str) -> int:
        self.specs.append(spec)
        self.names.append(keep)
        return 3

    def kept(self, keep: str) -> tuple[str, ...]:
        return f"look {keep}", f"remove {keep}"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    made = FakeEngine()
    monkeypatch.setattr(engines, "make", lambda name, settings: made)
    monkeypatch.setattr(debug, "method_code", lambda *_: ({}, []))
    monkeypatch.setattr(jobs, "stage", lambda cache, needed: cache / "code")
    return made


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    write_document(made.run.plan, plan(cells=[cell(batch=2)]))
    write_document(made.run.lock, lock())
    made.attempt([])
    return made


def start(bench: Bench, **wanted: object) -> tuple[str, list[str]]:
    out, told = io.StringIO(), list[str]()
    asked = Wanted(**{"cell": "full-kv", **wanted})  # type: ignore[arg-type]
    debug.debug(bench.run, asked, Settings(cache=bench.path / "cache"), told.append, out)
    return out.getvalue(), told


def test_both_engines_can_be_debugged_in() -> None:
    assert isinstance(VenvEngine(Settings()), Debuggable) and isinstance(DockerEngine(Settings()), Debuggable)


def test_the_log_then_the_response_are_shown_and_what_stays_is_named(bench: Bench, engine: FakeEngine) -> None:
    out, told = start(bench, request="b")
    assert out.startswith("loading\nhalf\n{\n") and '"id": "b"' in out
    assert engine.left == 1
    name = engine.names[0]
    assert name is not None and name.startswith("longctx-debug-probe-")
    assert told[-2:] == [f"  look {name}", f"  remove {name}"]


def test_the_job_is_the_planned_batch_below_debug_and_nothing_else_changes(bench: Bench, engine: FakeEngine) -> None:
    before = {path: path.read_bytes() for path in bench.run.path.rglob("*") if path.is_file()}
    start(bench, request="b")
    start(bench, request="b")
    assert {path: path.read_bytes() for path in before} == before
    assert not bench.folder().exists()
    place = bench.run.path / "debug" / cell().cell
    assert sorted(path.name for path in place.iterdir()) == ["1", "2"]
    job = read_document(place / "2" / "job.json", Job)
    earlier = read_document(bench.run.attempts("kv.tf5--tiny")[0] / "job.json", Job)
    assert (job.attempt, job.entry, job.family, job.limits, job.seed) == (2, earlier.entry, earlier.family, earlier.limits, earlier.seed)
    [batch] = read_lines(place / "2" / "in" / f"{cell().cell}.batches.jsonl", Batch)
    assert batch.keep == ("b",) and set(batch.members) == {"a", "b"}
    spec = engine.specs[1]
    assert [mount.target for mount in spec.mounts if mount.writable] == ["out"]
    assert spec.env["LONGCTX_LIFELINE"] == "stdin" and spec.argv == jobs.RUNNER_ARGUMENTS


def test_the_first_request_is_taken_when_none_is_named(bench: Bench) -> None:
    assert debug.find_batch(bench.run, cell(), None).keep == ("c",)


def test_a_request_that_is_not_there_lists_those_that_are(bench: Bench) -> None:
    with pytest.raises(UsageError, match=r"no request 'z'. There are:\n  c\n  a\n  b"):
        debug.find_batch(bench.run, cell(), "z")


def test_prompts_that_are_not_tokenised_are_told(bench: Bench) -> None:
    with pytest.raises(BadRunFolder, match="are not there"):
        debug.find_batch(bench.run, cell(model="other"), None)


def test_a_cell_is_found_by_name_label_or_a_unique_part() -> None:
    cells = [cell(cell="kivi-2--tiny", label="kivi{bits: 2}"), cell(cell="kivi-2--tiny-long", label="kivi{bits: 4}")]
    assert debug.find_cell(cells, "kivi-2--tiny") is cells[0]
    assert debug.find_cell(cells, "kivi{bits: 4}") is cells[1]
    assert debug.find_cell(cells, "long") is cells[1]
    with pytest.raises(UsageError, match=r"2 cells are called 'kivi':\n  kivi-2--tiny\n  kivi-2--tiny-long"):
        debug.find_cell(cells, "kivi")
    with pytest.raises(UsageError, match=r"No cell is called 'h2o'. There are:\n  kivi-2--tiny"):
        debug.find_cell(cells, "h2o")


def test_a_long_list_of_candidates_is_cut() -> None:
    cells = [cell(cell=f"c{number:03}") for number in range(50)]
    with pytest.raises(UsageError, match="… and 30 more"):
        debug.find_cell(cells, "c0")


def test_the_newest_job_that_had_the_cell_is_repeated(bench: Bench) -> None:
    folder = bench.attempt([], number=2)
    os.utime(bench.run.attempts("kv.tf5--tiny")[0] / "job.json", (1, 1))
    bench.attempt([], number=1, job="other", cell="another")
    assert debug.earlier_job(bench.run, plan(), cell()).attempt == int(folder.name) == 2


def test_a_cell_that_never_ran_here_says_where_its_answers_are(bench: Bench) -> None:
    with pytest.raises(BadRunFolder, match="longctx debug /elsewhere/other unseen"):
        debug.earlier_job(bench.run, plan(), cell(cell="unseen", source="/elsewhere/other"))


def test_a_job_that_failed_says_why_and_is_kept_all_the_same(bench: Bench, engine: FakeEngine) -> None:
    engine.leaves, engine.code = {"exit.json": FAILED}, 70
    with pytest.raises(RunIncomplete, match=r"load_failed: no such file \(exit code 70\)"):
        start(bench)
    assert engine.left == 1


def test_a_link_that_a_job_leaves_is_refused(bench: Bench, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def poll(self: FakeProcess) -> Ended:
        next(mount.source for mount in self.spec.mounts if mount.writable).joinpath("x").symlink_to("/etc/passwd")
        return Ended(code=0)

    monkeypatch.setattr(FakeProcess, "poll", poll)
    with pytest.raises(RunIncomplete, match="it holds a link: x"):
        start(bench)


def test_changed_code_is_told_and_run(bench: Bench, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert CODE != OTHER_CODE
    monkeypatch.setattr(debug, "method_code", lambda *_: ({}, ["full-kv"]))
    _, told = start(bench)
    assert told[0] == "The code of full-kv changed since the run was planned; this is today's."


def test_a_shell_takes_the_runner_s_place_and_nothing_else(bench: Bench, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    start(bench)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    _, told = start(bench, shell=True)
    job, shell = engine.specs
    assert "The shell ended with 3." in told
    assert shell.argv[:2] == ("-c", debug.SHELL) and shell.argv[2] == "{root}"
    assert "LONGCTX_LIFELINE" not in shell.env
    assert [mount.target for mount in shell.mounts] == [mount.target for mount in job.mounts]
    assert (shell.memory_bytes, shell.pids, shell.gpus, shell.device) == (job.memory_bytes, job.pids, job.gpus, job.device)


def test_a_shell_without_a_terminal_is_refused_before_anything_is_made(
    bench: Bench, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(UsageError, match="needs a terminal"):
        start(bench, shell=True)
    assert not (bench.run.path / "debug").exists() and not engine.specs
