"""Following jobs to their end, with a backend that does what the test says; whole runs are in tests/engine."""

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from unit.orchestrator.builders import result, row, summary, verdict

from longctx.orchestrator import run as running
from longctx.orchestrator.backends.base import State
from longctx.orchestrator.contracts.result import Counts
from longctx.orchestrator.progress import JobView, Watcher
from longctx.orchestrator.run import TRIES, Clock, Incomplete, Ran, Stopping, _Watch
from longctx.orchestrator.store import RunFolder, write_document


class Script:
    """A backend: every task goes through the states that the test wrote, one a look, and leaves the verdict it says."""

    name = "script"

    def __init__(self, run: RunFolder, ends: Mapping[int, Sequence[tuple[State, str | None]]]) -> None:
        self.run, self.ends = run, {task: list(rest) for task, rest in ends.items()}
        self.now: dict[int, State] = {}
        self.submitted: list[int] = []
        self.cancelled: list[bool] = []

    def submit(self, plan: Path, tasks: Sequence[int]) -> None:
        self.submitted += tasks
        self.now |= dict.fromkeys(tasks, "running")

    def states(self) -> dict[int, State]:
        for task, state in list(self.now.items()):
            if state == "running" and not self.cancelled and self.ends[task]:
                self.now[task], outcome = self.ends[task].pop(0)
                if outcome is not None:
                    leave(self.run, f"j{task}", outcome)
        return dict(self.now)

    def cancel(self, *, now: bool = False) -> None:
        self.cancelled.append(now)
        self.now = dict.fromkeys(self.now, "done")


def leave(run: RunFolder, job: str, outcome: str) -> None:
    number = len(run.attempts(job)) + 1
    retry = outcome in ("killed", "timeout")
    write_document(run.job(job) / str(number) / "verdict.json", verdict(outcome, number, job=job, retry=retry, next_step="Do this."))


class Bed:
    """Everything a watch needs."""

    def __init__(self, folder: Path, ends: Mapping[int, Sequence[tuple[State, str | None]]]) -> None:
        self.run = RunFolder(folder)
        self.backend = Script(self.run, ends)
        self.names = {task: f"j{task}" for task in ends}
        self.views = {job: JobView(job=job, total=1, labels={}) for job in self.names.values()}
        self.said: list[str] = []
        self.collected = 0
        self.stopping = Stopping()

    def show(self, views: Mapping[str, JobView]) -> None: ...

    def collect(self) -> None:
        self.collected += 1

    def watch(self) -> Ran:
        watcher = Watcher(self.views, self.run.attempts)
        made = _Watch(self.backend, self.run, self.names, watcher, self, self.stopping, self.said.append, self.collect)
        self.backend.submit(self.run.plan, list(self.names))
        return made.until_all_ended()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "POLL_SECONDS", 0.0)


def test_all_went_well(tmp_path: Path) -> None:
    bed = Bed(tmp_path, {0: [("done", "done")], 1: [("running", None), ("done", "done")]})
    ran = bed.watch()
    assert (ran.failed, ran.stopped, bed.said) == ({}, False, [])
    assert [view.state for view in bed.views.values()] == ["done", "done"]


def test_what_the_infrastructure_failed_is_tried_again_with_what_is_there(tmp_path: Path) -> None:
    bed = Bed(tmp_path, {0: [("failed", "killed"), ("done", "done")]})
    assert bed.watch().failed == {}
    assert bed.backend.submitted == [0, 0]
    assert bed.collected == 1, "a second try does only what is left"
    assert bed.said == ["j0: killed Do this.; trying again."]


def test_not_more_often_than_allowed(tmp_path: Path) -> None:
    bed = Bed(tmp_path, {0: [("failed", "timeout")] * (TRIES + 3)})
    ran = bed.watch()
    assert len(bed.backend.submitted) == TRIES
    assert [found.outcome for found in ran.failed.values() if found] == ["timeout"]
    assert bed.views["j0"].state == "failed"


def test_what_a_method_did_is_not_tried_again(tmp_path: Path) -> None:
    bed = Bed(tmp_path, {0: [("failed", "method_raised")], 1: [("done", "done")]})
    ran = bed.watch()
    assert list(ran.failed) == ["j0"]
    assert bed.backend.submitted == [0, 1]
    assert bed.said == ["j0: failed: method raised Do this."]


def test_a_worker_that_died_without_a_word_is_tried_again(tmp_path: Path) -> None:
    """The verdict of an attempt of an earlier run says nothing about this one."""
    leave(RunFolder(tmp_path), "j0", "done")
    bed = Bed(tmp_path, {0: [("failed", None), ("failed", None)]})
    ran = bed.watch()
    assert len(bed.backend.submitted) == TRIES
    assert ran.failed == {"j0": None}
    assert bed.said[0] == "j0: its worker died; trying again."


def test_the_first_wish_to_stop_asks_the_second_insists(tmp_path: Path) -> None:
    bed = Bed(tmp_path, {0: []})
    bed.stopping.asked = 1
    assert bed.watch().stopped
    assert bed.backend.cancelled == [False]
    assert "Ctrl-C again stops at once" in bed.said[0]
    second = Bed(tmp_path, {0: []})
    second.stopping.asked = 2
    second.watch()
    assert second.backend.cancelled == [True]


def test_what_fails_while_it_is_stopped_is_not_tried_again(tmp_path: Path) -> None:
    bed = Bed(tmp_path, {0: [("failed", "killed")]})
    bed.stopping.asked = 1
    ran = bed.watch()
    assert (bed.backend.submitted, ran.failed) == ([0], {})


def test_signals_are_counted_and_given_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Stopping().listening() as stopping:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.asked == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_the_message_of_an_incomplete_run_names_what_is_missing(tmp_path: Path) -> None:
    lacking = result(partial=True, counts=Counts(requests=4, answered=3, scored=3))
    wrong = result(partial=True, counts=Counts(requests=4, answered=4, scored=2, error=2))
    made = summary([row(result=lacking), row("sinks", result=wrong), row("kivi", status="failed", result=None, reason="no answer")])
    told = str(Incomplete(made, RunFolder(tmp_path / "probe"), Ran()))
    assert "full-kv in tf5 on passkey-default: 1 of 4 requests have no answer" in told
    assert "kivi in tf5: no answer" in told
    assert "2 requests ended in an error of the method (`--retry-errors` tries them again)" in told
    assert "longctx logs probe" in told
    failed = Ran(failed={"kv.tf5--tiny": verdict("load_failed", detail="Traceback\nKeyError: x", next_step="Read the log.")})
    told = str(Incomplete(made, RunFolder(tmp_path / "probe"), failed))
    assert "kv.tf5--tiny: load failed (KeyError: x) Read the log." in told


def test_the_clock_adds_up() -> None:
    clock = Clock()
    for part in ("prepare_s", "jobs_s", "prepare_s"):
        with clock.timing(part):
            pass
    found = clock.timeline()
    assert found.prepare_s > 0
    assert found.jobs_s > 0
    assert found.tokenise_s == 0
