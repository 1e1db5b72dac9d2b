"""``longctx config`` and ``longctx schema``."""

import sys
from typing import Annotated

import typer

from . import app
from .shared import console

config = typer.Typer(rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
app.add_typer(config, name="config")


@config.callback(invoke_without_command=True, epilog="Example:\n\n  longctx config")
def show(context: typer.Context) -> None:
    """Show the host's settings: the file, every value in force and what it means."""
    if context.invoked_subcommand is not None:
        return
    from ..environments import recorded
    from ..settings import Settings, config_path, load_settings

    settings = load_settings()
    path = config_path()
    out = console()
    out.print(f"# {path}{'' if path.exists() else ' (not there: these are the defaults)'}", markup=False)
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
        out.print(f"{name}: {shown}  # {field.description}", markup=False, soft_wrap=True)
    if (own := recorded()) is not None and own.spec.system is not None:
        out.print(f"# environment system, in place of {own.spec.system.like}: {own.spec.system.python}", markup=False, soft_wrap=True)


@config.command(epilog="Examples:\n\n  longctx config system --like tf5 --python ~/torch/bin/python\n\n  longctx config system --remove")
def system(
    like: Annotated[str, typer.Option("--like", help="The environment that it stands in for.")] = "tf5",
    python: Annotated[str | None, typer.Option("--python", help="The interpreter; python3 on $PATH when absent.", metavar="PATH")] = None,
    image: Annotated[str | None, typer.Option("--image", help="An image that this Python is in, for the engine docker.")] = None,
    mount: Annotated[
        list[str] | None, typer.Option("--mount", help="A folder of this host that the image needs, mounted read-only; repeatable.")
    ] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Record none of this shell's variables, such as PYTHONPATH.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Forget what was recorded.")] = False,
) -> None:
    """Record a Python of this host that has torch and transformers, to run methods where nothing can be installed."""
    import os
    from pathlib import Path

    from ..system import carried, find_python, forget, record

    out = console()
    if remove:
        folder = forget()
        out.print(f"Removed {folder}." if folder else "No Python of this host is recorded.", markup=False, soft_wrap=True)
        return
    if image is None:
        done = record(like, find_python(python), variables={} if clean else carried(os.environ))
    else:
        from ..engines.docker.client import connect
        from ..engines.docker.once import once

        mounts, docker = tuple(str(Path(folder).absolute()) for folder in mount or ()), connect()
        done = record(
            like, python or "/usr/bin/python3", run=lambda argv: once(docker, image, argv, mounts=mounts), image=image, mounts=mounts
        )
    version = f"Python {done.spec.python[0]}, torch {done.spec.torch['cpu']} for {' and '.join(done.spec.torch)}"
    engine = "venv" if image is None else "docker"
    lines = [
        f"Recorded environment system: {version}, transformers {done.packages.get('transformers', 'none')}, {len(done.packages)} packages.",
        *(f"Note: {note}." for note in done.notes),
        f"Manifests stay as they are: what would run in {like} runs there now, on the engine {engine}, until the packages change.",
        "Results mark it as system*: its packages are recorded, not locked.",
        f"The record is in {done.folder}; `longctx config system --remove` forgets it.",
    ]
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)


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
