"""The docker engine behind the port: images found or made, a job's container created under the profile, attached, started."""

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...builds.make import Image, Maker
from ...contracts.job import DeviceKind
from ...contracts.manifest import EnvironmentSpec, SystemSpec
from ...contracts.plan import LockedEnvironment
from ...environments import Environment, find_environment
from ...errors import EngineUnavailable, EnvironmentFailed, StorageError
from ...settings import Settings
from .. import host
from ..base import ContainerSpec, Mount, Process, Report
from . import gpus, process, profile
from .client import Docker, answers, connect, explanation
from .once import once


class DockerEngine:
    """One engine, the one that DOCKER_HOST names or the local one. ``look_up`` is how an environment is found by its name."""

    name = "docker"

    def __init__(self, settings: Settings, *, look_up: Callable[[str], Environment] = find_environment) -> None:
        self._settings, self._look_up = settings, look_up

    @functools.cached_property
    def docker(self) -> Docker:
        """The connection. Raises EngineUnavailable."""
        return connect()

    @functools.cached_property
    def maker(self) -> Maker:
        """What finds and makes images."""
        return Maker(docker=self.docker, settings=self._settings)

    @functools.cached_property
    def host(self) -> profile.Host:
        """What the profile needs to know of this host."""
        info = self.docker.info
        return profile.Host(
            user=os.getuid(), group=os.getgid(), rootless=self.docker.rootless, memory_bytes=int(info["MemTotal"]),
            processors=int(info["NCPU"]), owner=process.owner(),
        )  # fmt: skip

    def unavailable(self) -> str | None:
        """Return why no engine answers, or None."""
        return answers()

    def find(self, environment: EnvironmentSpec, device: DeviceKind) -> LockedEnvironment | None:
        """Return the environment if its image is there; a recorded one if it did not change."""
        known = self._look_up(environment.name)
        if known.spec.system is not None:
            with contextlib.suppress(EnvironmentFailed):
                return self._as_recorded(known, known.spec.system, device)
            return None
        found = self.maker.find(known, device)
        return found[1] if found else None

    def prepare(self, environment: EnvironmentSpec, device: DeviceKind, report: Report) -> LockedEnvironment:
        """Build or find the environment's image. Raises EnvironmentFailed, StorageError or EngineUnavailable."""
        process.sweep(self.docker)
        known = self._look_up(environment.name)
        if known.spec.system is not None:
            return self._as_recorded(known, known.spec.system, device)
        found = self.maker.find(known, device)
        if found is None:
            self.maker.make([(known, device)], report)
            found = self.maker.find(known, device)
        if found is None:
            raise EnvironmentFailed(
                f"The image of environment {environment.name} ({device}) is not there after it was built.", "Was it removed meanwhile?"
            )
        return found[1]

    def start(self, spec: ContainerSpec, *, keep: str | None = None, image: str | None = None, python: str | None = None) -> Process:
        """Create the job's container, attach, start it. Raises EnvironmentFailed, EngineUnavailable or StorageError.

        ``keep`` names a container that stays when the process is left. ``image`` and ``python`` are another image's id and its interpreter,
        for a process that needs no environment.
        """
        container = self._create(spec, keep, image=image, python=python)
        return self._attached(container, spec, keep=keep is not None)

    def interact(self, spec: ContainerSpec, *, keep: str) -> int:
        """Create the same container with a terminal, named ``keep``, and hand this terminal to it; return its exit code.

        The client does the typing: it knows raw terminals, resizing and detaching. Raises as :meth:`start` does.
        """
        client = shutil.which("docker")
        if client is None:
            raise EngineUnavailable("A shell in a container needs the docker client, and there is none on PATH.", "Install `docker-cli`.")
        self._create(spec, keep, terminal=True)
        return subprocess.run([client, "start", "--attach", "--interactive", keep], check=False).returncode

    def kept(self, keep: str) -> tuple[str, ...]:
        """Return the commands that look again at a container that was kept, and remove it."""
        return f"docker start -ai {keep}", f"docker rm {keep}"

    def _create(
        self, spec: ContainerSpec, keep: str | None, *, image: str | None = None, python: str | None = None, terminal: bool = False
    ) -> str:
        """Create a job's container and return its id."""
        system = spec.environment.system
        body = profile.creation(
            _without_code(spec), image or self.image(spec).id, self.host, self._devices(spec), kept=keep is not None, terminal=terminal,
            python=python or (str(profile.PYTHON) if system is None else system.python), extra=() if system is None else system.mounts,
        )  # fmt: skip
        self._open_up(spec)
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        return self._created(body, keep)

    def image(self, spec: ContainerSpec) -> Image:
        """Return the image that a job runs in: its environment's, with the code that the job names on top. Raises EnvironmentFailed."""
        system = spec.environment.system
        if system is not None:
            found = self._image_of(system)
        elif (made := self.maker.find(self._look_up(spec.environment.name), spec.device)) is not None:
            found = made[0]
        else:
            raise EnvironmentFailed(
                f"There is no image of environment {spec.environment.name} for {spec.device} any more.", "Build it: `longctx images build`."
            )
        code = _code(spec)
        return found if code is None else self.maker.family(found, spec.environment.name, spec.family, spec.device, code.source)

    def _as_recorded(self, known: Environment, system: SystemSpec, device: DeviceKind) -> LockedEnvironment:
        """Return a recorded environment as found in its image. Raises EnvironmentFailed when it changed."""
        image = self._image_of(system)

        def run(argv: Sequence[str]) -> "subprocess.CompletedProcess[str]":
            return once(self.docker, image.id, argv, mounts=system.mounts, variables=system.variables)

        found = host.as_recorded(known, device, host.ask(run, system.python), self.name)
        return found.model_copy(update={"image": image.id})

    def _image_of(self, system: SystemSpec) -> Image:
        if system.image is None:
            raise EnvironmentFailed(
                f"The Python {system.python} was recorded on this host, outside any image.",
                "Run it with `--engine venv`, or record one in an image: longctx config system --image IMAGE --python PATH.",
            )
        if (image := self.maker.inspect(system.image)) is None:
            raise EnvironmentFailed(
                f"The image {system.image} of environment system is not here.", "Load it, or forget it: longctx config system --remove."
            )
        return image

    def _devices(self, spec: ContainerSpec) -> list[dict[str, Any]]:
        info = self.docker.info
        cdi = gpus.cdi_devices(info.get("CDISpecDirs") or ()) if spec.gpus else frozenset()
        return gpus.device_requests(spec.gpus, cdi=cdi, nvidia_runtime="nvidia" in (info.get("Runtimes") or {}))

    def _created(self, body: Mapping[str, Any], name: str | None) -> str:
        from docker.errors import APIError, ImageNotFound

        api = self.docker.api
        try:
            made = self.docker.ask("creating a container", lambda: api.create_container_from_config(dict(body), name))
        except ImageNotFound as error:
            raise EnvironmentFailed(f"Image {body['Image']} disappeared.", "Build it: `longctx images build`.") from error
        except APIError as error:
            raise _refused(error) from error
        return str(made["Id"])

    def _attached(self, container: str, spec: ContainerSpec, *, keep: bool) -> Process:
        from docker.errors import APIError

        api = self.docker.api
        try:
            parameters = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            attached = self.docker.ask("attaching to a container", lambda: api.attach_socket(container, parameters))
            output = process.Output(attached)
            self.docker.ask("starting a container", lambda: api.start(container), seconds=300)
            seen = self.docker.ask("inspecting a container", lambda: api.inspect_container(container))
        except BaseException as error:
            with contextlib.suppress(EngineUnavailable):
                process.remove(self.docker, container)
            if isinstance(error, APIError):
                raise _refused(error) from error
            raise
        detail = profile.held(seen, self.docker.info.get("SecurityOptions") or ())
        return process.DockerProcess(self.docker, container, output, spec.log, detail, keep=keep)

    def _open_up(self, spec: ContainerSpec) -> None:
        """Let whoever the container runs as write to ``out/`` and read everything else. Raises StorageError naming what it may not read."""
        user, group = profile.identity(self.host)
        if user == self.host.user or self.host.rootless:
            return
        for mount in spec.mounts:
            if mount.writable:
                for path in (mount.source, *mount.source.rglob("*")):
                    os.chown(path, user, group, follow_symlinks=False)
            else:
                self._readable(mount)

    def _readable(self, mount: Mount) -> None:
        own = (self._settings.cache, self._settings.runs.absolute())
        for path in (mount.source, *(mount.source.rglob("*") if mount.source.is_dir() else ())):
            need = 0o005 if path.is_dir() else 0o004
            mode = path.stat().st_mode
            if mode & need == need:
                continue
            if any(path.is_relative_to(place) for place in own):
                path.chmod(mode | need)
                continue
            raise StorageError(
                f"{path} may only be read by its owner, and containers of root run as user {profile.NOBODY}.",
                f"Let others read it (`chmod -R o+rX {mount.source}`), or run longctx as the user who owns it.",
            )


def _code(spec: ContainerSpec) -> Mount | None:
    return next((mount for mount in spec.mounts if mount.target == "code"), None)


def _without_code(spec: ContainerSpec) -> ContainerSpec:
    """The job's code is a layer of the image, not a mount."""
    from dataclasses import replace

    return replace(spec, mounts=tuple(mount for mount in spec.mounts if mount.target != "code"))


_HINTS: Sequence[tuple[str, str]] = (
    ("unresolvable cdi devices", "The engine does not know this GPU: `nvidia-ctk cdi generate`, then `longctx doctor`."),
    ("could not select device driver", "It knows neither CDI nor NVIDIA's runtime: install NVIDIA's toolkit, then `longctx doctor`."),
    ("bind source path does not exist", "It does not see this machine's files: run longctx where the engine runs."),
    ("cdi", "Switch CDI on in the engine (`\"features\": {\"cdi\": true}` in /etc/docker/daemon.json), then `longctx doctor`."),
)  # fmt: skip


def _refused(error: Exception) -> EnvironmentFailed:
    told = explanation(error)
    step = next((hint for part, hint in _HINTS if part in told.lower()), "`longctx doctor` says what this engine can do.")
    return EnvironmentFailed(f"The Docker Engine refused to start the job: {told}.", step)
