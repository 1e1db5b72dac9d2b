"""``longctx images``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from . import app
from .shared import console

if TYPE_CHECKING:
    from rich.table import Table

    from ..builds.inventory import Entry

images = typer.Typer(help="Build, list, remove and export the engine docker's images.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(images, name="images")


@images.command(
    epilog="Examples:\n\n  longctx images build\n\n  longctx images build tf5 --device cuda\n\n  longctx images build --method ./mine"
)
def build(
    environments: Annotated[
        list[str] | None, typer.Argument(help="Names of environments; all when absent.", metavar="[ENVIRONMENT]…")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda; needs no GPU to build for cuda.")] = "auto",
    method: Annotated[
        list[str] | None, typer.Option("--method", help="Only what this method needs: a name or a folder; repeatable.", metavar="NAME")
    ] = None,
) -> None:
    """Build every image that runs would need, so that a run builds nothing; what is there already stays."""
    from .. import devices
    from ..builds.inventory import build as build_images
    from ..builds.inventory import open_maker
    from ..catalog import find_catalog
    from ..settings import load_settings

    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device}: there is no such device.", "Allowed: auto, cpu, cuda.")
    kind = devices.resolve("auto") if device == "auto" else "cuda" if device == "cuda" else "cpu"
    out = console()
    catalog = find_catalog()
    methods = [catalog.at(Path(name).expanduser()) if "/" in name else catalog.get(name) for name in method or ()]
    maker = open_maker(load_settings())
    count = build_images(maker, environments or (), kind, catalog, methods, lambda line: out.print(line, markup=False, soft_wrap=True))
    out.print(f"{count} images for {kind} are there.", markup=False)


@images.command("list", epilog="Example:\n\n  longctx images list")
def list_images() -> None:
    """List the images: those that would be built now, those that changes left behind, and those never built."""
    from ..builds.inventory import inventory, open_maker
    from ..catalog import find_catalog
    from ..settings import load_settings

    console().print(_table(inventory(open_maker(load_settings()), find_catalog())))


@images.command(epilog="Examples:\n\n  longctx images prune --dry-run\n\n  longctx images prune --all")
def prune(
    everything: Annotated[bool, typer.Option("--all", help="Remove every image of longctx, not only what changes left behind.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove images that would not be used any more, and say what that freed."""
    from ..builds.inventory import open_maker
    from ..builds.inventory import prune as prune_images
    from ..catalog import find_catalog
    from ..settings import load_settings

    out = console()

    def say(line: str) -> None:
        out.print(line, markup=False, soft_wrap=True)

    done = prune_images(open_maker(load_settings()), find_catalog(), everything=everything, dry_run=dry_run, report=say)
    for name in done.removed:
        say(f"{'would remove' if dry_run else 'removed'} {name}")
    for name, reason in done.kept.items():
        say(f"kept {name}: {reason}")
    if not done.removed:
        say("Nothing to remove.")
    elif dry_run:
        say(f"{len(done.removed)} images; at least {_bytes(done.freed)} would be free, and more where they share layers.")
    else:
        say(f"{len(done.removed)} images removed, {_bytes(done.freed)} freed. BuildKit's cache stays: `docker buildx prune` empties it.")


@images.command(epilog="Examples:\n\n  longctx images export tf5 --out tf5.tar\n\n  docker load --input tf5.tar")
def export(
    names: Annotated[list[str], typer.Argument(help="Images, or environments for all that is current of them.", metavar="NAME…")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Archive to write; `docker load` reads it.")],
) -> None:
    """Write images to one archive, for hosts that cannot build them; layers that several share are in it once."""
    from rich.progress import DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

    from ..builds.inventory import chosen, inventory, open_maker
    from ..builds.inventory import export as export_images
    from ..catalog import find_catalog
    from ..settings import load_settings

    if out.is_dir() or not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: {'that is a folder' if out.is_dir() else 'its folder does not exist'}.", "Name a file to write.")
    maker = open_maker(load_settings())
    found = chosen(inventory(maker, find_catalog()), names)
    show = console(stderr=True)
    columns = (TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(*columns, console=show, transient=True, disable=not show.is_terminal) as progress:
        task = progress.add_task("packing", total=None)

        def told(count: int) -> None:
            progress.update(task, completed=count, description="exporting")

        size = export_images(maker, found, out, told)
    console().print(f"{', '.join(found)}: {_bytes(size)} in {out}; `docker load --input {out}` reads it.", markup=False, soft_wrap=True)


def _table(entries: "tuple[Entry, ...]") -> "Table":
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    made.add_column("image", overflow="fold")
    for name in ("kind", "device", "state"):
        made.add_column(name)
    for name in ("size", "shared", "own"):
        made.add_column(name, justify="right")
    for one in entries:
        name = one.name.removeprefix("sha256:")[:12] + " (no name)" if one.name.startswith("sha256:") else one.name
        made.add_row(name, one.kind, one.device, one.state, _bytes(one.size), _bytes(one.shared), _bytes(one.own))
    return made


def _bytes(count: int | None) -> str:
    """Return bytes for reading, in powers of ten as the engine's own tools show them."""
    if count is None:
        return ""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
