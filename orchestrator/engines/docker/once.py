"""One short command in a container that has nothing but an image: no network, nothing to write to but a home that is thrown away."""

import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from ...errors import EnvironmentFailed
from ..venv_env import base_environment
from .client import Docker, explanation
from .profile import HOME, NOBODY, bind

SECONDS = 900.0
"""The longest that importing torch may take from a cold disk."""


def once(
    docker: Docker, image: str, argv: Sequence[str], *, mounts: Sequence[str] = (), variables: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run ``argv`` and return how it ended with its output. ``mounts``: host folders, read-only under their own path.

    Raises EnvironmentFailed where it cannot be started, and EngineUnavailable.
    """
    from docker.errors import APIError

    api = docker.api
    clean = base_environment(PurePosixPath(argv[0]), home=HOME, temporary=HOME)
    body = {
        "Image": image, "Entrypoint": list(argv), "User": f"{NOBODY}:{NOBODY}",
        "Env": [f"{name}={value}" for name, value in {**clean, **(variables or {})}.items()],
        "HostConfig": {
            "NetworkMode": "none", "ReadonlyRootfs": True, "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"], "Init": True,
            "Tmpfs": {str(HOME): "rw,exec,nosuid,nodev,mode=1777"}, "LogConfig": {"Type": "json-file", "Config": {}},
            "Mounts": [bind(folder, folder, writable=False) for folder in mounts],
        },
    }  # fmt: skip
    try:
        container = docker.ask("creating a container", lambda: api.create_container_from_config(body))["Id"]
    except APIError as error:
        raise _cannot(argv, image, error) from error
    try:
        docker.ask("starting a container", lambda: api.start(container))
        code = int(docker.ask("waiting for a container", lambda: api.wait(container), SECONDS)["StatusCode"])
        out = docker.ask("reading a log", lambda: api.logs(container, stdout=True, stderr=False))
        err = docker.ask("reading a log", lambda: api.logs(container, stdout=False, stderr=True))
        return subprocess.CompletedProcess(list(argv), code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))
    except APIError as error:
        raise _cannot(argv, image, error) from error
    finally:
        with contextlib.suppress(APIError):
            docker.ask("removing a container", lambda: api.remove_container(container, force=True))


def _cannot(argv: Sequence[str], image: str, error: Exception) -> EnvironmentFailed:
    return EnvironmentFailed(f"{argv[0]} cannot be run in {image}: {explanation(error)}.", "`longctx doctor` says what this engine can do.")
