"""One task on the machine where it was placed: clocks, stops, verdicts."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from unit.orchestrator.builders import CODE, KEY, OTHER_CODE, Bench, cell, lock, plan, record_system

from longctx.orchestrator import devices, engines, jobs, worker
from longctx.orchestrator.catalog import Catalog
from longctx.orchestrator.contracts.job import JobDevice, Limits
from longctx.orchestrator.contracts.manifest import MethodEnvironment
from longctx.orchestrator.contracts.outcome import Isolation, Verdict
from longctx.orchestrator.contracts.plan import LockedEnvironment, PlannedJob, TokeniseTask
from longctx.orchestrator.contracts.request import Prompting
from longctx.orchestrator.engines.base import ContainerSpec, Ended
from longctx.orchestrator.errors import EngineUnavailable, EnvironmentFailed, LongctxError, StorageError
from longctx.orchestrator.events import Tail
from longctx.orchestrator.settings import Settings
from longctx.orchestrator.store import read_document, write_document
from longctx.orchestrator.worker import Clocks, Stop


class Timeline:
    """A clock that stands still until it is told, and the events file that a runner would write."""

    def __init__(self, folder: Path, **limits: float) -> None:
        self.now, self.path = 1000.0, folder / "events.jsonl"
        self.clocks = Clocks(Limits.model_validate(limits), Tail(self.path), lambda: self.now)

    def write(self, event: str, **fields: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"at": 0, "event": event, **fields}) + "\n")

    def went(self, name: str = "c1", phase: str = "respond") -> None:
        self.write("progress", cell=name, phase=phase, done=1, total=9, tokens=1)

    def after(self, seconds: float) -> str | None:
        self.now += seconds
        return self.clocks.expired()


def test_loading_has_a_clock_of_its_own(tmp_path: Path) -> None:
    at = Timeline(tmp_path, load_s=10, sample_s=3)
    assert at.after(9.9) is None
    assert at.after(0.2) == "load_s"


def test_loading_in_time_starts_the_other_clocks(tmp_path: Path) -> None:
    at = Timeline(tmp_path, load_s=10, sample_s=3, cell_s=100)
    at.write("loaded", seconds=9.0)
    assert at.after(9) is None
    assert at.after(2.9) is None
    assert at.after(0.2) == "sample_s"


def test_every_answer_starts_the_sample_s_clock_again(tmp_path: Path) -> None:
    at = Timeline(tmp_path, sample_s=3)
    at.write("loaded", seconds=1.0)
    for phase in ("respond", "respond", "time", "time"):
        at.went(phase=phase)
        assert at.after(2.9) is None
    at.write("warning", message="this is no answer")
    assert at.after(3.1) == "sample_s"


def test_a_cell_s_clock_starts_with_its_first_answer_and_with_the_next_cell(tmp_path: Path) -> None:
    at = Timeline(tmp_path, cell_s=10)
    at.write("loaded", seconds=1.0)
    for seconds in (0, 6, 3):
        at.went()
        assert at.after(seconds) is None
    at.went("c2")
    assert at.after(1) is None
    assert at.after(9) is None
    at.went("c2")
    assert at.after(2) == "cell_s"


def test_no_limits_never_run_out(tmp_path: Path) -> None:
    at = Timeline(tmp_path, load_s=None, sample_s=None, cell_s=None)
    assert at.after(10**9) is None
    at.write("loaded", seconds=1.0)
    at.went()
    assert at.after(10**9) is None


class FakeProcess:
    """A process that does what the test says: ends after some polls, or when it is told to."""

    isolation: Isolation = "partial"
    isolation_detail: Mapping[str, bool] = {"network_none": True}

    def __init__(self, polls: int | None = 1, code: int = 0, heeds: bool = True, oom: bool = False) -> None:
        self.left, self.code, self.heeds, self.oom, self.did = polls, code, heeds, oom, list[str]()

    def poll(self) -> Ended | None:
        if self.left is None:
            return None
        self.left -= 1
        return None if self.left > 0 else Ended(code=self.code, oom_killed=self.oom)

    def terminate(self) -> None:
        self.did.append("terminate")
        if self.heeds:
            self.left, self.code = 1, 75

    def kill(self) -> None:
        self.did.append("kill")
        self.left, self.code = 1, -9

    def __enter__(self) -> "FakeProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.did.append("left")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.0005)


def watch(process: FakeProcess, tmp_path: Path, stop: Stop | None = None, **limits: float) -> tuple[Ended, str | None]:
    return worker._watch(process, Clocks(Limits.model_validate(limits), Tail(tmp_path / "events.jsonl")), stop or Stop())


def test_waiting_for_the_end(tmp_path: Path) -> None:
    process = FakeProcess(polls=5, code=3)
    assert watch(process, tmp_path) == (Ended(code=3), None)
    assert process.did == []


def test_a_wish_to_stop_is_passed_on_once(tmp_path: Path) -> None:
    stop, process = Stop(), FakeProcess(polls=None)
    stop.asked = True
    assert watch(process, tmp_path, stop) == (Ended(code=75), None)
    assert process.did == ["terminate"]


def test_a_cut_lifeline_kills_even_what_does_not_heed(tmp_path: Path) -> None:
    stop, process = Stop(), FakeProcess(polls=None, heeds=False)
    stop.asked = stop.cut = True
    assert watch(process, tmp_path, stop)[0].code == -9
    assert process.did == ["kill"]


def test_a_clock_that_runs_out_kills(tmp_path: Path) -> None:
    process = FakeProcess(polls=None)
    assert watch(process, tmp_path, load_s=0.01) == (Ended(code=-9), "load_s")
    assert process.did == ["kill"]


def test_a_clock_runs_out_for_what_was_asked_to_stop_and_does_not(tmp_path: Path) -> None:
    stop, process = Stop(), FakeProcess(polls=None, heeds=False)
    stop.asked = True
    assert watch(process, tmp_path, stop, load_s=0.01) == (Ended(code=-9), "load_s")
    assert process.did == ["terminate", "kill"]


@pytest.mark.parametrize("content", ["", "{", '{"status": "done"}', "[]", "x" * (2**20 + 1)])
def test_a_last_word_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "exit.json").write_text(content)
    assert worker.last_word(tmp_path) is None


def test_a_last_word_behind_a_link_is_none(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(DONE)
    assert worker.last_word(tmp_path) is None
    (tmp_path / "exit.json").symlink_to(tmp_path / "real")
    assert worker.last_word(tmp_path) is None


DONE = '{"status": "done", "phase": "respond", "reason": "ok"}'
FAILED = '{"status": "failed", "phase": "load", "reason": "cuda_oom", "message": "no room"}'


class FakeEngine:
    """An engine whose process is a fake that leaves what the test says in ``out/``."""

    name = "venv"

    def __init__(self) -> None:
        self.process = FakeProcess()
        self.leaves: dict[str, str] = {"exit.json": DONE}
        self.raises: Exception | None = None
        self.started: list[ContainerSpec] = []

    def prepare(self, *_: object) -> LockedEnvironment:
        if self.raises:
            raise self.raises
        return LockedEnvironment(name="tf5", kind="cpu", engine="venv", spec_sha256="0" * 64, python="3.11.7", packages={})

    def start(self, spec: ContainerSpec) -> FakeProcess:
        self.started.append(spec)
        out = next(mount.source for mount in spec.mounts if mount.writable)
        for name, text in self.leaves.items():
            (out / name).write_text(text)
        return self.process


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    made = FakeEngine()
    monkeypatch.setattr(engines, "make", lambda name, settings: made)
    monkeypatch.setattr(Stop, "listen", lambda self: None)
    monkeypatch.setattr(jobs, "stage", lambda cache, needed: cache)
    monkeypatch.setattr(worker, "_required", lambda plan, planned: {})
    return made


JOB = PlannedJob(
    task=1, job="kv.tf5--tiny", family="kv", environment="tf5", entry="methods.kv.family:Family", model="tiny", cells=(cell().cell,),
    device=JobDevice(kind="cpu"), limits=Limits(sample_s=5),
)  # fmt: skip
TOKENISE = TokeniseTask(task=0, job="tokenise--tiny", model="tiny", environment="tf5", items=((KEY, Prompting(), f"tiny/{KEY}.ids"),))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    write_document(made.run.plan, plan(jobs=(JOB,), tokenise=(TOKENISE,)))
    write_document(made.run.lock, lock())
    return made


def run(bench: Bench, number: int = 1) -> tuple[int, Verdict]:
    code = worker.run_task(bench.run.plan, number, Settings(cache=bench.path / "cache"))
    job = (JOB.job, TOKENISE.job)[number == 0]
    return code, read_document(bench.run.attempts(job)[-1] / "verdict.json", Verdict)


def test_a_task_that_went_well(bench: Bench, engine: FakeEngine) -> None:
    code, verdict = run(bench)
    assert (code, verdict.outcome, verdict.attempt, verdict.exit_code) == (0, "done", 1, 0)
    assert (verdict.isolation, verdict.isolation_detail) == ("partial", {"network_none": True})
    assert engine.process.did == ["left"], "what it left is always removed"
    assert run(bench)[1].attempt == 2


def test_a_tokenising_task(bench: Bench, engine: FakeEngine) -> None:
    assert run(bench, 0)[1].outcome == "done"
    assert engine.started[0].family is None


@pytest.mark.parametrize(
    ("process", "leaves", "outcome", "retry", "detail"),
    [
        (FakeProcess(code=70), {"exit.json": FAILED}, "cuda_oom_loading", False, "no room"),
        (FakeProcess(code=-9), {}, "killed", True, "by signal 9"),
        (FakeProcess(code=137, oom=True), {}, "host_oom", False, "memory limit"),
        (FakeProcess(code=0), {}, "killed", True, "without a last word"),
    ],
)
def test_a_task_that_did_not(
    bench: Bench, engine: FakeEngine, process: FakeProcess, leaves: dict[str, str], outcome: str, retry: bool, detail: str
) -> None:  # fmt: skip
    engine.process, engine.leaves = process, leaves
    code, verdict = run(bench)
    assert (code, verdict.outcome, verdict.retry) == (1, outcome, retry)
    assert detail in verdict.detail
    assert verdict.next_step


def test_a_hostile_output_is_bad_whatever_its_last_word_says(bench: Bench, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    start = engine.start

    def starting(spec: ContainerSpec) -> FakeProcess:
        process = start(spec)
        out = next(mount.source for mount in spec.mounts if mount.writable)
        (out / "link").symlink_to("/etc/passwd")
        return process

    monkeypatch.setattr(engine, "start", starting)
    code, verdict = run(bench)
    assert (code, verdict.outcome) == (1, "bad_output")
    assert "a link: link" in verdict.detail


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (EnvironmentFailed("torch has no wheel"), "environment_failed"), (EngineUnavailable("no answer"), "engine_unavailable"),
        (StorageError("disk full"), "disk_full"), (LongctxError("strange"), "not_started"), (ZeroDivisionError("a fault"), "not_started"),
    ],
)  # fmt: skip
def test_what_goes_wrong_before_the_start_is_a_verdict_too(bench: Bench, engine: FakeEngine, error: Exception, outcome: str) -> None:
    engine.raises = error
    code, verdict = run(bench)
    assert (code, verdict.outcome, verdict.exit_code) == (1, outcome, None)
    assert str(error) in verdict.detail


def test_a_stop_while_waiting_for_a_gpu_starts_nothing(
    bench: Bench, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: (devices.Gpu("GPU-1", "A100", None),))
    monkeypatch.setattr(devices, "LEASE_POLL_SECONDS", 0.001)
    write_document(bench.run.plan, plan(jobs=(JOB.model_copy(update={"gpus": 1}),), tokenise=(TOKENISE,)))
    looks: list[int] = []

    def wanted(self: Stop) -> bool:
        looks.append(1)
        return len(looks) > 3

    monkeypatch.setattr(Stop, "wanted", property(wanted))
    with devices.lease(1, bench.path / "cache"):
        code, verdict = run(bench)
    assert (code, verdict.outcome, engine.started) == (0, "stopped", [])


def test_the_leased_gpus_are_what_the_job_is_told(bench: Bench, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: (devices.Gpu("GPU-1", "A100", None),))
    cuda = JOB.model_copy(update={"gpus": 1, "device": JobDevice(kind="cuda")})
    write_document(bench.run.plan, plan(jobs=(cuda,), tokenise=(TOKENISE,)))
    assert run(bench)[1].outcome == "done"
    assert engine.started[0].gpus == ("GPU-1",)
    assert engine.started[0].env["LONGCTX_KERNELS"] == "keep"
    assert [mount.writable for mount in engine.started[0].mounts if mount.target == "kernels"] == [False]


def test_a_lost_engine_is_tried_once_more(bench: Bench, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(_: object) -> None:
        raise EngineUnavailable("The Docker Engine lost the container.")

    monkeypatch.setattr(FakeProcess, "poll", lost)
    code, verdict = run(bench)
    assert (code, verdict.outcome, verdict.retry, verdict.isolation) == (1, "engine_lost", True, "partial")


def test_a_task_that_the_plan_does_not_have(bench: Bench, engine: FakeEngine) -> None:
    with pytest.raises(LongctxError, match="The plan has no task 9"):
        worker.run_task(bench.run.plan, 9, Settings(cache=bench.path / "cache"))


class _Catalogued:
    """A method as found, as far as a worker looks."""

    def __init__(self, folder: Path) -> None:
        self.name, self.folder = "full-kv", folder
        self.spec = self
        self.environments = (MethodEnvironment(name="tf5", entry="methods.kv.family:Family"),)


@pytest.mark.parametrize(("now", "refused"), [(CODE, False), (OTHER_CODE, True)])
def test_only_the_code_that_was_planned_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, now: str, refused: bool) -> None:
    monkeypatch.setattr(worker, "read_method", _Catalogued)
    monkeypatch.setattr(worker, "folders", lambda environment, folder: {"kv": folder})
    monkeypatch.setattr(worker, "code_digest", lambda needed: now)
    monkeypatch.setattr(worker, "find_catalog", lambda: Catalog(()))
    made = plan(jobs=(JOB,), method_folders=(str(tmp_path),))
    if refused:
        with pytest.raises(LongctxError, match="The code of full-kv changed since the run was planned"):
            worker._required(made, JOB)
    else:
        assert worker._required(made, JOB) == {"kv": tmp_path}
        record_system()
        assert worker._required(made, JOB.model_copy(update={"environment": "system"})) == {"kv": tmp_path}


LISTEN = """
import os, sys, time
from longctx.orchestrator.worker import Stop
stop = Stop()
stop.listen()
print("ready", flush=True)
until = time.monotonic() + 20
while not (stop.asked if sys.argv[1] == "asked" else stop.cut) and time.monotonic() < until:
    time.sleep(0.005)
print(stop.asked, stop.cut, stop.wanted, flush=True)
"""


@pytest.mark.parametrize(("how", "told"), [("asked", "True False True"), ("cut", "False True True")])
def test_stops_are_heard(how: str, told: str) -> None:
    with subprocess.Popen([sys.executable, "-c", LISTEN, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        if how == "asked":
            process.send_signal(signal.SIGTERM)
        else:
            process.stdin.close()
        assert process.stdout.readline().strip() == told


def test_no_standard_input_is_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open() as nothing:
        for stdin in (None, nothing):
            monkeypatch.setattr(sys, "stdin", stdin)
            stop = Stop()
            stop._lifeline()
            assert stop.cut
