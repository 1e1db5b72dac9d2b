"""A container's output put together from its frames, how it ended, and which containers nobody holds."""

import dataclasses
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError

from longctx.orchestrator.engines.base import Ended
from longctx.orchestrator.engines.docker import process
from longctx.orchestrator.engines.docker.client import Docker
from longctx.orchestrator.engines.docker.process import DockerProcess, Output, abandoned, owner, sweep
from longctx.orchestrator.engines.docker.profile import LABEL
from longctx.orchestrator.errors import EngineUnavailable


def frame(text: bytes, stream: int = 1) -> bytes:
    return struct.pack(">BxxxL", stream, len(text)) + text


def read(*pieces: bytes) -> bytes:
    """Send pieces one by one, each when the one before was taken; return all that is read."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        output = Output(ours)

        def send() -> None:
            for piece in pieces:
                theirs.sendall(piece)
                time.sleep(0.002)
            theirs.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        found = b""
        while data := output.read1(1 << 16):
            found += data
        sender.join()
    return found


STREAM = frame(b"first\n") + frame(b"second\n", 2) + frame(b"x" * 300 + b"\n")


@pytest.mark.parametrize("size", [1, 3, 7, 8, 9, 14, 50, 1000])
def test_frames_torn_anywhere(size: int) -> None:
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert read(*pieces) == b"first\nsecond\n" + b"x" * 300 + b"\n"


def test_an_empty_frame_is_not_the_end() -> None:
    assert read(frame(b"a") + frame(b"") + frame(b"b", 2)) == b"a\nb\n"


@pytest.mark.parametrize("cut", [3, 8, 10])
def test_a_stream_that_breaks_off_ends(cut: int) -> None:
    assert read(frame(b"whole\n") + frame(b"broken")[:cut]).rstrip(b"\n") == (b"whole\n" + b"broken"[: max(cut - 8, 0)]).rstrip(b"\n")


def test_lines_of_the_two_streams_never_mix() -> None:
    assert (
        read(frame(b"out, ") + frame(b"err\n", 2) + frame(b"and more") + frame(b"last", 2) + frame(b"\n")) == b"err\nout, and more\nlast\n"
    )


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=lambda: [theirs.sendall(frame(b"x" * 2**15)) for _ in range(3)])
        sender.start()
        output, found = Output(ours), b""
        while len(found) <= 2**16:
            found += output.read1(2**16)
        sender.join()


def test_hanging_up_ends_a_waiting_reader() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        output = Output(ours)
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(output.read1(10)))
        reader.start()
        output.hang_up()
        reader.join(5)
    assert found == [b""]


class Api:
    """One container: it ends when told."""

    def __init__(self, code: int = 0, oom: bool = False) -> None:
        self.code, self.oom, self.done = code, oom, threading.Event()
        self.calls: list[str] = []
        self.listed: list[dict[str, Any]] = []
        self.lost: Exception | None = None

    def wait(self, container: str) -> dict[str, int]:
        self.done.wait(10)
        if self.lost is not None:
            raise self.lost
        return {"StatusCode": self.code}

    def inspect_container(self, container: str) -> dict[str, Any]:
        return {"State": {"OOMKilled": self.oom}}

    def kill(self, container: str, name: str) -> None:
        self.calls.append(name)
        if self.done.is_set():
            raise APIError("is not running")

    def remove_container(self, container: str, **how: Any) -> None:
        self.calls.append(f"remove {container}")
        self.done.set()

    def containers(self, **how: Any) -> list[dict[str, Any]]:
        self.calls.append(f"list {how}")
        return self.listed


@dataclasses.dataclass
class Bench:
    api: Api
    theirs: socket.socket
    start: Callable[..., DockerProcess]
    log: Path


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    api = Api()
    ours, theirs = socket.socketpair()
    log = tmp_path / "log.txt"

    def start(detail: Mapping[str, bool] | None = None, **more: Any) -> DockerProcess:
        return DockerProcess(Docker(api), "c", Output(ours), log, detail or {"network_none": True}, **more)

    with ours, theirs:
        yield Bench(api, theirs, start, log)
        api.done.set()


def ended(started: DockerProcess) -> Ended:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if (found := started.poll()) is not None:
            return found
        time.sleep(0.005)
    raise AssertionError("it does not end")


@pytest.mark.parametrize(
    ("code", "oom", "expected"),
    [(0, False, 0), (3, False, 3), (137, True, -signal.SIGKILL), (143, False, -signal.SIGTERM), (255, False, 255), (128, False, 128)],
)
def test_how_it_ended(bench: Bench, code: int, oom: bool, expected: int) -> None:
    bench.api.code, bench.api.oom = code, oom
    with bench.start() as started:
        assert started.poll() is None
        bench.theirs.sendall(frame(b"\x1b[31mhello\x1b[0m\n"))
        bench.theirs.shutdown(socket.SHUT_WR)
        bench.api.done.set()
        assert ended(started) == Ended(code=expected, oom_killed=oom)  # type: ignore[arg-type]
        assert bench.log.read_text() == "hello\n", "all of the log is there when the end is told"
    assert bench.api.calls[-1] == "remove c"


def test_one_line_that_does_not_hold_makes_it_partial(bench: Bench) -> None:
    with bench.start({"network_none": True, "seccomp": False}) as started:
        assert (started.isolation, started.isolation_detail["seccomp"]) == ("partial", False)


def test_signals(bench: Bench) -> None:
    with bench.start() as started:
        started.terminate()
        started.kill()
        bench.api.done.set()
        started.kill()  # it has just ended: the engine's complaint is none of ours
    assert bench.api.calls[:2] == ["SIGTERM", "SIGKILL"]


def test_it_is_removed_whatever_was_raised(bench: Bench) -> None:
    with pytest.raises(ZeroDivisionError), bench.start():
        raise ZeroDivisionError
    assert bench.api.calls == ["remove c"]


def test_one_that_is_kept_is_killed_and_not_removed(bench: Bench) -> None:
    with bench.start(keep=True):
        bench.api.done.set()
    assert bench.api.calls in ([], ["SIGKILL"])


def test_an_engine_that_loses_the_container(bench: Bench) -> None:
    bench.api.lost = APIError("no such container")
    bench.api.done.set()
    with pytest.raises(EngineUnavailable, match="lost the container"), bench.start() as started:
        ended(started)


def labels(**changes: str) -> dict[str, str]:
    return {LABEL: "job", **{f"{LABEL}.{key}": value for key, value in {**owner(), **changes}.items()}}


def dead() -> dict[str, str]:
    """Return the labels of a process that was there and is not any more."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        told = owner(child.pid)
    return {LABEL: "job", **{f"{LABEL}.{key}": value for key, value in told.items()}}


