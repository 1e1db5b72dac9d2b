"""An engine that is gone, silent, full or of the wrong kind, told as what it is."""

import threading
import time
from typing import Any

import pytest
import requests
import urllib3
from docker.errors import APIError, DockerException

from longctx.orchestrator.engines.docker import client
from longctx.orchestrator.engines.docker.client import Docker, explanation, translated, within
from longctx.orchestrator.errors import EngineUnavailable, StorageError


class Api:
    def __init__(self, ping: Any = None, **info: Any) -> None:
        self._ping, self._info, self.asked, self.closed = ping, info, 0, False

    def info(self) -> dict[str, Any]:
        self.asked += 1
        return self._info

    def ping(self) -> bool:
        if isinstance(self._ping, Exception):
            raise self._ping
        return True

    def close(self) -> None:
        self.closed = True


def test_an_engine_that_never_answers_does_not_hold_the_caller() -> None:
    never = threading.Event()
    started = time.monotonic()
    with pytest.raises(EngineUnavailable, match="did not answer within 0 s while listing") as raised:
        within(0.05, "listing", never.wait)
    assert time.monotonic() - started < 5
    assert "--engine venv" in raised.value.next_step
    never.set()


def test_what_a_call_returns_or_raises_reaches_the_caller() -> None:
    assert within(5, "adding", lambda: 1 + 1) == 2
    assert within(5, "nothing", lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        within(5, "dividing", lambda: 1 // 0)


def raising(error: BaseException) -> Any:
    def call() -> None:
        raise error

    return call


REFUSED = requests.ConnectionError(
    urllib3.exceptions.ProtocolError("Connection aborted.", ConnectionRefusedError(111, "Connection refused"))
)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (REFUSED, "Connection refused"),
        (FileNotFoundError(2, "No such file or directory"), "No such file or directory"),
        (DockerException("Error while fetching server API version: x"), "server API version"),
        (urllib3.exceptions.ReadTimeoutError(None, "/", "Read timed out."), "Read timed out"),  # type: ignore[arg-type]
        (requests.exceptions.ChunkedEncodingError("broken"), "broken"),
    ],
)
def test_a_lost_engine(error: Exception, told: str) -> None:
    with pytest.raises(EngineUnavailable, match=rf"No Docker Engine answers \(listing\): .*{told}"):
        translated("listing", raising(error))


def test_a_full_disk_and_other_answers() -> None:
    with pytest.raises(StorageError, match="disk is full"):
        translated("x", raising(APIError("write /var/lib/x: no space left on device")))
    with pytest.raises(APIError):
        translated("x", raising(APIError("no such container")))


def test_what_the_engine_said_is_one_line() -> None:
    assert explanation(APIError("500", explanation="two\n lines")) == "two lines"
    assert explanation(ValueError("three\nfour")) == "three four"


def test_what_an_engine_is() -> None:
    api = Api(SecurityOptions=["name=seccomp,profile=builtin", "name=rootless"], CDISpecDirs=["/etc/cdi"])
    docker = Docker(api)
    assert docker.rootless
    assert docker.cdi
    assert api.asked == 1
    plain = Docker(Api(SecurityOptions=None, CDISpecDirs=[]))
    assert not plain.rootless
    assert not plain.cdi


@pytest.mark.parametrize(
    ("api", "told"),
    [
        (Api(OSType="linux"), None),
        (Api(OSType="windows"), "windows containers"),
        (Api(ping=REFUSED), "Connection refused"),
        (Api(ping=APIError("403 Forbidden", explanation="not allowed")), "error: not allowed"),
    ],
)
def test_why_no_engine_answers(monkeypatch: pytest.MonkeyPatch, api: Api, told: str | None) -> None:
    monkeypatch.setattr(client, "connect", lambda: Docker(api))
    answer = client.answers()
    assert (answer is None) if told is None else (answer is not None and told in answer)
    assert api.closed


def test_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    assert client.answers() == "No Docker Engine answers (connecting): Connection refused"
