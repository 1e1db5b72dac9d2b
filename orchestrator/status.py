"""How runs stand, from their folders alone."""

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cells import answered as read_answered
from .cells import merged
from .contracts.cell import CellState
from .contracts.outcome import Verdict
from .contracts.plan import Plan
from .contracts.result import Summary
from .errors import BadRunFolder
from .events import clean
from .jobs import Attempt
from .settings import Settings
from .store import RunFolder, lines, read_document

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def run_status(run: RunFolder) -> dict[str, Any]:
    """Return a run's cells with what is answered, and its jobs with their attempts."""
    plan = read_document(run.plan, Plan)
    cells = []
    for cell in plan.cells:
        path = run.cell(cell.cell) / "cell.json"
        answered = read_document(path, CellState).answered if path.exists() else 0
        if live := _live(run, cell.cell):
            answered = len(live | set(read_answered(run.cell(cell.cell) / "responses.jsonl").pairs))
        cells.append(
            {
                "cell": cell.cell,
                "label": cell.label,
                "environment": cell.environment,
                "model": cell.model,
                "task": cell.task,
                "requests": cell.requests,
                "answered": min(answered, cell.requests or answered),
                "scored": (run.cell(cell.cell) / "result.json").exists(),
            }
        )
    jobs = [_job(run, job) for job in _jobs(run)]
    return {"run": run.name, "path": str(run.path), "complete": _complete(run), "cells": cells, "jobs": jobs}


def _jobs(run: RunFolder) -> list[str]:
    folder = run.path / "jobs"
    return sorted(child.name for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []


def _live(run: RunFolder, cell: str) -> set[str]:
    """Return ids answered by attempts that are not merged yet."""
    found: set[str] = set()
    for job in _jobs(run):
        for attempt in run.attempts(job):
            path = attempt / "out" / f"{cell}.responses.jsonl"
            if path.is_file() and not path.is_symlink() and cell not in merged(attempt):
                found |= set(filter(None, map(_id, lines(path))))
    return found


def _id(line: bytes) -> str | None:
    """Return the id in a line that a container wrote, if it is one."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    name = row.get("id") if isinstance(row, dict) else None
    return name if isinstance(name, str) else None


def _job(run: RunFolder, job: str) -> Mapping[str, Any]:
    attempts = []
    for folder in run.attempts(job):
        verdict = read_document(folder / "verdict.json", Verdict) if (folder / "verdict.json").exists() else None
        attempts.append(
            {
                "attempt": int(folder.name),
                "outcome": verdict.outcome if verdict else "running or killed",
                "seconds": round(verdict.seconds, 1) if verdict else None,
                "detail": verdict.detail if verdict else "",
                "next_step": verdict.next_step if verdict else "",
                "isolation": verdict.isolation if verdict else None,
            }
        )
    return {"job": job, "attempts": attempts}


def _complete(run: RunFolder) -> bool | None:
    if not run.summary.exists():
        return None
    return read_document(run.summary, Summary).complete


def all_runs(settings: Settings) -> list[dict[str, Any]]:
    """Return every run of the runs folder with its answers counted."""
    rows = []
    for path in sorted(settings.runs.glob("*/plan.json")) if settings.runs.is_dir() else []:
        try:
            state = run_status(RunFolder(path.parent))
        except BadRunFolder as error:
            rows.append({"run": path.parent.name, "cells": 0, "complete": None, "answered": 0, "requests": 0, "damaged": str(error)})
            continue
        rows.append(
            {
                "run": state["run"],
                "cells": len(state["cells"]),
                "complete": state["complete"],
                "answered": sum(cell["answered"] for cell in state["cells"]),
                "requests": sum(cell["requests"] or 0 for cell in state["cells"]),
            }
        )
    return rows


def runs_table(rows: Sequence[Mapping[str, Any]]) -> "Table":
    """Return all runs as a table."""
    from rich.text import Text

    made = _table(("run", "cells", "answered", "state"))
    for row in rows:
        state = {True: "complete", False: "incomplete", None: "not finished"}[row["complete"]]
        damaged = " ".join(str(row["damaged"]).split()) if row.get("damaged") else None
        figures = ("–", "–") if damaged else (str(row["cells"]), f"{row['answered']} of {row['requests']}")
        made.add_row(Text(row["run"]), *figures, Text(f"damaged: {damaged}" if damaged else state))
    return made


def status_table(state: Mapping[str, Any]) -> "list[Table | Text]":
    """Return one run's cells and jobs."""
    from rich.text import Text

    cells = _table(("method", "environment", "model", "task", "answered", "scored"))
    for cell in state["cells"]:
        cells.add_row(
            Text(cell["label"]), cell["environment"], cell["model"], cell["task"], f"{cell['answered']} of {cell['requests']}",
            "yes" if cell["scored"] else "no",
        )  # fmt: skip
    jobs = _table(("job", "attempt", "outcome", "seconds", "detail"))
    for job in state["jobs"]:
        for attempt in job["attempts"]:
            detail = clean(attempt["detail"]).strip().splitlines()
            seconds = str(attempt["seconds"] or "–")
            jobs.add_row(job["job"], str(attempt["attempt"]), attempt["outcome"], seconds, Text(detail[-1] if detail else ""))
    return [Text(f"{state['run']}  {state['path']}"), cells, jobs]


def _table(columns: Sequence[str]) -> "Table":
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        made.add_column(name)
    return made


def job_logs(run: RunFolder, job: str | None, attempt: int | None, count: int) -> Iterator[str]:
    """Yield the end of each wanted log, headed by job, attempt and outcome. Raises BadRunFolder when no job matches."""
    names = [name for name in _jobs(run) if job is None or job in name]
    if not names:
        told = f"Run {run.name} has no job '{job}'." if job else f"Run {run.name} has no jobs yet."
        raise BadRunFolder(told, f"Jobs: {', '.join(_jobs(run)) or 'none'}.")
    for name in names:
        folders = run.attempts(name)
        chosen = [folder for folder in folders if int(folder.name) == attempt] if attempt else folders[-1:]
        for folder in chosen:
            yield from _log(name, folder, count)


def _log(name: str, folder: Path, count: int) -> Iterator[str]:
    verdict = read_document(folder / "verdict.json", Verdict) if (folder / "verdict.json").exists() else None
    yield f"== {name}, attempt {folder.name}: {verdict.outcome if verdict else 'running or killed'}"
    if verdict and verdict.detail:
        yield clean(verdict.detail)
    log = Attempt(folder).log
    if log.exists():
        with log.open(encoding="utf-8", errors="replace") as file:
            yield from (clean(line.rstrip("\n")) for line in deque(file, maxlen=count))
    if verdict and verdict.next_step:
        yield f"-> {verdict.next_step}"
