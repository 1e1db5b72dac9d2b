"""``longctx doctor`` and ``longctx debug``."""

import json
import sys
from typing import Annotated

import typer

from . import app
from .shared import RunArgument, console, find_run


@app.command(epilog="Examples:\n\n  longctx doctor\n\n  longctx doctor --json | jq '.checks[] | select(.state != \"ok\")'")
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """Say what this host offers and prove its isolation from inside: engines, images, GPUs, disk. Ends with 7 when no engine is usable."""
    from ..doctor import examine, refuse_unusable, table, words

    found = examine()
    if as_json:
        sys.stdout.write(json.dumps(found.plain(), indent=1) + "\n")
    else:
        out = console()
        out.print(table(found))
        out.print(words(found), markup=False, soft_wrap=True)
    refuse_unusable(found)


@app.command(epilog="Examples:\n\n  longctx debug quickstart full-kv --request 256-0.1-0\n\n  longctx debug quickstart streaming --shell")
def debug(
    run: RunArgument,
    cell: Annotated[str, typer.Argument(help="A cell's name or label, or a unique part of its name.", metavar="CELL")],
    request: Annotated[str | None, typer.Option("--request", help="A request's id; the task's first when absent.", metavar="ID")] = None,
    shell: Annotated[bool, typer.Option("--shell", help="Start /bin/sh there instead, with the same mounts and limits.")] = False,
) -> None:
    """Run one request of a cell again where you can look at it: same image, same mounts, the container kept. Nothing of it is scored."""
    from ..debug import Wanted
    from ..debug import debug as start
    from ..settings import load_settings

    settings, told = load_settings(), console(stderr=True)
    wanted = Wanted(cell=cell, request=request, shell=shell)
    start(find_run(run, settings), wanted, settings, lambda line: told.print(line, markup=False, soft_wrap=True), sys.stdout)
