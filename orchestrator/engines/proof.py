"""Proves an engine's isolation: starts the probe under the very profile of a job, and reads what it tried and what happened."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ..contracts.job import DeviceKind
from ..contracts.manifest import EnvironmentSpec
from ..contracts.outcome import Isolation
from ..errors import EngineUnavailable
from .base import ContainerSpec, Ended, Mount, Process
from .group import remove_tree
from .probe import Line
from .venv_env import job_environment

PROBE = Path(__file__).with_name("probe.py")
SECONDS = 60.0
FORKS = 10_000
ORDINARY = frozenset({"HOSTNAME", "TERM", "SHELL", "PWD", "OLDPWD", "SHLVL", "_"})
"""Variables that a process has from its shell or its container, whoever started it."""
STEP = "Run `longctx doctor` again; if it stays so, this is a fault of longctx: please report it with its output."

Start = Callable[[ContainerSpec], Process]


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What the probe met. ``promised`` is what the engine says of the same process; ``owner`` whose a file in ``out/`` was, outside."""

    lines: Sequence[Line]
    user: int
    group: int
    owner: int
    isolation: Isolation
    promised: Mapping[str, bool]
    seconds: float


def prove(start: Start, environment: EnvironmentSpec, place: Path, *, device: DeviceKind = "cpu", limits_processes: bool = True) -> Proof:
    """Start the probe by ``start`` and return its proof; ``place`` holds its files meanwhile.

    ``limits_processes``: forks are tried, for the engine promises to stop them. Raises EngineUnavailable where the probe says nothing.
    """
    started = time.monotonic()
    with _folder(place) as folder:
        spec = _spec(folder, environment, device, limits_processes)
        with start(spec) as process:
            ended = _wait(process)
            isolation, promised = process.isolation, dict(process.isolation_detail)
        said = spec.log.read_text(encoding="utf-8") if spec.log.exists() else ""
        try:
            told = json.loads(said.splitlines()[-1])
            lines = tuple(Line(**line) for line in told["lines"])
        except (ValueError, IndexError, KeyError, TypeError) as error:
            last = " ".join(said.split())[-300:] or "nothing"
            raise EngineUnavailable(f"The isolation probe ended with code {ended.code}, and said: {last}.", STEP) from error
        written = folder / "out" / "probe.txt"
        owner = written.stat().st_uid if written.exists() else -1
    return Proof(
        lines=lines, user=int(told["user"]), group=int(told["group"]), owner=owner, isolation=isolation, promised=promised,
        seconds=time.monotonic() - started,
    )  # fmt: skip


@contextmanager
def _folder(place: Path) -> Iterator[Path]:
    place.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=place, prefix="probe-"))
    try:
        # Whoever the container runs as has to pass; what another job would have is readable, so that only isolation hides it.
        folder.chmod(0o755)
        (folder / "out").mkdir()
        (folder / "another").mkdir()
        (folder / "another" / "secret.txt").write_text("another job's\n", encoding="utf-8")
        shutil.copyfile(PROBE, folder / "probe.py")
        (folder / "probe.py").chmod(0o644)
        yield folder
    finally:
        remove_tree(folder)


def _spec(folder: Path, environment: EnvironmentSpec, device: DeviceKind, limits_processes: bool) -> ContainerSpec:
    memory, shm = 2**30, 256 * 2**20
    spec = ContainerSpec(
        run="doctor", job="probe", attempt=1, environment=environment, device=device, family=None, argv=("{root}/probe.py",),
        mounts=(Mount(source=folder / "probe.py", target="probe.py"), Mount(source=folder / "out", target="out", writable=True)),
        scratch=folder / "scratch", log=folder / "log.txt", memory_bytes=memory, shm_bytes=shm, threads=1,
    )  # fmt: skip
    # A job has values of its own for these.
    own = job_environment(spec, PurePosixPath("/python"), PurePosixPath("/root"), home=PurePosixPath("/"), temporary=PurePosixPath("/"))
    asked = {
        "root": "{root}", "forks": FORKS if limits_processes else 0, "variables": sorted(os.environ.keys() - ORDINARY - own.keys()),
        "others": [str(folder / "another" / "secret.txt")], "memory_bytes": memory, "shm_bytes": shm,
    }  # fmt: skip
    return replace(spec, argv=(*spec.argv, json.dumps(asked)))


def _wait(process: Process) -> Ended:
    until = time.monotonic() + SECONDS
    while (ended := process.poll()) is None:
        if time.monotonic() > until:
            raise EngineUnavailable(f"The isolation probe did not end within {SECONDS:.0f} s.", STEP)
        time.sleep(0.01)
    return ended
