"""One container as an engine's Process: its log streamed, its end awaited, and it removed whatever was raised.

Standard input is the lifeline: the attached connection is the only writer, so when this process dies, however, the engine closes the
container's standard input and the runner ends by itself. What is left then is an ended container with our labels, which
:func:`sweep` removes the next time.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...contracts.outcome import Isolation
from ...errors import EngineUnavailable
from ..base import Ended, Process
from ..log import LINE_CAP, LogPump
from .client import START_STEP, Docker
from .profile import LABEL

_PATIENCE = 5.0
"""Seconds that the log gets to end after the container has."""


class Output:
    """What a container prints, read from its attached connection: frames of eight bytes' header and a piece of either stream."""

    def __init__(self, connection: Any) -> None:
        # The SDK hands over an HTTP response's file; the socket below it takes no timeout and is shut down in both directions.
        self._connection = connection
        self._socket: socket.socket = getattr(connection, "_sock", connection)
        self._socket.settimeout(None)
        self._left = 0
        self._stream = 0
        self._pending: dict[int, bytes] = {}

    def read1(self, size: int, /) -> bytes:
        """Return whole lines of one stream, as they come; nothing at the end. What the two streams print never mixes within a line."""
        while (piece := self._piece(size)) is not None:
            whole, newline, rest = (self._pending.pop(self._stream, b"") + piece).rpartition(b"\n")
            if len(rest) > LINE_CAP:
                return whole + newline + rest
            if rest:
                self._pending[self._stream] = rest
            if newline:
                return whole + newline
        left = b"".join(rest + b"\n" for rest in self._pending.values())
        self._pending.clear()
        return left

    def _piece(self, size: int) -> bytes | None:
        """Return a piece of the frame at hand, or of the next one; None at the end."""
        while not self._left:  # a frame may be empty, and that is not the end
            header = self._exactly(8)
            if header is None:
                return None
            self._stream, self._left = header[0], int.from_bytes(header[4:], "big")
        data = self._receive(min(size, self._left))
        self._left -= len(data)
        return data or None

    def _exactly(self, count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            piece = self._receive(count - len(data))
            if not piece:
                return None
            data += piece
        return data

    def _receive(self, size: int) -> bytes:
        try:
            return self._socket.recv(size)
        except OSError:  # closed under us: the end
            return b""

    def hang_up(self) -> None:
        """End the connection for reader and writer, from any thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it."""
        self.hang_up()
        for end in (self._connection, self._socket):  # a file of a socket counts as one more user of it
            with contextlib.suppress(OSError):
                end.close()


class DockerProcess:
    """A started container. ``detail`` is what the engine says of its isolation; one that is to be kept is killed but not removed."""

    def __init__(
        self, docker: Docker, container: str, output: Output, log: Path, detail: Mapping[str, bool], *, keep: bool = False
    ) -> None:
        self._keep = keep
        self.isolation: Isolation = "full" if all(detail.values()) else "partial"
        self.isolation_detail: Mapping[str, bool] = dict(detail)
        self.container = container
        self._docker, self._output = docker, output
        self._log = LogPump(output, log)
        self._log.start()
        self._ended: Ended | None = None
        self._lost: EngineUnavailable | None = None
        self._waiter = threading.Thread(target=self._wait, name="longctx-wait", daemon=True)
        self._waiter.start()

    def _wait(self) -> None:
        """Wait for the end on the engine's word, without asking again and again."""
        try:
            code = int(self._docker.api.wait(self.container)["StatusCode"])
            memory = bool(self._docker.api.inspect_container(self.container)["State"]["OOMKilled"])
        except Exception as error:  # the engine went away, or somebody removed the container
            self._lost = EngineUnavailable(f"The Docker Engine lost the container while it ran: {error}", START_STEP)
            return
        self._log.join(_PATIENCE)
        # A shell's convention, which the init process follows: 128 and the signal's number.
        self._ended = Ended(code=128 - code if 128 < code < 128 + 65 else code, oom_killed=memory)

    def poll(self) -> Ended | None:
        """Say how it ended, or None while it runs. Raises EngineUnavailable when the engine lost it."""
        if self._lost is not None:
            raise self._lost
        return self._ended

    def terminate(self) -> None:
        """Send SIGTERM to the init process, which passes it on to the runner."""
        self._signal("SIGTERM")

    def kill(self) -> None:
        """Kill everything in the container."""
        self._signal("SIGKILL")

    def _signal(self, name: str) -> None:
        from docker.errors import APIError

        if self._ended is None:
            with contextlib.suppress(APIError):  # it has just ended
                self._docker.ask("stopping a container", lambda: self._docker.api.kill(self.container, name))

    def __enter__(self) -> "Process":
        """Return self."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Kill it if it still runs and remove it. Where the engine is gone it is removed the next time one starts."""
        with contextlib.suppress(EngineUnavailable):
            if self._keep:
                self.kill()
            else:
                remove(self._docker, self.container)
        self._output.hang_up()
        self._log.join(_PATIENCE)
        self._waiter.join(_PATIENCE)


def remove(docker: Docker, container: str) -> None:
    """Kill and remove a container with its anonymous volumes; one that is gone already is fine. Raises EngineUnavailable."""
    from docker.errors import APIError

    with contextlib.suppress(APIError):
        docker.ask("removing a container", lambda: docker.api.remove_container(container, force=True, v=True))


def owner(pid: int | None = None) -> dict[str, str]:
    """Return labels that name a process for good: host, its boot, process id and the moment it started."""
    pid = os.getpid() if pid is None else pid
    return {"host": socket.gethostname(), "boot": _boot(), "pid": str(pid), "started": _started(pid) or ""}


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _started(pid: int) -> str | None:
    """Return when a process started, in clock ticks since the boot; None where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def abandoned(labels: Mapping[str, str]) -> bool:
    """Whether the process that held a container is gone for sure: of this host, and dead or of an earlier boot."""
    told = {key: labels.get(f"{LABEL}.{key}", "") for key in ("host", "boot", "pid", "started")}
    if told["host"] != socket.gethostname() or not told["pid"].isdecimal():
        return False
    return told["boot"] != _boot() or _started(int(told["pid"])) != told["started"]


def sweep(docker: Docker) -> int:
    """Remove containers whose process was killed before it could; return how many. Raises EngineUnavailable."""
    found = list(_abandoned(docker))
    for container in found:
        remove(docker, container)
    return len(found)


def _abandoned(docker: Docker) -> Iterator[str]:
    found = docker.ask("listing containers", lambda: docker.api.containers(all=True, filters={"label": f"{LABEL}=job"}))
    for container in found:
        # The runner needs a moment to see its lifeline break; a container that is still running then is nobody's either.
        if abandoned(container["Labels"]):
            yield container["Id"]
