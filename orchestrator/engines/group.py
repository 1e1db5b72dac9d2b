"""A process group as an engine's Process: end it without orphans, tell how it ended, remove what it left."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..contracts.outcome import Isolation
from .base import Ended, Process
from .log import LogPump

MARK = "LONGCTX_PROCESS"
"""A variable with a value of its own per process: its descendants are known by it even where they left the group."""
_PATIENCE = 5.0
"""Seconds that killed processes get to disappear, and the log to end."""


def oom_kills() -> int:
    """Return how many processes this machine's kernel has killed for memory since it started; 0 where it does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def marked(mark: str) -> list[int]:
    """Return the processes that carry ``mark`` in their environment and are not dead already."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if needle in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def remove_tree(folder: Path) -> None:
    """Remove a folder that untrusted code wrote to: links are unlinked, never followed, and folders made unreadable are opened up first."""
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    with contextlib.suppress(OSError):
        folder.chmod(0o700)
    for path, _, _ in os.walk(folder):
        with contextlib.suppress(OSError), os.scandir(path) as children:
            for child in children:
                if child.is_dir(follow_symlinks=False):
                    Path(child.path).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


class GroupProcess:
    """A process that leads its own session. ``folders`` are removed at the end; ``popen`` must have pipes for stdin and stdout."""

    def __init__(
        self,
        popen: "subprocess.Popen[bytes]",
        *,
        mark: str,
        log: LogPump,
        folders: Sequence[Path],
        isolation: Isolation,
        detail: Mapping[str, bool],
    ) -> None:
        self.isolation: Isolation = isolation
        self.isolation_detail: Mapping[str, bool] = dict(detail)
        self.pid = popen.pid
        self._popen, self._mark, self._log, self._folders = popen, mark, log, folders
        self._oom_kills = oom_kills()
        self._killed = False
        self._ended: Ended | None = None
        # Re-entrant: a signal handler of the caller may call terminate() while poll() runs.
        self._lock = threading.RLock()

    def poll(self) -> Ended | None:
        """Say how it ended, or None while it runs. At its end its descendants are killed, before its id can be used again."""
        with self._lock:
            if self._ended is None and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
                self._kill_all()
                code = self._popen.wait()
                # SIGKILL that we did not send, while the kernel killed someone for memory: as near as can be told without a cgroup.
                memory = code == -signal.SIGKILL and not self._killed and oom_kills() > self._oom_kills
                self._ended = Ended(code=code, oom_killed=memory)
                self._log.join(_PATIENCE)
            return self._ended

    def terminate(self) -> None:
        """Send SIGTERM to the process alone."""
        with self._lock:
            if self._ended is None:
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to it and all its descendants."""
        with self._lock:
            if self._ended is None:
                self._killed = True
                self._kill_all()

    def _kill_all(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        until = time.monotonic() + _PATIENCE
        while left := [pid for pid in marked(self._mark) if pid != self.pid]:
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > until:
                return
            time.sleep(0.005)

    def __enter__(self) -> "Process":
        """Return self."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Kill what is left, wait for it, close the lifeline and remove root, home and temporary files."""
        self.kill()
        while self.poll() is None:
            time.sleep(0.005)
        if self._popen.stdin is not None:
            with contextlib.suppress(OSError):
                self._popen.stdin.close()
        for folder in self._folders:
            remove_tree(folder)
