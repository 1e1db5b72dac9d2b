"""The host's own Python as an environment: what does it hold, and is it still what was recorded? Nothing is ever installed there.

How the question reaches that Python is the caller's: ``direct`` starts it here; an engine of containers passes what runs argv in one.
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..contracts.job import DeviceKind
from ..contracts.plan import LockedEnvironment
from ..environments import Environment
from ..errors import EnvironmentFailed
from .venv_env import base_environment

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]
"""Runs argv where that Python is, without standard input, and returns how it ended with its output as text. Raises EnvironmentFailed."""

INSIDE = Path(__file__).with_name("inside.py")
LOOK_SECONDS = 900.0
"""The longest that importing torch may take: minutes from a cold shared file system."""
_PIN = re.compile(r"^([^\s=#]+)==([^\s;\\]+)", re.MULTILINE)
_FIRST = ("torch", "transformers")
_MOST_TOLD = 5


@dataclass(frozen=True, kw_only=True)
class Held:
    """What an interpreter holds: its full version, packages by lower-case name, the hash of torch's files, the CUDA of torch's build.

    ``torch_cuda`` is null for other builds, and where torch was not imported.
    """

    python: str
    packages: Mapping[str, str]
    torch_record_sha256: str | None
    torch_cuda: str | None


class ImportFailed(EnvironmentFailed):
    """A module does not import; ``module`` names it."""

    def __init__(self, python: str, module: str, error: str) -> None:
        super().__init__(
            f"{python}: importing {module} fails: {error}",
            "Name another Python (--python PATH). Modules have to be loaded first; packages in ~/.local are seen only through $PYTHONPATH.",
        )
        self.module = module


def direct(variables: Mapping[str, str]) -> Run:
    """Return what starts a program of this host as jobs are started: without the caller's variables, but with these."""

    def run(argv: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        with tempfile.TemporaryDirectory(prefix="longctx-") as scratch:
            clean = base_environment(Path(argv[0]), home=Path(scratch), temporary=Path(scratch))
            try:
                return subprocess.run(
                    list(argv), env={**clean, **variables}, cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                    errors="replace", check=False, timeout=LOOK_SECONDS,
                )  # fmt: skip
            except OSError as error:
                raise EnvironmentFailed(
                    f"{argv[0]} cannot be started: {os.strerror(error.errno or 0)}.",
                    "Name the Python that has torch and transformers: longctx config system --python PATH.",
                ) from error
            except subprocess.TimeoutExpired as error:
                raise EnvironmentFailed(
                    f"{argv[0]} gave no answer for {LOOK_SECONDS:.0f} s.", "Look whether its file system answers; then try again."
                ) from error

    return run


def ask(run: Run, python: str, modules: Sequence[str] = ()) -> Held:
    """Return what ``python`` holds once ``modules`` are imported; without any a fraction of a second. Raises EnvironmentFailed."""
    # As text, not by its path: inside a container that file is not there.
    done = run([python, "-s", "-B", "-c", INSIDE.read_text(encoding="utf-8"), *modules])
    try:
        answer = json.loads((done.stdout.splitlines() or [""])[-1])
        if "failed" in answer:
            raise ImportFailed(python, answer["failed"], answer["error"])
        return Held(
            python=str(answer["python"]), packages={str(name): str(version) for name, version in answer["packages"].items()},
            torch_record_sha256=answer["torch_record_sha256"], torch_cuda=answer["torch_cuda"],
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = ((done.stderr or done.stdout).strip().splitlines() or ["nothing said"])[-1][-500:]
        raise EnvironmentFailed(
            f"{python} does not say what it holds (exit code {done.returncode}): {said}", "It has to be a working Python 3.9 or newer."
        ) from error


def pins(text: str) -> dict[str, str]:
    """Return the versions that a lock or a record names, by package."""
    return dict(_PIN.findall(text))


def as_recorded(environment: Environment, device: DeviceKind, held: Held, engine: str) -> LockedEnvironment:
    """Return the environment as found, which is as it was recorded. Raises EnvironmentFailed naming what changed, or for a wrong device."""
    spec, system = environment.spec, environment.spec.system
    if system is None:
        raise AssertionError(f"{spec.name} was not recorded from a host")
    again = f"Record it again: longctx config system --like {system.like} --python {system.python}"
    if device not in spec.torch:
        raise EnvironmentFailed(f"Environment {spec.name}: the torch {spec.torch['cpu']} that was found is not a CUDA build.", again)
    changes = _changes(pins(environment.lock.read_text(encoding="utf-8")), held.packages)
    if held.python.split(".")[:2] != spec.python[0].split("."):
        changes.insert(0, f"Python {spec.python[0]}, now {held.python}")
    if not changes and held.torch_record_sha256 != system.torch_record_sha256:
        changes.append(f"torch {held.packages.get('torch')} holds other files")
    if changes:
        more = f" (and {len(changes) - _MOST_TOLD} more)" if len(changes) > _MOST_TOLD else ""
        told = "; ".join(changes[:_MOST_TOLD]) + more
        raise EnvironmentFailed(f"Environment {spec.name} changed since it was recorded: {told}.", again)
    return LockedEnvironment(
        name=spec.name, kind=device, engine=engine, spec_sha256=environment.sha256, python=held.python, packages=dict(held.packages),
        torch_record_sha256=held.torch_record_sha256, image=system.image, locked=False,
    )  # fmt: skip


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return what differs, a few words each; torch and transformers come first."""
    names = sorted({*before, *now}, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    told = []
    for name in names:
        if name not in now:
            told.append(f"{name} {before[name]} is gone")
        elif name not in before:
            told.append(f"{name} {now[name]} is new")
        elif before[name] != now[name]:
            told.append(f"{name} {before[name]}, now {now[name]}")
    return told
