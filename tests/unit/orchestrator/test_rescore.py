"""Scoring a run again."""

from pathlib import Path

import pytest
from unit.orchestrator.builders import Bench, cell, lock, plan, response, state, task

from longctx.orchestrator import scoring
from longctx.orchestrator.contracts.plan import Absent
from longctx.orchestrator.contracts.result import Result, Summary
from longctx.orchestrator.errors import BadRunFolder, RunLocked
from longctx.orchestrator.rescore import rescore
from longctx.orchestrator.store import locked, read_document, write_document, write_lines

ABSENT = Absent(variant="kivi", model="tiny", task="passkey-default", environment="tf4", kind="not_run", reason="no such Python")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    write_document(made.run.plan, plan((cell(), cell(cell="second", label="second")), absent=(ABSENT,)))
    write_document(made.run.lock, lock())
    return made


def answer(bench: Bench, name: str, finish: str = "stop") -> None:
    write_lines(bench.run.cell(name) / "responses.jsonl", (response(one, finish=finish) for one in "abc"))
    write_document(bench.run.cell(name) / "cell.json", state(cell=name))


def test_all_answers_are_scored_and_the_summary_is_written(bench: Bench) -> None:
    answer(bench, cell().cell)
    answer(bench, "second")
    found = rescore(bench.run)
    assert found.complete
    assert [(row.label, row.status) for row in found.rows] == [("full-kv", "RESCORE"), ("second", "RESCORE"), ("kivi", "not_run")]
    assert read_document(bench.run.summary, Summary) == found
    assert (bench.run.path / "summary.csv").exists()


def test_the_result_carries_the_eval_as_it_is_now(bench: Bench) -> None:
    """The plan was made with an older eval: its hash would make the next plan score once more."""
    answer(bench, cell().cell)
    rescore(bench.run)
    found = read_document(bench.folder() / "result.json", Result)
    assert found.eval_sha256 == scoring.eval_now("passkey/default") != task().eval_sha256


@pytest.mark.parametrize("finish", [None, "error"])
def test_what_is_missing_or_failed_makes_it_incomplete(bench: Bench, finish: str | None) -> None:
    answer(bench, cell().cell)
    if finish:
        answer(bench, "second", finish)
    found = rescore(bench.run)
    assert not found.complete
    assert found.rows[1].status == ("RESCORE" if finish else "failed")


def test_no_answers_say_what_to_run(bench: Bench) -> None:
    with pytest.raises(BadRunFolder, match=r"has no answers yet\.\nRun its manifest first"):
        rescore(bench.run)


def test_a_run_in_use_is_left_alone(bench: Bench) -> None:
    with locked(bench.run.guard, "it"), pytest.raises(RunLocked):
        rescore(bench.run)
