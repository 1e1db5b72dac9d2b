"""Jobs on this machine, each a ``longctx worker`` subprocess in a session of its own.

The worker's stdin is a pipe that only this process holds: when this process dies, however, the worker sees its end and stops. Ctrl-C
in the terminal reaches only this process, which then asks its workers to stop after the sample in hand.
"""

import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from .base import State


class LocalBackend:
    """Runs up to ``parallel`` workers at once, in the order given."""

    name = "local"

    def __init__(self, parallel: int = 1) -> None:
        self._parallel = parallel
        self._waiting: deque[tuple[int, list[str]]] = deque()
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._ended: dict[int, State] = {}

    def submit(self, plan: Path, tasks: Sequence[int]) -> None:
        """Queue the tasks and start the first."""
        for task in tasks:
            self._ended.pop(task, None)
            self._waiting.append((task, worker_command(plan, task)))
        self._start()

    def states(self) -> dict[int, State]:
        """Reap what ended, start what waits, and say where all stand."""
        for task, process in list(self._running.items()):
            if (code := process.poll()) is not None:
                self._ended[task] = "done" if code == 0 else "failed"
                if process.stdin:
                    process.stdin.close()
                del self._running[task]
        self._start()
        return self._ended | dict.fromkeys(self._running, "running") | {task: "waiting" for task, _ in self._waiting}

    def cancel(self, *, now: bool = False) -> None:
        """Stop the workers: after the sample in hand, or now (their lifelines are cut, which ends their children too)."""
        for task, _ in self._waiting:
            self._ended[task] = "failed"
        self._waiting.clear()
        for process in self._running.values():
            if now and process.stdin:
                process.stdin.close()
            else:
                process.send_signal(signal.SIGTERM)

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._parallel:
            task, command = self._waiting.popleft()
            self._running[task] = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def worker_command(plan: Path, task: int) -> list[str]:
    """Return the command line that every backend starts for one task."""
    return [sys.executable, "-m", "longctx.orchestrator.cli", "worker", "--plan", str(plan), "--task", str(task)]
