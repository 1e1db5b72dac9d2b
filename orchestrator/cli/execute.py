"""``longctx run`` and ``longctx plan``."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import app
from .shared import AcceptOption, DataOption, EngineOption, FreshOption, ManifestPath, NameOption, console, find_manifest, settings_with

if TYPE_CHECKING:
    from ..contracts.result import Summary


@app.command(
    epilog="Examples:\n\n  longctx run manifests/quickstart.yaml\n\n  longctx run manifests/quickstart.yaml --engine venv --name try1\n\n"
    "Ctrl-C stops after the sample in hand; the same command resumes. A second run reuses every answer."
)
def run(
    manifest: ManifestPath,
    engine: EngineOption = None,
    name: NameOption = None,
    backend: Annotated[str, typer.Option("--backend", "-b", help="Where jobs are placed: local.")] = "local",
    parallel: Annotated[int | None, typer.Option("--parallel", "-j", min=1, help="Jobs at once on this host.")] = None,
    accept_code: AcceptOption = False,
    fresh: FreshOption = False,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Try again what ended in an error of the method.")] = False,
    data: DataOption = None,
) -> None:
    """Run a manifest to the end, or resume it, and show the table."""
    from ..run import Incomplete, RunOptions, execute

    out = console()
    settings = settings_with(data)
    options = RunOptions(
        manifest=find_manifest(manifest), name=name, engine=engine, backend=backend, accept_code=accept_code, fresh=fresh,
        retry_errors=retry_errors, parallel=parallel,
        command=shlex.join(["longctx", *(argument for argument in sys.argv[1:] if argument != "--fresh")]),
    )  # fmt: skip
    try:
        summary = execute(options, settings, out)
    except Incomplete as error:
        _show(error.summary)
        raise
    _show(summary)
    out.print(f"Everything is in {settings.runs / summary.run}: summary.json, summary.csv, cells/.", markup=False)


def _show(summary: "Summary") -> None:
    from ..report import averages, footnote, table

    out = console()
    out.print(table(summary))
    if summary.aggregates:
        out.print(averages(summary))
    out.print(footnote(summary), markup=False, style="dim")


@app.command(
    epilog="Examples:\n\n  longctx plan manifests/quickstart.yaml\n\n  longctx plan manifests/quickstart.yaml --json | jq '.cells[].status'"
)
def plan(
    manifest: ManifestPath,
    engine: EngineOption = None,
    name: NameOption = None,
    accept_code: AcceptOption = False,
    fresh: FreshOption = False,
    data: DataOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show what a manifest expands to: cells, jobs, what is done, what is missing and why. Runs and fetches nothing."""
    from .. import world
    from ..plan import Options
    from ..store import RunFolder

    settings = settings_with(data)
    loaded = world.read(find_manifest(manifest), settings)
    here = world.look(loaded, settings, engine or loaded.manifest.engine, lambda _: None, fetch=False)
    folder = RunFolder((settings.runs / (name or loaded.manifest.name)).absolute())
    made = world.make_plan(here, world.facts(here, build=True), folder, Options(run=folder.name, accept_code=accept_code, fresh=fresh))
    if as_json:
        sys.stdout.write(made.model_dump_json(indent=1) + "\n")
        return
    from ..plantable import plan_table, plan_words

    out = console()
    out.print(plan_table(made))
    out.print(plan_words(made), markup=False)


@app.command("try", epilog="Example:\n\n  longctx try streaming-llm smollm2-135m-instruct --prompt prompt.txt --set keep=0.25")
def try_(
    method: Annotated[str, typer.Argument(help="A method's name or folder.", metavar="METHOD")],
    model: Annotated[str, typer.Argument(help="A model's name, or a source such as path:folder.", metavar="MODEL")],
    prompt: Annotated[Path, typer.Option("--prompt", "-p", help="A text file, or - for standard input.")],
    settings_: Annotated[list[str] | None, typer.Option("--set", help="A parameter of the method, name=value; repeatable.")] = None,
    environment: Annotated[str | None, typer.Option("--environment", help="One of the method's environments.")] = None,
    template: Annotated[str, typer.Option("--template", help="none for the raw text, chat for the model's own chat turn.")] = "none",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 128,
    engine: EngineOption = None,
) -> None:
    """Answer one prompt through the same job path as a run, streamed, with what it held and took."""
    from ..settings import load_settings
    from ..trial import Trial, attempt

    wanted = Trial(
        method=method, model=model, prompt=prompt, params=tuple(settings_ or ()), environment=environment, template=template,
        max_new_tokens=max_new_tokens, engine=engine or "auto",
    )  # fmt: skip
    attempt(wanted, load_settings(), console(stderr=True), sys.stdout)
