"""``longctx doctor``: what this host offers, line by line, with what was seen and what to do next. Nothing is written outside the cache.

Each check is a function that looks at one thing; what is not there is no error but an answer. The isolation is not read from settings but
tried, from inside, under the profile of a job.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import devices
from .contracts.manifest import EnvironmentSpec
from .engines import proof
from .engines.docker import gpus, profile
from .engines.docker.client import Docker
from .environments import environment_names, find_environment
from .errors import EngineUnavailable, LongctxError
from .settings import Settings, config_path, load_settings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .engines.docker.engine import DockerEngine
    from .engines.venv import VenvEngine

State = Literal["ok", "warning", "failed"]
LOW_BYTES, EMPTY_BYTES = 20 * 2**30, 2 * 2**30
"""Free space below which an image may not fit any more, and below which a run may not."""
PARTLY = "The venv engine isolates partly; where that matters, use `--engine docker`."
IMAGES_STEP = "`longctx images build` makes them; `longctx run` makes those it needs."


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line: what it is about, how it stands, what was seen, and what to do next (nothing when it is well)."""

    part: str
    name: str
    state: State
    seen: str
    next_step: str = ""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All checks, and the engines that can be used."""

    checks: Sequence[Check]
    engines: Sequence[str]

    @property
    def usable(self) -> bool:
        """Whether jobs can run here: the default takes the first engine that answers."""
        return bool(self.engines)

    def plain(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {"usable": self.usable, "engines": list(self.engines), "checks": [asdict(check) for check in self.checks]}


def examine() -> Diagnosis:
    """Look at everything."""
    settings, checks = _settings()
    checks += disk(settings)
    checks += gpu()
    looks: dict[str, Callable[[Settings], Iterator[Check]]] = {"docker": docker, "venv": venv}
    engines = []
    with ThreadPoolExecutor() as pool:  # a person waits, and both do little but wait
        for name, found in zip(looks, pool.map(lambda look: list(look(settings)), looks.values()), strict=True):
            checks += found
            if found[0].state != "failed":
                engines.append(name)
    return Diagnosis(checks=checks, engines=engines)


def _settings() -> tuple[Settings, list[Check]]:
    path = config_path()
    try:
        settings = load_settings()
    except LongctxError as error:
        message, step = str(error).split("\n")[0], error.next_step
        cache = Path("~/.cache/longctx").expanduser()
        return Settings(cache=cache, data=cache / "data"), [
            Check(part="host", name="settings", state="failed", seen=message, next_step=step)
        ]
    seen = str(path) if path.exists() else f"{path} is not there: defaults are in force"
    return settings, [Check(part="host", name="settings", state="ok", seen=seen)]


def disk(settings: Settings) -> Iterator[Check]:
    """Say how much is free where longctx writes."""
    for name, path in (("cache", settings.cache), ("runs", settings.runs.absolute())):
        step = "Free some, or name another folder in the settings (`longctx config`)."
        there = _there(path)
        if os.access(there, os.W_OK):
            yield free(name, path, step)
        else:
            yield Check(part="host", name=f"disk: {name}", state="failed", seen=f"{there} cannot be written", next_step=step)


def _there(path: Path) -> Path:
    """Return a folder, or the nearest one above that is there."""
    return next((one for one in (path, *path.parents) if one.exists()), Path("/"))


def free(name: str, path: Path, step: str) -> Check:
    """Say how much is free on the disk of a folder."""
    try:
        left = shutil.disk_usage(_there(path)).free
    except OSError as error:
        return Check(
            part="host", name=f"disk: {name}", state="warning", seen=f"{path}: {error.strerror}", next_step="Check who may read it."
        )
    state: State = "failed" if left < EMPTY_BYTES else "warning" if left < LOW_BYTES else "ok"
    seen = f"{left / 2**30:,.1f} GiB free in {path}"
    return Check(part="host", name=f"disk: {name}", state=state, seen=seen, next_step="" if state == "ok" else step)


def gpu() -> Iterator[Check]:
    """Say which GPUs the driver lists, and how they are divided."""
    if shutil.which("nvidia-smi") is None:
        yield Check(part="gpu", name="driver", state="ok", seen="no nvidia-smi: jobs run on the processor")
        return
    found = devices.gpus()
    if not found:
        step = "Run `nvidia-smi`: the driver may not be loaded, or not fit."
        yield Check(part="gpu", name="driver", state="warning", seen="nvidia-smi lists no GPU", next_step=step)
        return
    names = ", ".join(f"{one.name} {one.uuid}" for one in found)
    yield Check(part="gpu", name="driver", state="ok", seen=f"{_query('driver_version')}: {names}")
    mig = _query("mig.mode.current")
    divided = "Enabled" in mig
    step = "Jobs get whole GPUs; a card that is divided (MIG) cannot be leased. Switch MIG off, or take another card." if divided else ""
    yield Check(part="gpu", name="MIG", state="warning" if divided else "ok", seen=mig or "not told", next_step=step)


def _query(field: str) -> str:
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ", ".join(sorted(set(done.stdout.split("\n")) - {""}))


def docker(settings: Settings) -> Iterator[Check]:
    """Look at the Docker Engine; the first line says whether it can be used."""
    from .engines.docker.engine import DockerEngine

    engine = DockerEngine(settings)
    if reason := engine.unavailable():
        step = _permission(reason) or "Start it (`systemctl start docker`), check DOCKER_HOST, or use `--engine venv`."
        yield Check(part="docker", name="engine", state="failed", seen=reason, next_step=step)
        return
    asked: Sequence[Callable[[], Iterator[Check]]] = (
        lambda: _docker_engine(engine.docker), _buildx, lambda: _images(engine, settings), lambda: _devices(engine.docker),
        lambda: _docker_isolation(engine, settings),
    )  # fmt: skip
    for ask in asked:
        try:
            yield from ask()
        except LongctxError as error:
            yield _raised("docker", error)


def _permission(reason: str) -> str:
    if "permission denied" not in reason.lower():
        return ""
    return "Join the group of its socket (`sudo usermod -aG docker $USER`, then log in again), use rootless Docker, or `--engine venv`."


def _raised(part: str, error: LongctxError) -> Check:
    return Check(part=part, name="problem", state="failed", seen=str(error.args[0]), next_step=error.next_step)


def _docker_engine(found: Docker) -> Iterator[Check]:
    info = found.info
    words = [
        f"version {info.get('ServerVersion')}", "rootless" if found.rootless else "as root", f"cgroup {info.get('CgroupVersion', '1')}",
        f"storage {info.get('Driver')}", f"{int(info.get('NCPU', 0))} processors, {int(info.get('MemTotal', 0)) / 2**30:,.1f} GiB",
    ]  # fmt: skip
    missing = [name for name, key in (("memory", "MemoryLimit"), ("pids", "PidsLimit"), ("cpu", "CpuCfsQuota")) if not info.get(key, True)]
    step = (
        "It cannot limit all of a job: under rootless Docker delegate those controllers to users (systemd `Delegate=`)." if missing else ""
    )
    yield Check(
        part="docker", name="engine", state="warning" if missing else "ok",
        seen=", ".join([*words, *(f"no limit of {name}" for name in missing)]), next_step=step,
    )  # fmt: skip
    if root := info.get("DockerRootDir"):
        yield free("images", Path(root), "`longctx images prune` removes images that no run needs.")


def _buildx() -> Iterator[Check]:
    from .builds.builder import BUILDX_STEP, buildx

    program = buildx()
    seen = "no docker client on PATH has it: images that are here can be used, none built" if program is None else " ".join(program)
    yield Check(part="docker", name="buildx", state="ok" if program else "warning", seen=seen, next_step="" if program else BUILDX_STEP)


def _images(engine: "DockerEngine", settings: Settings) -> Iterator[Check]:
    kinds: tuple[Literal["cpu", "cuda"], ...] = ("cpu", "cuda") if devices.gpus() else ("cpu",)
    for kind in kinds:
        base = engine.maker.base(kind)
        here = engine.maker.inspect(base) is not None
        step = f"It is pulled when an image is built; where it cannot be, name another: LONGCTX_BASE_{kind.upper()}, `longctx config`."
        yield Check(
            part="docker", name=f"base image ({kind})", state="ok" if here else "warning", seen=f"{base} is {'' if here else 'not '}here",
            next_step="" if here else step,
        )  # fmt: skip
        made: list[str] = []
        missing: list[str] = []
        for name in environment_names():
            known = find_environment(name)
            if known.spec.system is None and kind in known.spec.torch:
                (made if engine.maker.find(known, kind) else missing).append(name)
        seen = f"here: {', '.join(made) or 'none'}; not here: {', '.join(missing) or 'none'}"
        yield Check(
            part="docker", name=f"images ({kind})", state="ok" if made else "warning", seen=seen, next_step="" if made else IMAGES_STEP
        )


def _devices(found: Docker) -> Iterator[Check]:
    """Say whether containers can get this host's GPUs by UUID; nothing on a host without."""
    listed = devices.gpus()
    folders = found.info.get("CDISpecDirs") or ()
    known = gpus.cdi_devices(folders)
    lacking = [one.uuid for one in listed if one.uuid not in known]
    runtime = "nvidia" in (found.info.get("Runtimes") or {})
    switched = f"on, folders {', '.join(folders)}" if folders else "off"
    words = f"CDI {switched}, {len(known)} devices; NVIDIA runtime: {'yes' if runtime else 'no'}"
    if not listed:
        yield Check(part="docker", name="GPUs", state="ok", seen=f"{words}; no GPU to give")
    elif not lacking or runtime:
        how = "CDI" if not lacking else "the NVIDIA runtime"
        yield Check(part="docker", name="GPUs", state="ok", seen=f"{words}; {len(listed)} GPUs by UUID, through {how}")
    else:
        step = gpus.STEP if folders else 'Switch CDI on: `"features": {"cdi": true}` in /etc/docker/daemon.json; restart; ' + gpus.STEP
        yield Check(part="docker", name="GPUs", state="failed", seen=f"{words}; unknown: {', '.join(lacking)}", next_step=step)


