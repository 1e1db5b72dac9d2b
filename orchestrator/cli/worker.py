"""``longctx worker``: what backends start."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import app


@app.command(hidden=True)
def worker(
    plan: Annotated[Path, typer.Option("--plan", help="plan.json of a run.")],
    task: Annotated[int, typer.Option("--task", help="Number of the task.")],
) -> None:
    """Do one task of a plan. Started by backends; its stdin must stay open for as long as it shall work."""
    from ..settings import load_settings
    from ..worker import run_task

    sys.exit(run_task(plan.absolute(), task, load_settings()))
