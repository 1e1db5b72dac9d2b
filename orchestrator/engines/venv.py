"""The venv engine: environments made by uv, or the host's own Python as recorded; each job a process of its own.

A process has a clean environment, limits and, where permitted, no network.
It isolates partly: files are not hidden and mounts are links, so nothing is really read-only. ``isolation_detail`` says what holds.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..contracts.job import DeviceKind
from ..contracts.manifest import EnvironmentSpec, SystemSpec
from ..contracts.plan import LockedEnvironment
from ..environments import Environment, find_environment, recorded
from ..errors import EngineUnavailable, EnvironmentFailed, StorageError
from ..settings import Settings
from . import host
from .base import ContainerSpec, Process, Report
from .group import MARK, GroupProcess, remove_tree
from .log import LogPump, Pipe
from .uv import Uv, uv_environment
from .venv_env import job_environment

MARKER = "environment.json"
"""Written last: an environment without it is half made, and is made again."""
LAYOUT = "1"
"""Part of every environment's name; raised when what is installed, or how, changes."""
LAUNCH = Path(__file__).with_name("launch.py")
FILE_SIZE_BYTES = 64 * 2**30
OPEN_FILES = 65536
_OUR_FAULT = "This is a fault of longctx; please report it."


@dataclass(frozen=True, kw_only=True)
class _LaidOut:
    """A process whose folders are there: how to start it, and what will isolate it."""

    command: tuple[str, ...]
    variables: Mapping[str, str]
    home: Path
    folders: tuple[Path, ...]
    mark: str
    detail: Mapping[str, bool]