def _docker_isolation(engine: "DockerEngine", settings: Settings) -> Iterator[Check]:
    found = smallest(engine.docker)
    if found is None:
        yield Check(part="docker", name="isolation", state="warning", seen="not tried: no image is here", next_step=IMAGES_STEP)
        return
    image, python = found
    proved = proof.prove(lambda spec: engine.start(spec, image=image, python=python), _any(), settings.cache / "doctor")
    expected = os.getuid() if engine.host.rootless else profile.identity(engine.host)[0]
    step = "" if proved.owner == expected else "Files that jobs leave belong to somebody else: is the engine's user namespace remapped?"
    seen = f"uid {os.getuid()} here is uid {proved.user} inside; a file in out/ belongs to uid {proved.owner}"
    yield Check(part="docker", name="users", state="failed" if step else "ok", seen=seen, next_step=step)
    yield from isolation("docker", proved)


def smallest(found: Docker) -> tuple[str, str] | None:
    """Return the smallest image of longctx's that has Python, with its interpreter; None where there is none."""
    listed = found.ask("listing images", lambda: found.api.images(filters={"label": "longctx.image"}))
    for image in sorted(listed, key=lambda one: int(one["Size"])):
        kind = (image.get("Labels") or {}).get("longctx.image")
        # What has no name of ours any more is nobody's; families lie on an environment, or on an image whose Python is elsewhere.
        if not any(tag.startswith("longctx/") for tag in image.get("RepoTags") or ()) or kind not in ("environment", "python"):
            continue
        if kind == "environment":
            return str(image["Id"]), str(profile.PYTHON)
        inspected = found.ask("looking at an image", partial(found.api.inspect_image, image["Id"]))
        # Docker's official Python images keep it away from the distribution's own.
        official = any(one.startswith("PYTHON_VERSION=") for one in inspected["Config"].get("Env") or ())
        return str(image["Id"]), "/usr/local/bin/python3" if official else "/usr/bin/python3"
    return None


