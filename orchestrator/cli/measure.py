"""``longctx score``."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from . import app
from .shared import console, find_run


@app.command(
    epilog="Examples:\n\n  longctx score quickstart\n\n  longctx score longbench/qasper --responses pred/qasper.jsonl"
    "\n\n  longctx score longbench/qasper --responses pred_e/qasper.jsonl --e"
)
def score(
    run: Annotated[
        str,
        typer.Argument(help="A run's name, or the path of its folder; with --responses a task.", metavar="RUN|TASK", show_default=False),
    ],
    responses: Annotated[
        Path | None,
        typer.Option(
            "--responses", help="Score this file of predictions made elsewhere: pred, answers, all_classes, length.", metavar="FILE"
        ),
    ] = None,
    by_length: Annotated[bool, typer.Option("--e", help="With --responses: by ranges of length, as LongBench-E.")] = False,
    all_metrics: Annotated[
        bool, typer.Option("--all-metrics", help="With --responses: every metric of the task, with 95 % intervals.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Score a run's answers again, without a model, and show the table; or score predictions made elsewhere, and print JSON."""
    import sys

    if responses is not None:
        import json

        from ..elsewhere import score_file

        found = score_file(run, responses, by_length=by_length, all_metrics=all_metrics)
        sys.stdout.write(json.dumps(found, ensure_ascii=False) + "\n")
        return
    if by_length or all_metrics:
        raise UsageError(f"{'--e' if by_length else '--all-metrics'} says how to score a file of predictions.", "Name it: --responses FILE")
    from ..report import averages, footnote, table
    from ..rescore import rescore
    from ..settings import load_settings

    summary = rescore(find_run(run, load_settings()))
    if as_json:
        sys.stdout.write(summary.model_dump_json(indent=1) + "\n")
        return
    out = console()
    out.print(table(summary))
    if summary.aggregates:
        out.print(averages(summary))
    out.print(footnote(summary), markup=False, style="dim")
