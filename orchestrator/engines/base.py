"""The engine port: a frozen ContainerSpec, rendered by each engine into its own call."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..contracts.job import DeviceKind
from ..contracts.manifest import EnvironmentSpec
from ..contracts.outcome import Isolation
from ..contracts.plan import LockedEnvironment

Report = Callable[[str], None]
"""Takes one line about what an engine is doing, for a person who waits."""


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A host path seen inside at ``target``, relative to the root that the engine gives the job."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """One process to isolate. ``argv`` follows the environment's Python; ``{root}`` in it becomes the root as seen inside."""

    run: str
    job: str
    attempt: int
    environment: EnvironmentSpec
    device: DeviceKind
    family: str | None
    argv: tuple[str, ...]
    mounts: tuple[Mount, ...]
    scratch: Path
    """An empty folder for the engine's own files of this attempt: root, home, temporary files."""
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()
    threads: int | None = None
    memory_bytes: int | None = None
    pids: int = 512
    shm_bytes: int = 2 * 2**30


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How the process ended: its code (negative: a signal) and whether the memory limit killed it."""

    code: int
    oom_killed: bool = False


class Process(Protocol):
    """A started process. A context manager: leaving it removes everything it left, whatever was raised."""

    isolation: Isolation
    isolation_detail: Mapping[str, bool]

    def poll(self) -> Ended | None:
        """Say how it ended, or None while it runs."""

    def terminate(self) -> None:
        """Ask it to stop after the sample in hand (SIGTERM to the runner)."""

    def kill(self) -> None:
        """End it and all its children now."""

    def __enter__(self) -> "Process":
        """Return self."""

    def __exit__(self, *exc: object) -> None:
        """Kill if still running, and clean up."""


class Engine(Protocol):
    """One way of isolating."""

    name: str

    def unavailable(self) -> str | None:
        """Return why this engine cannot be used here, or None."""

    def find(self, environment: EnvironmentSpec, device: DeviceKind) -> LockedEnvironment | None:
        """Return the environment if it is made already; quick, changes nothing."""

    def prepare(self, environment: EnvironmentSpec, device: DeviceKind, report: Report) -> LockedEnvironment:
        """Make or find it. Raises EnvironmentFailed with one clear message."""

    def start(self, spec: ContainerSpec) -> Process:
        """Start the process; its output goes to ``spec.log``, escapes stripped. Its stdin is a pipe that closes when this process dies."""


@runtime_checkable
class Debuggable(Engine, Protocol):
    """An engine in which a person can look at what a job left, or take its place. ``keep`` is a name for what stays."""

    def start(self, spec: ContainerSpec, *, keep: str | None = None) -> Process:
        """Start the process as any other; with ``keep``, leaving it ends it and removes nothing."""

    def interact(self, spec: ContainerSpec, *, keep: str) -> int:
        """Start the same process on this terminal and wait for its end; return its exit code. What it ran in stays."""

    def kept(self, keep: str) -> tuple[str, ...]:
        """Return the commands that start what was kept again, and remove it; none where only files stay."""
