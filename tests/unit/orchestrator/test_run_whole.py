"""Whole runs on a simulated host: what is run again, what is kept, and what a person is told."""

import os
import signal
from pathlib import Path

import pytest
from unit.orchestrator.builders import record_system
from unit.orchestrator.simulated import Killed, Simulated

from longctx.evals import registry
from longctx.orchestrator import scoring, system, worker, world
from longctx.orchestrator.contracts.result import Summary
from longctx.orchestrator.errors import EnvironmentFailed, Interrupted, ManifestError, ModelError
from longctx.orchestrator.rescore import rescore
from longctx.orchestrator.run import Incomplete
from longctx.orchestrator.store import RunFolder, read_document


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Simulated:
    return Simulated(tmp_path, monkeypatch)


FOUR = ["w20-d0.1-r0", "w20-d0.9-r0", "w40-d0.1-r0", "w40-d0.9-r0"]
BOTH = [(method, name) for method in ("full-kv", "streaming-llm") for name in FOUR]


def test_a_run_is_complete_and_a_second_one_runs_nothing(host: Simulated) -> None:
    found = host()
    assert host.asked == BOTH
    assert (found.complete, found.description, len(found.rows)) == (True, "what this is about", 2)
    assert read_document(host.settings.runs / "probe" / "summary.json", Summary) == found
    before = {path: path.read_bytes() for path in (host.settings.runs / "probe" / "cells").rglob("*") if path.is_file()}
    again = host()
    assert (host.asked, host.timed) == ([], [])
    assert "Nothing to run" in host.said
    assert {row.status for row in again.rows} == {"REUSE"}
    assert before == {path: path.read_bytes() for path in (host.settings.runs / "probe" / "cells").rglob("*") if path.is_file()}
    assert set(host.plan().values()) == {"REUSE"}


@pytest.mark.parametrize(
    ("old", "new", "asked"),
    [
        ("[20, 40]", "[20, 30, 40]", ["w30-d0.1-r0", "w30-d0.9-r0"]),
        ("repeats: 1", "repeats: 2", [name.replace("r0", "r1") for name in FOUR]),
        ("[0.1, 0.9]", "[0.1, 0.5, 0.9]", ["w20-d0.5-r0", "w40-d0.5-r0"]),
    ],
    ids=["length", "repeat", "depth"],
)
def test_a_longer_task_runs_only_what_is_new(host: Simulated, old: str, new: str, asked: list[str]) -> None:
    host()
    first = host.answers()
    host.edit(old, new)
    assert set(host.plan().values()) == {"EXTEND"}
    assert host().complete
    assert sorted(host.asked) == sorted((method, name) for method in ("full-kv", "streaming-llm") for name in asked)
    for cell, lines in host.answers().items():
        assert set(first[cell].splitlines()) < set(lines.splitlines())


def test_a_shorter_task_and_back_runs_nothing(host: Simulated) -> None:
    host()
    host.edit("[20, 40]", "[40]")
    found = host()
    assert host.asked == []
    assert {row.result.counts.requests for row in found.rows if row.result} == {2}
    host.edit("[40]", "[20, 40]")
    assert host().complete
    assert host.asked == []


def test_another_variant_runs_alone(host: Simulated) -> None:
    host()
    host.edit("keep: [0.25]", "keep: [0.25, 0.5]")
    assert sorted(host.plan().values()) == ["NEW", "REUSE", "REUSE"]
    host()
    assert host.asked == [("streaming-llm", name) for name in FOUR]


