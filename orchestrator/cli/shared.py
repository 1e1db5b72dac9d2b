"""What commands share: the console and the options that several of them take."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import BadRunFolder, ManifestError

if TYPE_CHECKING:
    from rich.console import Console

    from ..settings import Settings
    from ..store import RunFolder

ManifestPath = Annotated[
    Path,
    typer.Argument(help="The manifest, a YAML file; or the name of one that comes with longctx, such as quickstart.", metavar="MANIFEST"),
]
EngineOption = Annotated[str | None, typer.Option("--engine", "-e", help="auto, docker or venv; the manifest's own when absent.")]
NameOption = Annotated[str | None, typer.Option("--name", "-n", help="Name of the run's folder; the manifest's name when absent.")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of datasets; $LONGCTX_DATA or the settings' own when absent.")]
RunArgument = Annotated[str, typer.Argument(help="A run's name, or the path of its folder.", metavar="RUN")]
AcceptOption = Annotated[bool, typer.Option("--accept-code", help="Keep answers made by older code of the same configuration.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Run everything again; earlier answers are set aside, not lost.")]


def find_manifest(path: Path) -> Path:
    """Return the manifest's path; a bare name that is no file means one that comes with longctx. Raises ManifestError listing those."""
    own = Path(__file__).parents[2] / "manifests"
    if path.exists():
        return path
    if len(path.parts) == 1 and (own / f"{path}.yaml").is_file():
        return own / f"{path}.yaml"
    there = sorted(one.stem for one in own.glob("*.yaml") if one.stem != "models")
    raise ManifestError(f"{path}: there is no such file.", f"Name a YAML file, or one that comes with longctx: {', '.join(there)}.")


def console(*, stderr: bool = False) -> "Console":
    """Return a console: colours only on a terminal and without NO_COLOR, full width for pipes."""
    import os

    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made = Console(stderr=stderr, highlight=False, width=200)
    return made


def settings_with(data: Path | None) -> "Settings":
    """Return the host's settings, with the data folder that ``--data`` names, if it does."""
    from ..settings import load_settings

    settings = load_settings()
    return settings if data is None else settings.model_copy(update={"data": data.expanduser().absolute()})


def find_run(name: str, settings: "Settings") -> "RunFolder":
    """Return an existing run by name or path. Raises BadRunFolder that lists the runs there are."""
    from ..store import RunFolder  # not at the top: it brings pydantic, which --help needs not

    for path in (settings.runs / name, Path(name)):
        if (path / "plan.json").exists():
            return RunFolder(path.absolute())
    there = sorted(path.parent.name for path in settings.runs.glob("*/plan.json")) if settings.runs.is_dir() else []
    raise BadRunFolder(f"There is no run '{name}' in {settings.runs}.", f"Runs there: {', '.join(there) or 'none'}.")
