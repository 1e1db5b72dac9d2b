"""``longctx methods`` and ``longctx models``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import app
from .shared import DataOption, console, settings_with

models_app = typer.Typer(help="List models, and fetch them before a run.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(models_app, name="models")


@app.command(epilog="Examples:\n\n  longctx methods\n\n  longctx methods streaming-llm")
def methods(
    name: Annotated[str | None, typer.Argument(help="A method; all when absent.", metavar="[METHOD]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """List the methods, or show one: what it does, its parameters, presets and environments."""
    from ..catalog import find_catalog
    from ..listing import method_page, methods_table

    catalog = find_catalog()
    if as_json:
        import json

        chosen = [catalog.get(name)] if name else [catalog.get(one) for one in catalog.names()]
        sys.stdout.write(json.dumps([one.spec.model_dump(mode="json") for one in chosen], indent=1) + "\n")
    elif name:
        console().print(method_page(catalog.get(name)), markup=False)
    else:
        console().print(methods_table(catalog))
        for folder, error in catalog.broken():
            console(stderr=True).print(f"{folder}: {error}", markup=False)


@models_app.command("list", epilog="Example:\n\n  longctx models list")
def list_models() -> None:
    """List the models that manifests may call by name, and which are here already."""
    from ..listing import models_table
    from ..settings import load_settings

    console().print(models_table(load_settings()))


@models_app.command("fetch", epilog="Example:\n\n  longctx models fetch smollm2-135m-instruct")
def fetch(names: Annotated[list[str], typer.Argument(help="Names of models.", metavar="MODEL…")]) -> None:
    """Fetch models, convert them where needed, and compute their checksums; what is here already is only checked."""
    from .. import models
    from ..listing import known_model
    from ..settings import load_settings

    settings = load_settings()
    out = console()
    for name in names:
        found = models.resolve(known_model(name), settings=settings, report=lambda line: out.print(line, markup=False))
        size = sum(file.size for file in found.files)
        told = f"{len(found.files)} files, {size / 2**20:,.1f} MiB, revision {found.revision or 'none'}, in {found.folder}"
        out.print(f"{name}: {told}", markup=False)


@app.command(epilog="Example:\n\n  longctx requests passkey/default --out requests.jsonl --set 'lengths={words: [256]}'")
def requests(
    task: Annotated[str, typer.Argument(help="eval/task, such as passkey/default.", metavar="TASK")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: one JSON object a line, with id and prompt.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="A parameter of the task, name=value (YAML); repeatable.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 42,
    data: DataOption = None,
) -> None:
    """Write the requests of a task exactly as they would be sent."""
    from ..listing import write_prompts

    count = write_prompts(task, tuple(set_ or ()), seed, out, settings_with(data))
    console().print(f"{count} requests written to {out}.", markup=False)
