"""The failure table."""

from typing import get_args

import pytest

from longctx.orchestrator.contracts.outcome import Exit, Outcome
from longctx.orchestrator.engines.base import Ended
from longctx.orchestrator.failure import RULES, judge


def word(status: str, reason: str, message: str = "why") -> Exit:
    return Exit.model_validate({"status": status, "phase": "respond", "reason": reason, "message": message})


DONE = word("done", "ok", "")
TABLE = [
    # how it ended, last word, clock, stopping -> outcome, part of the detail
    (None, None, None, False, "not_started", ""),
    (Ended(code=0), DONE, None, False, "done", ""),
    (Ended(code=0), DONE, None, True, "done", ""),
    (Ended(code=-11), DONE, None, False, "done", "ended with -11 after its last word"),
    (Ended(code=-9), DONE, "sample_s", False, "done", "ended with -9"),
    (Ended(code=-9), None, "load_s", False, "timeout", "the load_s limit ran out"),
    (Ended(code=-9), None, "cell_s", True, "timeout", "cell_s"),
    (Ended(code=-9, oom_killed=True), None, None, False, "host_oom", "memory limit"),
    (Ended(code=137, oom_killed=True), None, None, True, "host_oom", "memory limit"),
    (Ended(code=70), word("failed", "cuda_oom"), None, False, "cuda_oom_loading", "why"),
    (Ended(code=70), word("failed", "gpu_lost"), None, False, "gpu_lost", "why"),
    (Ended(code=70), word("failed", "disk_full"), None, False, "disk_full", "why"),
    (Ended(code=70), word("failed", "method_raised"), None, False, "method_raised", "why"),
    (Ended(code=70), word("failed", "load_failed"), None, False, "load_failed", "why"),
    (Ended(code=64), word("failed", "bad_job"), None, False, "load_failed", "why"),
    (Ended(code=70), word("failed", "method_raised"), None, True, "method_raised", "why"),
    (Ended(code=75), word("stopped", "sigterm"), None, True, "stopped", "why"),
    (Ended(code=75), word("stopped", "sigterm"), None, False, "killed", "SIGTERM"),
    (Ended(code=111), None, None, True, "stopped", ""),
    (Ended(code=-15), None, None, True, "stopped", ""),
    (Ended(code=-9), None, None, False, "killed", "by signal 9"),
    (Ended(code=1), None, None, False, "killed", "exit code 1 without a last word"),
    (Ended(code=0), None, None, False, "killed", "exit code 0 without a last word"),
]


@pytest.mark.parametrize(("ended", "last", "clock", "stopping", "outcome", "detail"), TABLE)
def test_judgement(ended: Ended | None, last: Exit | None, clock: str | None, stopping: bool, outcome: Outcome, detail: str) -> None:
    found, told = judge(ended, last, timed_out=clock, stopping=stopping)
    assert found == outcome
    assert detail in told


def test_every_outcome_has_a_rule_with_a_next_step() -> None:
    assert set(RULES) == set(get_args(Outcome))
    assert all(rule.next_step.endswith(".") for outcome, rule in RULES.items() if outcome != "done")


def test_only_what_the_infrastructure_did_is_tried_again() -> None:
    assert {outcome for outcome, rule in RULES.items() if rule.retry} == {"timeout", "gpu_lost", "engine_lost", "killed", "not_started"}
