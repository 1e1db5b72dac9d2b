"""SIGTERM as a request: while nothing is under way it ends the job at once, otherwise after the sample in hand."""

from __future__ import annotations

import signal
from typing import Any

from .ending import Stopped


class Stop:
    """Set by SIGTERM or SIGINT. ``at_once`` is true while starting and loading, when there is no sample to finish."""

    def __init__(self) -> None:
        self.asked = False
        self.at_once = True
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, *_: Any) -> None:
        self.asked = True
        if self.at_once:
            self.at_once = False  # once: the way out must not be interrupted
            raise Stopped

    def check(self) -> None:
        """Raise Stopped when a stop was asked for: called where nothing is half done."""
        if self.asked:
            raise Stopped
