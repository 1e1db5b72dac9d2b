"""``longctx config`` and ``longctx schema``."""

import sys
from typing import Annotated

import typer

from . import app
from .shared import console


@app.command(epilog="Example:\n\n  longctx config")
def config() -> None:
    """Show the host's settings: the file, every value in force and what it means."""
    from ..settings import Settings, config_path, load_settings

    settings = load_settings()
    path = config_path()
    out = console()
    out.print(f"# {path}{'' if path.exists() else ' (not there: these are the defaults)'}", markup=False)
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
        out.print(f"{name}: {shown}  # {field.description}", markup=False, soft_wrap=True)


@app.command(epilog="Examples:\n\n  longctx schema\n\n  longctx schema manifest")
def schema(
    name: Annotated[str | None, typer.Argument(help="A document's name; all names when absent.", metavar="[NAME]")] = None,
    write: Annotated[bool, typer.Option("--write", help="Write all schemas into the package, after a contract changed.")] = False,
) -> None:
    """Print the JSON schema of a document that longctx reads or writes."""
    import json

    from ..schema import DOCUMENTS, generate, write_all

    if write:
        for path in write_all():
            sys.stdout.write(f"{path}\n")
        return
    if name is None:
        sys.stdout.write("\n".join(sorted(DOCUMENTS)) + "\n")
        return
    sys.stdout.write(json.dumps(generate(name), indent=1) + "\n")
