"""The command line. One small module a command; each imports what it needs when it runs, so that ``longctx --help`` is quick."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import LongctxError

EXIT_CODES = """
Exit codes: 0 done · 1 unexpected failure · 2 wrong arguments · 3 manifest · 4 model · 5 data · 6 environment or image · 7 engine ·
8 some cells failed or are partial · 9 run in use · 10 disk full or not writable · 11 damaged run folder · 12 scoring refused ·
130 stopped (run again to resume) · 141 whoever read the output went away.
"""


class _Group(TyperGroup):
    """Turns what ends a command into one message on stderr and its own exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt as error:
            _say("Stopped. What was answered is kept; run the same command to resume.")
            raise typer.Exit(130) from error
        except BrokenPipeError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more when it ends
            raise typer.Exit(141) from error
        except LongctxError as error:
            _say(f"longctx: {error}")
            raise typer.Exit(error.exit_code) from error
        return result


app = typer.Typer(
    name="longctx",
    cls=_Group,
    help="Measure what long-context methods really save, and what they really cost, each in an environment of its own.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from ... import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)] = False,
) -> None:
    """Take the options that come before a command."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    from . import commands  # noqa: F401 - registers every command

    app(args=list(arguments) if arguments is not None else None)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
