"""Makes one virtual environment in place: Python, torch for the device, everything else from the hashed lock, then a look from inside."""

import contextlib
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..contracts.job import DeviceKind
from ..contracts.plan import LockedEnvironment
from ..environments import Environment
from ..errors import EnvironmentFailed
from ..settings import Settings
from .base import Report
from .uv import Uv
from .venv_env import base_environment

INSIDE = Path(__file__).with_name("inside.py")
_WHEEL = re.compile(r"^torch-(?P<version>[^-+]+)(?:\+(?P<local>[^-]+))?-(?P<python>cp\d+)-(?P<abi>\w+)-(?P<platform>[\w.]+)\.whl$")
_OFFLINE_STEP = "`offline` is set in the settings: put the wheels into the folder that `wheelhouse` names, or unset it (`longctx config`)."
_ONLINE_STEP = "Check network, proxy, certificates (`longctx config`) and index ($UV_DEFAULT_INDEX or $PIP_INDEX_URL), then run it again."


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel of torch in the wheelhouse: its version, with the local part that tells builds apart."""

    path: Path
    requirement: str


def torch_wheel(wheelhouse: Path | None, version: str, device: DeviceKind, minor: str) -> Wheel | None:
    """Return a wheel of that torch for this machine, device and Python minor version, or None.

    On Linux a plain version is the CUDA build, so a CPU environment takes only ``+cpu`` (elsewhere the plain one too).
    """
    if wheelhouse is None or not wheelhouse.expanduser().is_dir():
        return None
    plain_is_cpu = platform.system() != "Linux" or platform.machine() == "aarch64"
    for path in sorted(wheelhouse.expanduser().glob(f"torch-{version}*.whl")):
        match = _WHEEL.match(path.name)
        if match is None or match["version"] != version or match["python"] != f"cp{minor.replace('.', '')}" or match["abi"].endswith("t"):
            continue
        if not match["platform"].endswith(platform.machine()):
            continue
        local = match["local"]
        fits = local == "cpu" or (local is None and plain_is_cpu) if device == "cpu" else local is None or local.startswith("cu")
        if fits:
            return Wheel(path=path, requirement=f"torch=={version}" + (f"+{local}" if local else ""))
    return None


def find_python(uv: Uv, environment: Environment, device: DeviceKind, settings: Settings, report: Report) -> tuple[str, Path]:
    """Return minor version and interpreter: of those installed, the first that the wheelhouse has a torch for, else the first in the list.

    Where none is installed uv fetches the best one, unless offline. Raises EnvironmentFailed naming what would do.
    """
    spec = environment.spec
    wanted = sorted(spec.python, key=lambda minor: torch_wheel(settings.wheelhouse, spec.torch[device], device, minor) is None)
    for minor in wanted:
        if found := uv.ask("python", "find", "--system", "--no-project", minor):
            return minor, Path(found)
        if minor == f"{sys.version_info.major}.{sys.version_info.minor}":
            return minor, Path(getattr(sys, "_base_executable", sys.executable))
    versions = " or ".join(spec.python)
    best = spec.python[0]
    step = (
        f"Install Python {versions}: `uv python install {best}`, or your system's package (Debian and Ubuntu: `apt install python{best}`)."
    )
    if settings.offline:
        raise EnvironmentFailed(f"Environment {spec.name} needs Python {versions}; none is installed, and `offline` is set.", step)
    report(f"{spec.name}: no Python {versions} is installed; fetching {spec.python[0]}")
    uv.do(
        ["python", "install", spec.python[0]], report=report, next_step=step,
        what=f"Environment {spec.name} needs Python {versions}; none is installed, and fetching {spec.python[0]} failed:",
    )  # fmt: skip
    if found := uv.ask("python", "find", "--system", "--no-project", spec.python[0]):
        return spec.python[0], Path(found)
    raise EnvironmentFailed(f"Environment {spec.name} needs Python {versions}; none is found, even after uv fetched one.", step)


def torch_arguments(environment: Environment, device: DeviceKind, minor: str, settings: Settings, *, driver: bool) -> list[str]:
    """Return uv's arguments that install torch and, on cuda, its CUDA libraries.

    A wheel in the wheelhouse comes first, then the index in the settings, then uv's own knowledge of torch's builds. ``driver`` says
    whether an NVIDIA driver is here: without one (a login node) uv would take the CPU build, so torch's default, CUDA, is taken.
    """
    version = environment.spec.torch[device]
    alone = ["--no-deps"] if device == "cpu" else ["--constraint", str(environment.lock)]
    if wheel := torch_wheel(settings.wheelhouse, version, device, minor):
        return [*alone, *(["--no-index"] if device == "cpu" or settings.offline else []), wheel.requirement]
    if settings.torch_index:
        return [*alone, "--index", settings.torch_index, f"torch=={version}"]
    if device == "cpu":
        return [*alone, "--torch-backend", "cpu", f"torch=={version}"]
    return [*alone, *(["--torch-backend", "auto"] if driver else []), f"torch=={version}"]


def look_inside(python: Path, environment: Environment, device: DeviceKind) -> dict[str, Any]:
    """Import what the environment must have, from a clean process, and return what it holds. Raises EnvironmentFailed."""
    with tempfile.TemporaryDirectory(prefix="longctx-") as scratch:
        variables = base_environment(python, home=Path(scratch), temporary=Path(scratch))
        del variables["PYTHONDONTWRITEBYTECODE"]
        command = [str(python), "-s", str(INSIDE), *environment.spec.imports]
        done = subprocess.run(
            command, env=variables, cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
    answer: dict[str, Any] = {}
    with contextlib.suppress(ValueError, IndexError):
        answer = json.loads(done.stdout.splitlines()[-1])
    if done.returncode or "packages" not in answer:
        reason = f"exit code {done.returncode}: {done.stderr[-2000:]}"
        if "failed" in answer:
            reason = f"importing {answer['failed']} fails: {answer['error']}"
        raise EnvironmentFailed(
            f"Environment {environment.spec.name} was installed but does not work: {reason}", f"See {environment.folder}."
        )
    if device == "cuda" and "torch" in environment.spec.imports and answer["torch_cuda"] is None:
        raise EnvironmentFailed(
            f"Environment {environment.spec.name}: the torch {environment.spec.torch[device]} that was found is not a CUDA build.",
            "Set torch_index in the settings to an index of CUDA builds, or put such a wheel into the wheelhouse.",
        )
    return answer


def make(
    uv: Uv, folder: Path, python: Path, environment: Environment, device: DeviceKind, minor: str, settings: Settings, report: Report
) -> LockedEnvironment:
    """Make the environment in ``folder``, which must not exist. Raises EnvironmentFailed; what is half made stays without a marker."""
    spec = environment.spec
    started = time.monotonic()
    step = _OFFLINE_STEP if settings.offline else _ONLINE_STEP
    inner = folder / "bin" / "python"
    report(f"{spec.name} ({device}): making it with Python {minor}")
    uv.do(
        ["venv", "--no-project", "--python", str(python), str(folder)], report=lambda _: None,
        what=f"Environment {spec.name}: no virtual environment could be made with {python}:", next_step="Check the disk and that Python.",
    )  # fmt: skip
    install = ["pip", "install", "--python", str(inner), "--only-binary", ":all:"]
    version = spec.torch[device]
    arguments = torch_arguments(environment, device, minor, settings, driver=Path("/proc/driver/nvidia/version").exists())
    report(f"{spec.name} ({device}): installing {arguments[-1]}" + (f" from {settings.wheelhouse}" if "--no-index" in arguments else ""))
    # Of wheels of the same version a CPU build's in the wheelhouse would be taken for the CUDA one.
    alone = device == "cuda" and torch_wheel(settings.wheelhouse, version, device, minor) is None
    indexed = replace(uv, environment={**uv.environment, "UV_FIND_LINKS": ""}) if alone else uv
    indexed.do(
        [*install, *arguments], report=report, what=f"Environment {spec.name}: torch {version} for {device} could not be installed:",
        next_step=f"Or put a wheel of torch {version} ({device}, Python {minor}) into the `wheelhouse`, or set `torch_index`. {step}",
    )  # fmt: skip
    report(f"{spec.name} ({device}): installing the packages of {environment.lock.name}")
    uv.do(
        [*install, "--require-hashes", "--no-deps", "-r", str(environment.lock)], report=report, next_step=step,
        what=f"Environment {spec.name}: the packages of {environment.lock} could not be installed:",
    )  # fmt: skip
    uv.do(
        ["pip", "check", "--python", str(inner)], report=lambda _: None, what=f"Environment {spec.name}: its packages do not fit together:",
        next_step=f"Mend {environment.folder / 'requirements.in'}, then run `python3 images/lock.py`.",
    )  # fmt: skip
    report(f"{spec.name} ({device}): checking that {', '.join(spec.imports)} import")
    inside = look_inside(inner, environment, device)
    report(f"{spec.name} ({device}): ready after {time.monotonic() - started:.1f} s")
    return LockedEnvironment(
        name=spec.name, kind=device, engine="venv", spec_sha256=environment.sha256, python=inside["python"], packages=inside["packages"],
        torch_record_sha256=inside["torch_record_sha256"],
    )  # fmt: skip