def test_other_scoring_code_only_scores_again(host: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    host()
    before = host.answers()
    monkeypatch.setattr(type(registry.get("passkey")), "code", lambda self: (Path(__file__),))
    assert set(host.plan().values()) == {"RESCORE"}
    found = host()
    assert host.asked == []
    assert host.answers() == before
    assert {row.result.eval_sha256 for row in found.rows if row.result} == {scoring.eval_now("passkey/default")}
    assert set(host.plan().values()) == {"REUSE"}


def other_code(monkeypatch: pytest.MonkeyPatch, mark: str) -> None:
    for module in (world, worker):
        monkeypatch.setattr(module, "code_digest", lambda needed: mark * 64)


def test_other_method_code_runs_again_and_keeps_what_was(host: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    host()
    before = host.answers()
    other_code(monkeypatch, "7")
    assert set(host.plan().values()) == {"STALE"}
    host()
    assert host.asked == BOTH
    aside = host.settings.runs / "probe" / "aside"
    assert sorted(path.read_bytes() for path in aside.glob("*/responses.jsonl")) == sorted(before.values())


def test_accepted_code_is_accepted_for_good(host: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    host()
    other_code(monkeypatch, "7")
    assert set(host.plan(accept_code=True).values()) == {"RESCORE"}
    host(accept_code=True)
    assert host.asked == []
    assert set(host.plan().values()) == {"REUSE"}, "it is not asked for again"
    host.edit("[20, 40]", "[20, 40, 60]")
    host()
    assert len(host.asked) == 4
    other_code(monkeypatch, "8")
    assert set(host.plan().values()) == {"STALE"}


def test_fresh_runs_everything_and_loses_nothing(host: Simulated) -> None:
    host()
    for number in (1, 2):
        host(fresh=True)
        assert host.asked == BOTH
        assert len(list((host.settings.runs / "probe" / "aside").iterdir())) == 2 * number
    host()
    assert host.asked == []


def test_fresh_after_a_change_of_the_manifest_takes_no_old_answer(host: Simulated) -> None:
    """The old attempt holds a cell that the manifest no longer has; what it holds of the others must not win over new answers."""
    host()
    host.edit("  - method: streaming-llm\n    params: {keep: [0.25]}\n", "")
    host.errors = {FOUR[0]}
    with pytest.raises(Incomplete):
        host(fresh=True)
    assert host.asked == BOTH[:4]
    assert b'"finish":"error"' in next(iter(lines for cell, lines in host.answers().items() if cell.startswith("full-kv")))


def test_errors_stay_until_they_are_tried_again(host: Simulated) -> None:
    host.errors = {FOUR[1]}
    with pytest.raises(Incomplete, match=r"2 requests ended in an error of the method \(`--retry-errors`"):
        host()
    host.errors = set()
    with pytest.raises(Incomplete):
        host()
    assert host.asked == []
    assert host(retry_errors=True).complete
    assert host.asked == [("full-kv", FOUR[1]), ("streaming-llm", FOUR[1])]


def test_errors_of_a_sibling_run_are_tried_again_too(host: Simulated) -> None:
    host.errors = {FOUR[1]}
    with pytest.raises(Incomplete):
        host()
    host.errors = set()
    assert host(name="other", retry_errors=True).complete
    assert host.asked == [("full-kv", FOUR[1]), ("streaming-llm", FOUR[1])]


@pytest.mark.parametrize(("step", "batch"), [(1, 1), (2, 3), (3, 3)])
def test_killed_again_and_again_it_ends_with_the_same_bytes(host: Simulated, step: int, batch: int) -> None:
    host.edit("device: cpu", f"device: cpu, batch: {batch}")
    host()
    whole = host.answers()
    (host.settings.runs / "probe").rename(host.folder / "elsewhere")
    asked: list[tuple[str, str]] = []
    for _ in range(20):
        host.limit = step
        try:
            host()
        except Killed:
            asked += host.asked
            continue
        asked += host.asked
        break
    assert host.answers() == whole
    assert sorted(asked) == sorted(BOTH), "nothing is answered twice"


def test_a_second_try_within_a_run_keeps_the_answers_of_the_first(host: Simulated) -> None:
    host.outcomes = ["killed", "done"]
    assert host().complete
    assert host.asked == BOTH, "the first try answered all before it was killed"


def test_a_sibling_run_gives_what_it_has(host: Simulated) -> None:
    host()
    host.edit("[20, 40]", "[20, 40, 60]")
    found = host(name="other")
    assert found.complete
    assert {name for _, name in host.asked} == {"w60-d0.1-r0", "w60-d0.9-r0"}
    assert all(len(lines.splitlines()) == 4 for lines in host.answers().values()), "the first run is as it was"
    host(name="third")
    assert host.asked == []


def test_a_renamed_model_runs_nothing(host: Simulated) -> None:
    host()
    before = host.answers()
    host.edit("name: tiny", "name: renamed")
    assert host().complete
    assert host.asked == []
    assert {cell for cell in host.answers() if "--renamed--" in cell}
    assert set(before.values()) == set(host.answers().values())


def test_changed_parameters_make_a_new_cell_and_leave_the_old(host: Simulated) -> None:
    host()
    before = host.answers()
    host.edit("keep: [0.25]", "keep: [0.75]")
    host()
    assert host.asked == [("streaming-llm", name) for name in FOUR]
    assert before.items() < host.answers().items()


def test_an_environment_that_cannot_be_had_is_told_in_its_row(host: Simulated) -> None:
    host.edit("  - method: full-kv\n", "  - method: full-kv\n  - method: full-kv\n    environment: tf4.40\n")
    host.unavailable = {"tf4.40"}
    found = host()
    assert found.complete
    assert [(row.environment, row.status, row.reason) for row in found.rows if row.result is None] == [
        ("tf4.40", "not_run", "no Python for tf4.40 Install one."),
    ]  # fmt: skip


def test_the_hosts_own_python_serves_the_same_manifest_and_rows_say_so(host: Simulated) -> None:
    record_system()
    rows = host().rows
    assert {(row.environment, row.locked) for row in rows} == {("system", False)} and all(row.result for row in rows)
    assert {(row.environment, row.locked) for row in rescore(RunFolder(host.settings.runs / "probe")).rows} == {("system", False)}
    host()
    assert not host.asked, "what was answered there is kept"
    system.forget()
    assert {(row.environment, row.locked) for row in host().rows} == {("tf5", True)}
    assert host.asked, "another environment is another configuration"


def test_no_environment_at_all_is_an_error(host: Simulated) -> None:
    host()
    host.unavailable = {"tf5"}
    host.edit("[20, 40]", "[20, 21]")
    with pytest.raises((EnvironmentFailed, ModelError), match="no Python for tf5"):
        host()


def test_a_wrong_manifest_writes_nothing(host: Simulated) -> None:
    host.edit("full-kv", "full-vk")
    with pytest.raises(ManifestError, match="did you mean 'full-kv'"):
        host()
    assert not host.settings.runs.exists()
    assert not host.settings.cache.exists()


def test_a_job_that_cannot_load_fails_its_cells_with_the_reason(host: Simulated) -> None:
    host.outcomes = ["load_failed"]
    with pytest.raises(Incomplete, match=r"kv\.tf5--tiny: load failed Do this\.") as caught:
        host()
    assert {row.status for row in caught.value.summary.rows} == {"failed"}
    assert not caught.value.summary.complete
    assert host().complete


def test_ctrl_c_keeps_what_is_answered_and_says_how_to_resume(host: Simulated) -> None:
    host.on_answer = lambda: os.kill(os.getpid(), signal.SIGINT) if len(host.asked) == 3 else None
    with pytest.raises(Interrupted, match=r"8 of 8 answers are kept in .*\nResume: longctx run m\.yaml"):
        host(command="longctx run m.yaml")
    host.on_answer = lambda: None
    assert host().complete
    assert host.asked == []


def test_times_of_another_machine_are_measured_again(host: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    host()
    monkeypatch.setattr(world.devices, "hardware", lambda kind: "Another processor")
    assert set(host.plan().values()) == {"EXTEND"}
    host()
    assert (host.asked, len(host.timed)) == ([], 2)


def test_the_lock_says_what_it_resolved_to(host: Simulated) -> None:
    host()
    text = (host.settings.runs / "probe" / "lock.json").read_text()
    assert '"spec_sha256"' in text
    assert '"random:tiny-llama"' in text
    assert (host.settings.runs / "probe" / "manifest.yaml").read_text() == (host.folder / "m.yaml").read_text()