def test_an_owner_is_named_for_good() -> None:
    mine = owner()
    assert (mine["host"], mine["pid"]) == (socket.gethostname(), str(os.getpid()))
    assert mine["boot"]
    assert mine["started"].isdecimal()


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({}, False), ({"host": "another"}, False), ({"pid": ""}, False), ({"pid": "x"}, False),
        ({"started": "1"}, True), ({"boot": "an earlier one"}, True), ({"pid": "4194305"}, True),
    ],
)  # fmt: skip
def test_whose_owner_is_gone_for_sure(changes: dict[str, str], gone: bool) -> None:
    assert abandoned(labels(**changes)) is gone


def test_a_dead_process_has_abandoned_its_container() -> None:
    assert abandoned(dead())


def test_a_sweep_takes_only_what_dead_processes_left() -> None:
    api = Api()
    api.listed = [
        {"Id": "mine", "Labels": labels()}, {"Id": "orphan", "Labels": dead()}, {"Id": "elsewhere", "Labels": labels(host="another")},
        {"Id": "unnamed", "Labels": {LABEL: "job"}},
    ]  # fmt: skip
    assert sweep(Docker(api)) == 1
    assert api.calls == ["list {'all': True, 'filters': {'label': 'longctx=job'}}", "remove orphan"]


def test_removing_one_that_is_gone_is_fine() -> None:
    class Gone(Api):
        def remove_container(self, container: str, **how: Any) -> None:
            raise APIError("No such container")

    process.remove(Docker(Gone()), "c")
