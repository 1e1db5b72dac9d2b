"""``longctx status`` and ``longctx logs``."""

import json
import sys
from typing import Annotated

import typer

from . import app
from .shared import console, find_run


@app.command(epilog="Examples:\n\n  longctx status\n\n  longctx status quickstart")
def status(
    run: Annotated[str | None, typer.Argument(help="A run's name or folder; all runs when absent.", metavar="[RUN]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show how runs stand: answered and missing requests, attempts and how they ended."""
    from ..settings import load_settings
    from ..status import all_runs, run_status, runs_table, status_table

    settings = load_settings()
    if run is None:
        rows = all_runs(settings)
        if as_json:
            sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        elif rows:
            console().print(runs_table(rows))
        else:
            console().print(f"No runs in {settings.runs}. Start one: longctx run MANIFEST", markup=False)
        return
    state = run_status(find_run(run, settings))
    if as_json:
        sys.stdout.write(json.dumps(state, indent=1) + "\n")
    else:
        for part in status_table(state):
            console().print(part)


@app.command(epilog="Examples:\n\n  longctx logs quickstart\n\n  longctx logs quickstart --job kv.tf5--smollm2-135m-instruct --attempt 1")
def logs(
    run: Annotated[str, typer.Argument(help="A run's name or folder.", metavar="RUN")],
    job: Annotated[str | None, typer.Option("--job", help="Only jobs whose name contains this.")] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", help="Which attempt; the newest when absent.", min=1)] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines from the end.")] = 200,
) -> None:
    """Show what jobs printed, and how their attempts ended."""
    from ..settings import load_settings
    from ..status import job_logs

    for text in job_logs(find_run(run, load_settings()), job, attempt, lines):
        sys.stdout.write(text + "\n")
