"""Ends the runner with whoever started it: standard input is a pipe held open by the parent, and its end means the parent is gone."""

from __future__ import annotations

import os
import threading

from .ending import ORPHANED

VARIABLE = "LONGCTX_LIFELINE"


def hold() -> None:
    """Watch standard input in a thread when the environment says ``LONGCTX_LIFELINE=stdin``."""
    if os.environ.get(VARIABLE) == "stdin":
        threading.Thread(target=_watch, name="lifeline", daemon=True).start()


def _watch() -> None:
    try:
        while os.read(0, 4096):
            pass
    except OSError:  # standard input closed: nobody holds the other end either
        pass
    os._exit(ORPHANED)
