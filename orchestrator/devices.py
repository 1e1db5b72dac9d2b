"""What this host computes on: GPUs by UUID, leased by file locks so that no two jobs of any run share one; and the processor's name."""

import contextlib
import fcntl
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from .contracts.job import DeviceKind
from .errors import EngineUnavailable

LEASE_POLL_SECONDS = 0.2


class Gpu(NamedTuple):
    """One GPU."""

    uuid: str
    name: str
    memory: int


@lru_cache(maxsize=1)
def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that the driver lists; none where there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        rows = subprocess.run(
            [tool, "--query-gpu=uuid,name,memory.total", "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (subprocess.SubprocessError, OSError):
        return ()
    found = []
    for row in rows.splitlines():
        uuid, name, memory = (part.strip() for part in row.split(","))
        found.append(Gpu(uuid, name, int(float(memory)) * 2**20))
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
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def lease(count: int, cache: Path) -> Iterator[tuple[str, ...]]:
    """Wait until ``count`` GPUs are free on this host, hold them, and yield their UUIDs. The kernel frees them when the process ends."""
    if count == 0:
        yield ()
        return
    if len(gpus()) < count:
        raise EngineUnavailable(f"A job wants {count} GPUs, and this host has {len(gpus())}.", "Lower resources.gpus.")
    folder = cache / "leases"
    folder.mkdir(parents=True, exist_ok=True)
    while True:
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