def _any() -> EnvironmentSpec:
    """Return an environment to name in a job that needs none."""
    return next(spec for spec in (find_environment(name).spec for name in environment_names()) if spec.system is None)


def venv(settings: Settings) -> Iterator[Check]:
    """Look at the venv engine; the first line says whether it can be used."""
    from .engines.venv import VenvEngine

    engine = VenvEngine(settings)
    if reason := engine.unavailable():
        yield Check(part="venv", name="engine", state="failed", seen=reason, next_step="Use `--engine docker`, or mend that.")
        return
    made = []
    for name in environment_names():
        try:
            if engine.find(find_environment(name).spec, "cpu") is not None:
                made.append(name)
        except LongctxError as error:
            yield _raised("venv", error)
    seen = f"uv {_uv()}; environments here: {', '.join(made) or 'none'}"
    yield Check(part="venv", name="engine", state="ok", seen=seen)
    try:
        yield from _venv_isolation(engine, settings, made)
    except LongctxError as error:
        yield _raised("venv", error)


def _uv() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("uv")
    except PackageNotFoundError:
        return "not here"


def _venv_isolation(engine: "VenvEngine", settings: Settings, made: Sequence[str]) -> Iterator[Check]:
    from .engines.venv import probe

    if not made:
        step = "`longctx run` makes the environments that it needs."
        yield Check(part="venv", name="isolation", state="warning", seen="not tried: no environment is here", next_step=step)
        return
    spec = find_environment(made[0]).spec
    allowed = probe(engine.python(spec, "cpu"))
    words = f"network {'taken away (' + str(allowed['network']) + ')' if allowed['network'] else 'cannot be taken away'}"
    words += f"; privileges {'given up' if allowed['privileges'] else 'cannot be given up'}"
    missing = not allowed["network"] or not allowed["privileges"]
    step = "This system lets no process enter namespaces of its own (kernel.unprivileged_userns_clone, AppArmor)." if missing else ""
    yield Check(part="venv", name="host", state="warning" if missing else "ok", seen=words, next_step=step)
    proved = proof.prove(engine.start, spec, settings.cache / "doctor", limits_processes=False)
    yield from isolation("venv", proved)


