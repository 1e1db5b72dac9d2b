"""How a job may end early: exceptions that carry what ``exit.json`` will say, and the exit codes that go with it."""

from __future__ import annotations

from typing import Any

DONE = 0
BAD_JOB = 64
FAILED = 70
STOPPED = 75
ORPHANED = 111
"""The lifeline broke: whoever started the runner is gone, and nothing is written."""


class Ending(Exception):
    """Ends the job now; what is already written stays."""

    status = "failed"
    code = FAILED

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Failed(Ending):
    """Nothing more can be answered: ``reason`` is one of those that the contract of ``exit.json`` names."""


class BadJob(Ending):
    """``job.json``, or a file it names, is not what the contract says."""

    code = BAD_JOB

    def __init__(self, message: str) -> None:
        super().__init__("bad_job", message)


class Stopped(Ending):
    """Someone asked the runner to stop (SIGTERM)."""

    status = "stopped"
    code = STOPPED

    def __init__(self, *_: Any) -> None:
        super().__init__("sigterm", "stopped on request; what was answered is kept")
