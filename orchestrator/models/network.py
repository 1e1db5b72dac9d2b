"""What the host settings mean for a program that fetches."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..settings import Settings


def network_variables(settings: Settings) -> dict[str, str]:
    """Return the environment variables that uv and the hub's client read: wheelhouse, certificates, proxy, offline."""
    variables = {}
    if settings.wheelhouse is not None:
        variables["UV_FIND_LINKS"] = str(settings.wheelhouse.expanduser())
    if settings.certificates is not None:
        variables["SSL_CERT_FILE"] = str(settings.certificates.expanduser())
    if settings.proxy is not None:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            variables[name] = settings.proxy
    if settings.offline:
        variables["UV_OFFLINE"] = "1"
    return variables


@contextmanager
def network_environment(settings: Settings) -> Iterator[None]:
    """Set those variables in this process for a while: a client made inside reads them."""
    variables = network_variables(settings)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
