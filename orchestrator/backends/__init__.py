"""Where jobs are placed. One small module a backend; the registry is a literal dict."""

from collections.abc import Callable

from ..errors import UsageError
from .base import Backend


def _local(parallel: int) -> Backend:
    from .local import LocalBackend

    return LocalBackend(parallel)


BACKENDS: dict[str, Callable[[int], Backend]] = {"local": _local}


def make(name: str, parallel: int) -> Backend:
    """Return a backend that runs at most ``parallel`` tasks at once. Raises UsageError for an unknown name."""
    if name not in BACKENDS:
        raise UsageError(f"Unknown backend '{name}'.", f"Known: {', '.join(sorted(BACKENDS))}.")
    return BACKENDS[name](parallel)
