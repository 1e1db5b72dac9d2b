"""``longctx data``: fetch, list and verify the data that evals read."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import app
from .shared import DataOption, console, settings_with

data_app = typer.Typer(help="Fetch, list and verify the data that evals read.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

NamesArgument = Annotated[list[str] | None, typer.Argument(help="longbench, passkey; all that are here when absent.", metavar="[NAME]…")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


@data_app.command(
    epilog="Examples:\n\n  longctx data fetch longbench\n\n  longctx data fetch passkey --from /mnt/usb/data --data ~/longctx-data\n\n"
    "Stopped anywhere, the same command goes on. Files that are here and right are not fetched again."
)
def fetch(
    names: Annotated[list[str], typer.Argument(help="longbench, passkey.", metavar="NAME…")],
    origin: Annotated[
        Path | None,
        typer.Option("--from", help="Take the files from this folder: laid out like a data folder or like the originals, unpacked or not."),
    ] = None,
    data: DataOption = None,
) -> None:
    """Fetch data by its pinned revision and checksums, from where its authors put it or from a folder."""
    from ..data import fetch as bring
    from ..data import folder_of, source

    settings = settings_with(data)
    out = console()
    for name in names:
        source(name)
    for name in names:
        made = bring(name, settings, lambda line, name=name: out.print(f"{name}: {line}", markup=False, soft_wrap=True), origin=origin)  # type: ignore[misc]
        rows = [one.rows for one in made.files.values() if one.rows is not None]
        size = sum(one.size for one in made.files.values()) / 2**20
        sets = f", {sum(rows):,} rows in {len(rows)} sets" if rows else ""
        out.print(f"{name}: {len(made.files)} files, {size:,.1f} MiB{sets}, in {folder_of(settings)}", markup=False)


@data_app.command("list", epilog="Examples:\n\n  longctx data list\n\n  longctx data list longbench")
def list_(
    name: Annotated[str | None, typer.Argument(help="One of them, file by file.", metavar="[NAME]")] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what can be fetched and what is here; of one, every file and where it comes from."""
    import json

    from ..data import check, folder_of

    folder = folder_of(settings_with(data))
    if name is not None:
        console().print(check.files_table(name, folder))
        return
    lines = check.overview(folder)
    if as_json:
        sys.stdout.write(json.dumps(lines, indent=1) + "\n")
        return
    console().print(check.overview_table(lines))
    console().print(f"In {folder}; fetch with: longctx data fetch NAME", markup=False)


@data_app.command(epilog="Examples:\n\n  longctx data verify\n\n  longctx data verify longbench --data ~/longctx-data")
def verify(names: NamesArgument = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Read every file again and compare it with its checksum; say which command mends what is wrong."""
    import json
    from dataclasses import asdict

    from ..data import check, folder_of

    folder = folder_of(settings_with(data))
    found = check.verify(names or [], folder, lambda line: console(stderr=True).print(line, markup=False, soft_wrap=True))
    if as_json:
        sys.stdout.write(json.dumps({name: [asdict(one) for one in findings] for name, findings in found.items()}, indent=1) + "\n")
    else:
        for line in check.totals(found):
            console().print(line, markup=False, soft_wrap=True)
    if error := check.complaint(found, folder):
        raise error
