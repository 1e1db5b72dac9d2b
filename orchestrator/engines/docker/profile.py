"""The isolation profile: from a ContainerSpec and what the host is to the one call that creates the container. Pure.

Nothing here can be switched off by a manifest. What the engine then made is read back by :func:`held`, so that a result says what was in
force and not what was asked for.
"""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ...errors import EnvironmentFailed
from ..base import ContainerSpec
from ..venv_env import job_environment

ROOT = PurePosixPath("/longctx")
CODE = ROOT / "code"
PYTHON = PurePosixPath("/opt/environment/bin/python")
HOME = PurePosixPath("/tmp")
NOBODY = 65532
"""Whom a container runs as when the caller is root: an id that owns nothing."""
TEMPORARY_BYTES = 4 * 2**30
MEMORY_SHARE = 0.9
"""Of the host's memory, where the manifest sets no limit: the host outlives the job."""
LABEL = "longctx"
_OUR_FAULT = "This is a fault of longctx; please report it."


@dataclass(frozen=True, kw_only=True)
class Host:
    """What the profile depends on besides the job."""

    user: int
    """Caller's uid."""
    group: int
    rootless: bool
    memory_bytes: int
    processors: int
    owner: Mapping[str, str]
    """Labels that say which process holds the container."""


def identity(host: Host) -> tuple[int, int]:
    """Return uid and gid inside: the caller's; an id that owns nothing for root; root where that is the caller (rootless)."""
    if host.rootless:
        return 0, 0
    return (NOBODY, NOBODY) if host.user == 0 else (host.user, host.group)


def creation(
    spec: ContainerSpec,
    image: str,
    host: Host,
    devices: Sequence[Mapping[str, Any]],
    *,
    python: str = str(PYTHON),
    extra: Sequence[str] = (),
    kept: bool = False,
    terminal: bool = False,
) -> dict[str, Any]:
    """Return the body of the engine's ``POST /containers/create``.

    ``extra`` are host folders mounted read-only under their own path (packages that a host brings). ``kept``: a person wants to look at the
    container afterwards, so no sweep takes it. ``terminal``: somebody types in it. Raises EnvironmentFailed for a mount outside the root.
    """
    user, group = identity(host)
    memory = spec.memory_bytes or int(host.memory_bytes * MEMORY_SHARE)
    threads = min(spec.threads or host.processors, host.processors)
    variables = job_environment(spec, PurePosixPath(python), ROOT, home=HOME, temporary=HOME)
    # OpenMP counts the machine's processors, whatever share of them the container has.
    variables |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS") if name not in spec.env}
    return {
        "Image": image,
        "Entrypoint": [python, "-s", "-B"],
        "Cmd": [part.replace("{root}", str(ROOT)) for part in spec.argv],
        "Env": [f"{name}={value}" for name, value in sorted(variables.items())],
        "User": f"{user}:{group}",
        "WorkingDir": str(ROOT),
        "Labels": labels(spec, host) | ({LABEL: "kept"} if kept else {}),
        "Tty": terminal,
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": {
            "NetworkMode": "none",
            "ReadonlyRootfs": True,
            "Tmpfs": {str(HOME): f"rw,exec,nosuid,nodev,size={min(TEMPORARY_BYTES, memory)},mode=1777"},
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Init": True,
            "PidsLimit": spec.pids,
            "Memory": memory,
            "MemorySwap": memory,
            "NanoCpus": threads * 10**9,
            "ShmSize": min(spec.shm_bytes, memory),
            "IpcMode": "private",
            "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
            "LogConfig": {"Type": "none", "Config": {}},
            "RestartPolicy": {"Name": "no"},
            "DeviceRequests": [dict(request) for request in devices],
            "Mounts": [*_mounts(spec), *(bind(folder, folder, writable=False) for folder in extra)],
        },
    }


def labels(spec: ContainerSpec, host: Host) -> dict[str, str]:
    """Return a container's labels: whose it is, and which process holds it."""
    told = {"run": spec.run, "job": spec.job, "attempt": str(spec.attempt), "environment": spec.environment.name, **host.owner}
    return {LABEL: "job", **{f"{LABEL}.{key}": value for key, value in told.items()}}


def _mounts(spec: ContainerSpec) -> list[dict[str, Any]]:
    found = []
    for mount in spec.mounts:
        parts = PurePosixPath(mount.target).parts
        if not parts or mount.target.startswith("/") or ".." in parts:
            raise EnvironmentFailed(f"a mount's target must lie below the root: {mount.target!r}", _OUR_FAULT)
        found.append(bind(str(mount.source.absolute()), posixpath.join(ROOT, mount.target), writable=mount.writable))
    return found


def bind(source: str, target: str, *, writable: bool) -> dict[str, Any]:
    """Return a bind mount of a host path, as the engine wants it."""
    # Private: nothing that is mounted inside, or below the source later on, shows on the other side.
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": not writable, "BindOptions": {"Propagation": "rprivate"}}


def held(inspected: Mapping[str, Any], security: Sequence[str]) -> dict[str, bool]:
    """Return, line by line, what the engine says a container has: ``docker inspect`` and the engine's own security options."""
    host = inspected["HostConfig"]
    mounts = inspected.get("Mounts") or []
    return {
        "network_none": host["NetworkMode"] == "none",
        "read_only_root": bool(host["ReadonlyRootfs"]),
        "read_only_mounts": [mount["Destination"] for mount in mounts if mount["RW"]] in ([], [str(ROOT / "out")]),
        "capabilities_dropped": host["CapDrop"] == ["ALL"] and not host["CapAdd"] and not host["Privileged"],
        "no_new_privileges": any(option.startswith("no-new-privileges") for option in host["SecurityOpt"] or ()),
        "seccomp": any("seccomp" in option and "unconfined" not in option for option in security)
        and not any("seccomp=unconfined" in option for option in host["SecurityOpt"] or ()),
        "init": bool(host["Init"]),
        "pids_limit": (host["PidsLimit"] or 0) > 0,
        "memory_limit": host["Memory"] > 0 and host["MemorySwap"] == host["Memory"],
        "shm_limit": host["ShmSize"] > 0 and host["IpcMode"] == "private",
        "not_root": inspected["Config"]["User"].split(":")[0] not in ("", "0", "root") or any("rootless" in option for option in security),
        "gpus_by_uuid": not any(request.get("Count") for request in host["DeviceRequests"] or ()),
    }