class VenvEngine:
    """Environments below ``<cache>/environments``; ``find`` is how an environment is looked up by its name."""

    name = "venv"

    def __init__(self, settings: Settings, *, look_up: Callable[[str], Environment] = find_environment) -> None:
        self._settings, self._look_up = settings, look_up
        self._place = settings.cache.expanduser().absolute() / "environments"

    def unavailable(self) -> str | None:
        """Return why environments can be neither made here nor used, or None."""
        if sys.platform != "linux":
            return "the venv engine isolates by means of Linux only"
        if not self._has_uv() and recorded() is None:  # that one needs no uv
            return "uv is missing; `python3 bootstrap.py` installs it"
        return None

    def find(self, environment: EnvironmentSpec, device: DeviceKind) -> LockedEnvironment | None:
        """Return the environment if it is made already, with whichever of its Python versions; a recorded one if it did not change."""
        known = self._look_up(environment.name)
        if known.spec.system is not None:
            with contextlib.suppress(EnvironmentFailed):
                return _as_recorded(known, known.spec.system, device)
            return None
        found = self._made(known, device)
        return found[1] if found else None

    def prepare(self, environment: EnvironmentSpec, device: DeviceKind, report: Report) -> LockedEnvironment:
        """Make or find it. One maker at a time: others wait, then find it. Raises EnvironmentFailed, StorageError or EngineUnavailable.

        A recorded one is never made: it is looked at, and refused when it changed.
        """
        known = self._look_up(environment.name)
        if known.spec.system is not None:
            return _as_recorded(known, known.spec.system, device)
        if found := self._made(known, device):
            return found[1]
        if reason := self.unavailable():
            raise EngineUnavailable(f"The venv engine cannot be used here: {reason}.", "Choose another engine: `--engine docker`.")
        if not self._has_uv():
            raise EnvironmentFailed(f"Environment {known.spec.name} cannot be made: uv is missing.", "`python3 bootstrap.py` installs it.")
        if device not in known.spec.torch:
            raise EnvironmentFailed(
                f"Environment {known.spec.name} is not made for {device}.", f"It is for: {', '.join(known.spec.torch)}."
            )
        try:
            with self._making(known, device, report) as lock:
                if found := self._made(known, device):
                    return found[1]
                return self._make(known, device, lock, report)
        except OSError as error:
            step = "Free some space, or name another `cache` in the settings."
            raise StorageError(f"{error.filename or self._place}: {error.strerror}.", step) from error

    def python(self, environment: EnvironmentSpec, device: DeviceKind) -> Path:
        """Return the interpreter of an environment that is made. Raises EnvironmentFailed where it is not."""
        known = self._look_up(environment.name)
        if known.spec.system is not None:
            return Path(known.spec.system.python)
        found = self._made(known, device)
        if found is None:
            raise EnvironmentFailed(f"Environment {environment.name} is not made for {device} yet.", "`longctx run` makes it.")
        return found[0] / "bin" / "python"

    def start(self, spec: ContainerSpec, *, keep: str | None = None) -> Process:
        """Start the process in a root of links; see the class's module for what isolates it. Raises EnvironmentFailed or StorageError.

        With ``keep``, whatever its name, root, home and temporary files stay when the process is left.
        """
        made = self._laid_out(spec)
        popen = subprocess.Popen(
            made.command,
            env=made.variables,
            cwd=made.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if popen.stdout is None:
            raise AssertionError("a pipe was asked for")
        log = LogPump(cast("Pipe", popen.stdout), spec.log)
        log.start()
        folders = () if keep else made.folders
        return GroupProcess(popen, mark=made.mark, log=log, folders=folders, isolation="partial", detail=made.detail)

    def interact(self, spec: ContainerSpec, *, keep: str) -> int:
        """Start the process on this terminal, in this session, and wait for it; return its exit code. Raises as :meth:`start` does."""
        made = self._laid_out(spec)
        # What the terminal calls itself is the one thing of the caller's that a shell cannot do without.
        terminal = {name: os.environ[name] for name in ("TERM",) if name in os.environ}
        return subprocess.run(made.command, env={**terminal, **made.variables}, cwd=made.home, check=False).returncode

    def kept(self, keep: str) -> tuple[str, ...]:
        """Return nothing: only files stay."""
        return ()

    def _laid_out(self, spec: ContainerSpec) -> "_LaidOut":
        """Make the process's folders; return how to start it."""
        python = self.python(spec.environment, spec.device)
        root, home, temporary = (spec.scratch / part for part in ("root", "home", "tmp"))
        try:
            for folder in (root, home, temporary):
                remove_tree(folder)
                folder.mkdir(parents=True, mode=0o700)
            build_root(root, spec)
            spec.log.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{error.filename}: {error.strerror}.", "Free some space or check who owns it; then run it again."
            ) from error
        library_path = spec.environment.system.variables.get("LD_LIBRARY_PATH") if spec.environment.system is not None else None
        allowed = probe(python, library_path)
        limits = {"core": 0, "fsize": FILE_SIZE_BYTES, "nofile": OPEN_FILES}
        # Private writable memory, as near as a process alone can be limited. CUDA reserves address space far beyond what it uses.
        limited = spec.memory_bytes is not None and spec.device == "cpu"
        if spec.memory_bytes is not None and limited:
            limits["data"] = spec.memory_bytes
        options = {"network": allowed["network"], "privileges": allowed["privileges"], "limits": limits}
        arguments = [part.replace("{root}", str(root.absolute())) for part in spec.argv]
        mark = uuid.uuid4().hex
        variables = {**job_environment(spec, python, root.absolute(), home=home.absolute(), temporary=temporary.absolute()), MARK: mark}
        detail = {
            "clean_environment": True,
            "own_home": True,
            "process_group": True,
            "rlimits": True,
            "memory_limit": limited,
            "network_none": allowed["network"] is not None,
            "no_new_privileges": bool(allowed["privileges"]),
            "capabilities_dropped": bool(allowed["privileges"]) and os.geteuid() != 0,
            "read_only_root": False,
            "read_only_mounts": False,
        }
        return _LaidOut(
            command=(str(python), "-I", "-S", str(LAUNCH), json.dumps(options), str(python), "-s", "-B", *arguments),
            variables=variables, home=home, folders=(root, home, temporary), mark=mark, detail=detail,
        )  # fmt: skip

    def _has_uv(self) -> bool:
        try:
            self._uv_program()
        except (FileNotFoundError, ImportError):
            return False
        return True

    def _uv_program(self) -> str:
        import uv

        return uv.find_uv_bin()

    def _folder(self, environment: Environment, device: DeviceKind, minor: str) -> Path:
        key = hashlib.sha256("\0".join((LAYOUT, environment.sha256, device, minor)).encode()).hexdigest()
        return self._place / f"{environment.spec.name}-{key[:12]}"

    def _made(self, environment: Environment, device: DeviceKind) -> tuple[Path, LockedEnvironment] | None:
        for minor in environment.spec.python:
            folder = self._folder(environment, device, minor)
            # The interpreter is a link: whoever removed that Python removed the environment with it.
            if (folder / MARKER).is_file() and (folder / "bin" / "python").exists():
                with contextlib.suppress(ValueError, OSError):
                    locked = LockedEnvironment.model_validate_json((folder / MARKER).read_bytes())
                    if locked.spec_sha256 == environment.sha256 and locked.kind == device:
                        return folder, locked
        return None

    @contextlib.contextmanager
    def _making(self, environment: Environment, device: DeviceKind, report: Report) -> Iterator[int]:
        self._place.mkdir(parents=True, exist_ok=True)
        with (self._place / f".{environment.spec.name}-{environment.sha256[:12]}-{device}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(f"{environment.spec.name} ({device}): another process is making it; waiting")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock.fileno()

    def _make(self, environment: Environment, device: DeviceKind, lock: int, report: Report) -> LockedEnvironment:
        from . import venv_make

        # uv holds the lock too: if this process is killed, nobody starts over before its uv has ended.
        uv = Uv(program=self._uv_program(), environment=uv_environment(self._settings, os.environ), folder=self._place, held=(lock,))
        minor, python = venv_make.find_python(uv, environment, device, self._settings, report)
        folder = self._folder(environment, device, minor)
        if folder.exists():
            report(f"{environment.spec.name} ({device}): removing what a stopped attempt left")
            shutil.rmtree(folder)
        locked = venv_make.make(uv, folder, python, environment, device, minor, self._settings, report)
        temporary = folder / f".{MARKER}.tmp"
        temporary.write_text(locked.model_dump_json(indent=1) + "\n", encoding="utf-8")
        temporary.replace(folder / MARKER)
        return locked


def _as_recorded(known: Environment, system: SystemSpec, device: DeviceKind) -> LockedEnvironment:
    if system.image is not None:
        raise EnvironmentFailed(
            f"Environment {known.spec.name} was recorded from the image {system.image}, which the venv engine cannot start.",
            "Run it with `--engine docker`, or record a Python of this host: longctx config system --python PATH.",
        )
    return host.as_recorded(known, device, host.ask(host.direct(system.variables), system.python), "venv")


def build_root(root: Path, spec: ContainerSpec) -> None:
    """Lay out the job's root as links, one a mount; folders between are real. Raises EnvironmentFailed for a bad target."""
    for mount in spec.mounts:
        parts = Path(mount.target).parts
        if not parts or mount.target.startswith("/") or ".." in parts:
            raise EnvironmentFailed(f"a mount's target must lie below the root: {mount.target!r}", _OUR_FAULT)
        if any((root / Path(*parts[:depth])).is_symlink() for depth in range(1, len(parts) + 1)):
            raise EnvironmentFailed(f"two mounts overlap at {mount.target!r}", _OUR_FAULT)
        if not mount.source.exists():
            raise FileNotFoundError(2, "it is to be mounted, but does not exist", str(mount.source))
        target = root / mount.target
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(mount.source.absolute())


@functools.lru_cache(maxsize=8)
def probe(python: Path, library_path: str | None = None) -> dict[str, Any]:
    """Return what a process may give up on this host: ``{network: how or None, privileges: bool}``. Asked once an interpreter."""
    done = subprocess.run(
        [str(python), "-I", "-S", str(LAUNCH), "--probe"], env={"LD_LIBRARY_PATH": library_path} if library_path else {},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        return {"network": None, "privileges": False}
