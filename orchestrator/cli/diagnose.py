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
