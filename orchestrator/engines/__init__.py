"""How a process is isolated. One small module an engine; the registry is a literal dict."""

from collections.abc import Callable

from ..errors import UsageError
from ..settings import Settings
from .base import Engine


def _venv(settings: Settings) -> Engine:
    from .venv import VenvEngine

    return VenvEngine(settings)


def _docker(settings: Settings) -> Engine:
    from .docker.engine import DockerEngine

    return DockerEngine(settings)


ENGINES: dict[str, Callable[[Settings], Engine]] = {"docker": _docker, "venv": _venv}
"""Factories by name; each imports its engine when called, so that listing them costs nothing."""


def make(name: str, settings: Settings) -> Engine:
    """Return the engine called ``name``. Raises UsageError if there is none."""
    if name not in ENGINES:
        raise UsageError(f"no engine is called {name!r}", f"Engines: {', '.join(ENGINES)}.")
    return ENGINES[name](settings)
