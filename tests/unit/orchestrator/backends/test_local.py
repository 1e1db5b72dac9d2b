"""The local backend with real processes in the place of workers."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from longctx.orchestrator import backends
from longctx.orchestrator.backends import local
from longctx.orchestrator.backends.local import LocalBackend
from longctx.orchestrator.errors import UsageError

WORKER = """
import os, signal, sys, threading, time
folder, task = sys.argv[1], sys.argv[2]
done = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: done.set())
def lifeline():
    while os.read(0, 4096): pass
    open(f"{folder}/{task}.cut", "w").close()
    os._exit(9)
threading.Thread(target=lifeline, daemon=True).start()
with open(f"{folder}/{task}.started", "w") as file:
    file.write(f"{os.getpid()} {os.getsid(0)}")
while not done.is_set() and not os.path.exists(f"{folder}/{task}.end"):
    time.sleep(0.002)
sys.exit(0 if done.is_set() else int(open(f"{folder}/{task}.end").read()))
"""
PATIENCE_SECONDS = 20.0


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.003)


class Workers:
    """What stands in for workers, steered through files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def started(self) -> set[int]:
        return {int(path.stem) for path in self.folder.glob("*.started") if path.read_text()}

    def end(self, task: int, code: int = 0) -> None:
        draft = self.folder / f"{task}.draft"
        draft.write_text(str(code))
        draft.rename(self.folder / f"{task}.end")

    def pid(self, task: int) -> int:
        return int((self.folder / f"{task}.started").read_text().split()[0])


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workers:
    monkeypatch.setattr(local, "worker_command", lambda plan, task: [sys.executable, "-c", WORKER, str(plan), str(task)])
    return Workers(tmp_path)


@pytest.fixture
def make(workers: Workers) -> Iterator[Callable[[int], LocalBackend]]:
    made: list[LocalBackend] = []

    def backend(parallel: int) -> LocalBackend:
        made.append(LocalBackend(parallel))
        return made[-1]

    yield backend
    for one in made:
        one.cancel(now=True)
        until(lambda one=one: set(one.states().values()) <= {"done", "failed"})  # type: ignore[misc]


def test_at_most_so_many_at_once_in_the_order_given(workers: Workers, make: Callable[[int], LocalBackend]) -> None:
    backend = make(2)
    backend.submit(workers.folder, [3, 1, 2])
    until(lambda: workers.started() == {3, 1})
    assert backend.states() == {3: "running", 1: "running", 2: "waiting"}
    workers.end(1)
    until(lambda: backend.states()[2] == "running")
    assert backend.states() == {1: "done", 3: "running", 2: "running"}
    workers.end(3, 1)
    until(lambda: backend.states()[3] == "failed")


def test_a_task_may_be_submitted_again(workers: Workers, make: Callable[[int], LocalBackend]) -> None:
    backend = make(1)
    backend.submit(workers.folder, [1])
    workers.end(1, 5)
    until(lambda: backend.states() == {1: "failed"})
    (workers.folder / "1.end").unlink()
    backend.submit(workers.folder, [1])
    assert backend.states() == {1: "running"}
    workers.end(1)
    until(lambda: backend.states() == {1: "done"})


def test_cancel_asks_what_runs_and_drops_what_waits(workers: Workers, make: Callable[[int], LocalBackend]) -> None:
    backend = make(1)
    backend.submit(workers.folder, [1, 2])
    until(lambda: workers.started() == {1})
    backend.cancel()
    until(lambda: backend.states() == {1: "done", 2: "failed"})
    assert workers.started() == {1}


def test_cancel_now_cuts_the_lifeline(workers: Workers, make: Callable[[int], LocalBackend]) -> None:
    backend = make(1)
    backend.submit(workers.folder, [1])
    until(lambda: workers.started() == {1})
    backend.cancel(now=True)
    until(lambda: backend.states() == {1: "failed"})
    assert (workers.folder / "1.cut").exists()
    backend.cancel(now=True)  # nothing runs any more


def test_cancelling_after_a_worker_died_is_no_error(workers: Workers, make: Callable[[int], LocalBackend]) -> None:
    backend = make(1)
    backend.submit(workers.folder, [1])
    until(lambda: workers.started() == {1})
    os.kill(workers.pid(1), signal.SIGKILL)
    time.sleep(0.05)
    backend.cancel()
    until(lambda: backend.states() == {1: "failed"})


def test_a_worker_has_a_session_of_its_own(workers: Workers, make: Callable[[int], LocalBackend]) -> None:
    """Ctrl-C in the terminal must reach only this process."""
    backend = make(1)
    backend.submit(workers.folder, [1])
    until(lambda: workers.started() == {1})
    pid, session = map(int, (workers.folder / "1.started").read_text().split())
    assert pid == session != os.getsid(0)


PARENT = """
import sys, time
from pathlib import Path
from longctx.orchestrator.backends import local
local.worker_command = lambda plan, task: [sys.executable, "-c", sys.argv[2], str(plan), str(task)]
backend = local.LocalBackend(2)
backend.submit(Path(sys.argv[1]), [1, 2])
time.sleep(60)
"""


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_workers_end_when_their_parent_is_killed_with_9(workers: Workers) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(workers.folder), WORKER]) as parent:
        until(lambda: workers.started() == {1, 2})
        pids = [workers.pid(1), workers.pid(2)]
        parent.kill()
    until(lambda: not any(map(alive, pids)))
    assert (workers.folder / "1.cut").exists()


def test_the_command_of_a_worker() -> None:
    command = local.worker_command(Path("/runs/x/plan.json"), 7)
    assert command[0] == sys.executable
    assert command[1:] == ["-m", "longctx.orchestrator.cli", "worker", "--plan", "/runs/x/plan.json", "--task", "7"]


def test_backends_by_name() -> None:
    assert backends.make("local", 3).name == "local"
    with pytest.raises(UsageError, match=r"Unknown backend 'slrum'\.\nKnown: "):
        backends.make("slrum", 1)
