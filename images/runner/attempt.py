"""What the parts of the runner share while a job is worked on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .device import Device
from .emit import Events
from .job import Job
from .stop import Stop


@dataclass
class Attempt:
    """One try of one job."""

    job: Job
    out: Path
    events: Events
    stop: Stop
    device: Device
    phase: str = "start"
    """Where the runner is, in the words of ``exit.json``."""
    answered: int = 0
    """Lines written by this process: responses, token ids, counts."""
    weights: int | None = None
    """Bytes of the loaded weights, as the family describes them."""
