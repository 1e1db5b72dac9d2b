"""How runs stand, told from their folders alone, whatever jobs wrote there."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console
from unit.orchestrator.builders import Bench, cell, plan, response, row, summary, verdict

from longctx.orchestrator import cells, status
from longctx.orchestrator.errors import BadRunFolder
from longctx.orchestrator.settings import Settings
from longctx.orchestrator.store import write_document


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    write_document(made.run.plan, plan())
    return made


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(runs=tmp_path / "runs")


def collect(bench: Bench) -> None:
    cells.collect(bench.run, {cell().cell: cell()})


def answered(bench: Bench) -> int:
    return int(status.run_status(bench.run)["cells"][0]["answered"])


def test_answers_are_counted_before_and_after_they_are_merged(bench: Bench) -> None:
    assert answered(bench) == 0
    bench.attempt([response("a"), response("b")])
    assert answered(bench) == 2
    collect(bench)
    assert answered(bench) == 2
    bench.attempt([response("b"), response("c")], number=2, outcome=None)
    assert answered(bench) == 3, "what stands in both counts once"
    collect(bench)
    assert answered(bench) == 3


def test_what_a_job_wrote_cannot_break_it(bench: Bench) -> None:
    bench.attempt(
        [b"no json\n", b"[]\n", b'{"id": []}\n', b'{"id": 7}\n', b"null\n", b"\xff\n", response("a"), b'{"id": "torn'], outcome=None
    )
    assert answered(bench) == 1
    out = bench.run.job("kv.tf5--tiny") / "1" / "out"
    (out / f"{cell().cell}.responses.jsonl").unlink()
    os.mkfifo(out / f"{cell().cell}.responses.jsonl")
    assert answered(bench) == 0


def test_jobs_and_their_attempts(bench: Bench) -> None:
    bench.attempt([], outcome="killed")
    bench.attempt([], number=2, outcome=None)
    (job,) = status.run_status(bench.run)["jobs"]
    assert [(one["attempt"], one["outcome"], one["seconds"]) for one in job["attempts"]] == [
        (1, "killed", 2.0),
        (2, "running or killed", None),
    ]


def test_complete_is_what_the_summary_says(bench: Bench) -> None:
    assert status.run_status(bench.run)["complete"] is None
    for complete in (True, False):
        write_document(bench.run.summary, summary([row()], complete=complete))
        assert status.run_status(bench.run)["complete"] is complete


def test_all_runs_with_a_damaged_one_among_them(bench: Bench, settings: Settings) -> None:
    bench.attempt([response("a")])
    damaged = settings.runs / "damaged" / "plan.json"
    damaged.parent.mkdir()
    damaged.write_text("{}")
    rows = status.all_runs(settings)
    assert [(one["run"], one["answered"], one["requests"]) for one in rows] == [("damaged", 0, 0), ("probe", 1, 3)]
    out = io.StringIO()
    Console(width=160, file=out).print(status.runs_table(rows))
    assert "damaged: " in out.getvalue()
    assert "1 of 3" in out.getvalue()
    assert "not finished" in out.getvalue()


def test_no_runs_at_all(tmp_path: Path) -> None:
    assert status.all_runs(Settings(runs=tmp_path / "nowhere")) == []


def test_no_run_is_told(tmp_path: Path) -> None:
    from longctx.orchestrator.store import RunFolder

    with pytest.raises(BadRunFolder, match=r"plan\.json does not exist"):
        status.run_status(RunFolder(tmp_path))


def test_the_tables_show_labels_and_details_as_they_are(bench: Bench) -> None:
    attempt = bench.attempt([response("a")])
    write_document(attempt / "verdict.json", verdict("method_raised", detail="Traceback\n\x1b[31m[bold]KeyError[/bold]: x"))
    out = io.StringIO()
    for part in status.status_table(status.run_status(bench.run)):
        Console(width=160, file=out).print(part)
    text = out.getvalue()
    assert "[bold]KeyError[/bold]: x" in text
    assert "\x1b" not in text
    assert "1 of 3" in text


def test_logs_show_the_end_of_the_newest_attempt(bench: Bench) -> None:
    first = bench.attempt([], outcome="killed")
    second = bench.attempt([], number=2)
    (first / "log.txt").write_text("old\n")
    (second / "log.txt").write_bytes(b"one\n\x1b[2Jtwo\xff\nthree\n")
    write_document(second / "verdict.json", verdict("load_failed", detail="why", next_step="Read the log."))
    assert list(status.job_logs(bench.run, None, None, 2)) == [
        "== kv.tf5--tiny, attempt 2: load_failed", "why", "two\ufffd", "three", "-> Read the log.",
    ]  # fmt: skip
    assert list(status.job_logs(bench.run, "kv", 1, 9)) == ["== kv.tf5--tiny, attempt 1: killed", "old"]


def test_logs_of_a_job_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(BadRunFolder, match="has no jobs yet"):
        list(status.job_logs(bench.run, None, None, 5))
    bench.attempt([])
    with pytest.raises(BadRunFolder, match=r"has no job 'x'\.\nJobs: kv\.tf5--tiny"):
        list(status.job_logs(bench.run, "x", None, 5))