def isolation(engine: str, proved: proof.Proof) -> Iterator[Check]:
    """Judge a proof line by line: what an engine promises must hold; what it does not promise is told."""
    for line in proved.lines:
        promised = proved.isolation == "full" or proved.promised.get(line.line, False) or line.line in ("out_writable", "compiler")
        state: State = "ok" if line.held in (True, None) else "failed" if promised else "warning"
        step = "" if state == "ok" else proof.STEP if promised else PARTLY
        if line.line == "compiler" and not line.held:
            state, step = "warning", "Methods that compile kernels fail: install gcc and Python's headers (python3-dev)."
        yield Check(part=engine, name=f"isolation: {line.line}", state=state, seen=f"{line.tried} → {line.saw}", next_step=step)


def table(diagnosis: Diagnosis) -> "RenderableType":
    """Return the checks as a table; the same next step is said once a part."""
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "warning": "yellow", "failed": "bold red"}
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("part", "check", "", "seen"):
        shown.add_column(title, no_wrap=title != "seen", overflow="fold")
    last = ""
    for check in diagnosis.checks:
        shown.add_row("" if check.part == last else check.part, check.name, Text(check.state, colours[check.state]), Text(check.seen))
        last = check.part
    return shown


def words(diagnosis: Diagnosis) -> str:
    """Return what to do, each step once, and which engine is taken by default."""
    steps: dict[str, list[str]] = {}
    for check in diagnosis.checks:
        if check.next_step:
            steps.setdefault(check.next_step, []).append(f"{check.part} {check.name.removeprefix('isolation: ')}")
    lines = [f"{', '.join(names)}:\n  {step}" for step, names in steps.items()]
    if diagnosis.engines:
        lines.append(f"Jobs run on the engine {diagnosis.engines[0]} unless a manifest or --engine names another.")
    return "\n".join(lines)


def refuse_unusable(diagnosis: Diagnosis) -> None:
    """Raise EngineUnavailable where no engine can be used."""
    if not diagnosis.usable:
        raise EngineUnavailable("No engine can be used here: no job can run.", "Mend what the table says of one of them.")
