"""``longctx score RUN``: the same answers, scored again."""

import time

from .. import __version__
from . import aggregates, scoring
from .contracts.plan import Lock, Plan
from .contracts.result import Row, Summary
from .errors import BadRunFolder
from .report import write_summary
from .store import RunFolder, locked, read_document


def rescore(run: RunFolder) -> Summary:
    """Score every cell that has answers and write the summary anew. Raises ScoreRefused, BadRunFolder, RunLocked."""
    with locked(run.guard, f"Run {run.name}"):
        plan, lock = read_document(run.plan, Plan), read_document(run.lock, Lock)
        models = {model.name: model for model in lock.models}
        tasks = {task.key: task.model_copy(update={"eval_sha256": scoring.eval_now(task.task)}) for task in plan.tasks}
        answered = [cell for cell in plan.cells if (run.cell(cell.cell) / "responses.jsonl").exists()]
        if not answered:
            raise BadRunFolder(f"Run {run.name} has no answers yet.", f"Run its manifest first: longctx run {run.manifest}")
        scoring.refuse_mixed(run, answered)
        rows = []
        for cell in plan.cells:
            result = scoring.score_cell(run, cell, tasks[cell.task], models[cell.model], plan.seed) if cell in answered else None
            rows.append(
                Row(
                    label=cell.label,
                    model=cell.model,
                    task=cell.task,
                    environment=cell.environment,
                    locked=cell.locked,
                    status="RESCORE" if result else "failed",
                    reason="" if result else "no answer",
                    result=result,
                )
            )
        rows += [
            Row(label=one.variant, model=one.model, task=one.task, environment=one.environment, status=one.kind, reason=one.reason)
            for one in plan.absent
            if one.kind == "not_run"
        ]
        complete = all(row.result is not None and scoring.whole(row.result) for row in rows if row.status != "not_run")
        summary = Summary(
            run=run.name, description="", longctx=__version__, finished_at=time.time(), complete=complete,
            rows=tuple(rows), absent=plan.absent, aggregates=aggregates.of(rows),
        )  # fmt: skip
        write_summary(run, summary)
        return summary
