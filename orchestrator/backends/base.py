"""The backend port: starts ``longctx worker --plan P --task N`` somewhere, and says how that goes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

State = Literal["waiting", "running", "done", "failed"]


class Backend(Protocol):
    """Places numbered tasks of a plan."""

    name: str

    def submit(self, plan: Path, tasks: Sequence[int]) -> None:
        """Place the tasks; returns at once."""

    def states(self) -> dict[int, State]:
        """Say where every submitted task stands. ``done`` means that its worker exited 0."""

    def cancel(self, *, now: bool = False) -> None:
        """Stop all: after the sample in hand, or now."""
