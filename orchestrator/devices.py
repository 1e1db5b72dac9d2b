"""What this host computes on: GPUs by UUID, leased by file locks so that no two jobs of any run share one; and the processor's name."""

import contextlib
import fcntl
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from .contracts.job import DeviceKind
from .errors import EngineUnavailable, Interrupted
from .store import storage_errors

LEASE_POLL_SECONDS = 0.2


class Gpu(NamedTuple):
    """One GPU."""

    uuid: str
    name: str
    memory: int | None
    """Bytes; null where the driver does not say."""


@lru_cache(maxsize=1)
def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that the driver lists; none where there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        rows = subprocess.run(
            [tool, "--query-gpu=uuid,name,memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
    except (subprocess.SubprocessError, OSError):
        return ()
    found = []
    for row in rows.splitlines():
        uuid, name, memory = (part.strip() for part in row.split(","))
        size = int(memory) * 2**20 if memory.isdecimal() else None  # a GPU that shares the host's memory has none of its own
        found.append(Gpu(uuid, name, size))
    return tuple(found)


def resolve(wanted: str) -> DeviceKind:
    """Return the device for ``auto | cpu | cuda``. Raises EngineUnavailable when cuda is wanted and there is none."""
    if wanted == "cuda" and not gpus():
        raise EngineUnavailable("The manifest wants device cuda, and nvidia-smi lists no GPU here.", "Set resources.device to cpu or auto.")
    if wanted == "cpu" or not gpus():
        return "cpu"
    return "cuda"


def hardware(kind: DeviceKind) -> str:
    """Return the name of what computes; times measured on one are never reused on another."""
    if kind == "cuda":
        return " + ".join(sorted({gpu.name for gpu in gpus()}))
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")  # read as the runner does, whose word is compared with this
            if key.strip() in ("model name", "Model"):
                return value.strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def lease(count: int, cache: Path, stopping: Callable[[], bool] = lambda: False) -> Iterator[tuple[str, ...]]:
    """Wait until ``count`` GPUs are free on this host, hold them, and yield their UUIDs. The kernel frees them when the process ends.

    Raises Interrupted when ``stopping`` turns true while it waits, EngineUnavailable when the host has not so many.
    """
    if count == 0:
        yield ()
        return
    if len(gpus()) < count:
        raise EngineUnavailable(f"A job wants {count} GPUs, and this host has {len(gpus())}.", "Lower resources.gpus.")
    folder = cache / "leases"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    while True:
        if stopping():
            raise Interrupted("Stopped while it waited for a GPU.")
        with contextlib.ExitStack() as stack:
            held: list[str] = []
            for gpu in gpus():
                if len(held) < count:
                    file = stack.enter_context((folder / f"{gpu.uuid}.lock").open("a"))
                    with contextlib.suppress(BlockingIOError):
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        held.append(gpu.uuid)
            if len(held) == count:
                yield tuple(held)
                return
        time.sleep(LEASE_POLL_SECONDS)
