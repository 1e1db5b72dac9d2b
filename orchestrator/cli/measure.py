"""``longctx score``."""

from typing import Annotated

import typer

from . import app
from .shared import RunArgument, console, find_run


@app.command(epilog="Example:\n\n  longctx score quickstart")
def score(
    run: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Score a run's answers again, without a model, and show the table."""
    import sys

    from ..report import footnote, table
    from ..rescore import rescore
    from ..settings import load_settings

    summary = rescore(find_run(run, load_settings()))
    if as_json:
        sys.stdout.write(summary.model_dump_json(indent=1) + "\n")
        return
    out = console()
    out.print(table(summary))
    out.print(footnote(summary), markup=False, style="dim")
