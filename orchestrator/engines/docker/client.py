"""The Docker Engine as longctx talks to it: the SDK's calls on our own clock, its failures as our errors.

The socket's timeout is off: whether a build, a load or a silent container takes long says nothing about the engine. A call that should
be quick gets a limit of its own here, and a thread that never comes back does not hold the caller.
"""

import contextlib
import functools
import importlib.util
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ...errors import EngineUnavailable, StorageError

T = TypeVar("T")
QUICK_SECONDS = 60.0
"""Limit of a call that takes milliseconds on a healthy engine."""
PING_SECONDS = 10.0
START_STEP = "Start it (`systemctl start docker`, or `dockerd`), check DOCKER_HOST, or choose another engine: `--engine venv`."


class Docker:
    """A connection. ``api`` is the SDK's low-level client; ``info`` is read once."""

    def __init__(self, api: Any) -> None:
        self.api = api

    @functools.cached_property
    def info(self) -> Mapping[str, Any]:
        """What the engine says of itself."""
        return dict(self.ask("saying what it is", self.api.info))

    @property
    def rootless(self) -> bool:
        """Whether the engine runs as an ordinary user: root inside is then that user."""
        return any("rootless" in str(option) for option in self.info.get("SecurityOptions") or ())

    @property
    def cdi(self) -> bool:
        """Whether the engine knows CDI devices (since 25.0, when switched on)."""
        return bool(self.info.get("CDISpecDirs"))

    def ask(self, doing: str, call: Callable[[], T], seconds: float = QUICK_SECONDS) -> T:
        """Make a call. Raises EngineUnavailable when the engine is gone or silent, StorageError when its disk is full, APIError else."""
        return within(seconds, doing, lambda: translated(doing, call))

    def close(self) -> None:
        """Close the connection."""
        self.api.close()


def connect() -> Docker:
    """Connect to the engine that DOCKER_HOST names, or the local one. Raises EngineUnavailable."""
    import docker

    return Docker(translated("connecting", lambda: docker.APIClient(**docker.utils.kwargs_from_env(), version="auto", timeout=None)))


def answers() -> str | None:
    """Return why no engine answers, or None."""
    if importlib.util.find_spec("docker") is None:
        return "the Python package docker is missing; `python3 bootstrap.py` installs it"
    from docker.errors import APIError

    try:
        docker = within(PING_SECONDS, "connecting", connect)
        with contextlib.closing(docker):
            docker.ask("answering a ping", docker.api.ping, PING_SECONDS)
            kind = docker.info.get("OSType", "linux")
            return None if kind == "linux" else f"it runs {kind} containers, and images are for linux"
    except EngineUnavailable as error:
        return str(error.args[0]).rstrip(".")
    except APIError as error:  # a proxy of the socket that forbids it, for one
        return f"the engine answers with an error: {explanation(error)}".rstrip(".")


def within(seconds: float, doing: str, call: Callable[[], T]) -> T:
    """Return what a call returns or raise what it raises. Raises EngineUnavailable when it takes longer than ``seconds``."""
    answer: list[T] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            answer.append(call())
        except BaseException as error:  # handed over to the caller's thread
            raised.append(error)

    thread = threading.Thread(target=work, name="longctx-docker", daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not answer:
        raise EngineUnavailable(f"The Docker Engine did not answer within {seconds:.0f} s while {doing}.", START_STEP)
    return answer[0]


def translated(doing: str, call: Callable[[], T]) -> T:
    """Make a call of the SDK; a lost engine and a full disk become our errors, other answers of the engine stay APIError."""
    import requests
    import urllib3
    from docker.errors import APIError, DockerException

    try:
        return call()
    except APIError as error:
        if "no space left on device" in str(error).lower():
            raise StorageError(
                f"The Docker Engine's disk is full ({doing}).", "Free some: `longctx images prune`, then run it again."
            ) from error
        raise
    except (requests.RequestException, urllib3.exceptions.HTTPError, DockerException, OSError) as error:
        raise EngineUnavailable(f"No Docker Engine answers ({doing}): {_reason(error)}.", START_STEP) from error


def explanation(error: Exception) -> str:
    """Return what the engine said, on one line."""
    return " ".join(str(getattr(error, "explanation", None) or error).split())


def _reason(error: BaseException) -> str:
    """Return the root of a chain of exceptions on one line: the SDK wraps a refused socket four times."""
    inner = error.__cause__ or next((one for one in error.args if isinstance(one, BaseException)), None) or getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        return _reason(inner)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
