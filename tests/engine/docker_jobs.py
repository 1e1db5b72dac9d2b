"""Starts processes under the profile of a job, as whoever calls it: ``docker_jobs.py '{"place": …, "do": "prove" | "run" | "hold", …}'``.

A program of its own, so that a test can start it as another user, kill it, or interrupt it. Prints JSON.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from longctx.orchestrator.doctor import smallest
from longctx.orchestrator.engines import proof
from longctx.orchestrator.engines.base import ContainerSpec, Mount, Process
from longctx.orchestrator.engines.docker.engine import DockerEngine
from longctx.orchestrator.environments import load_environment
from longctx.orchestrator.settings import load_settings

HOLD = "import sys\nprint('up', flush=True)\nsys.stdin.read()\nprint('the lifeline broke', flush=True)\n"
"""A job that lasts for as long as whoever started it."""


def engine_for(place: Path) -> DockerEngine:
    """Return an engine whose cache lies in ``place``."""
    return DockerEngine(load_settings().model_copy(update={"cache": place / "cache", "runs": place / "runs"}))


def job(place: Path, code: str, **more: Any) -> ContainerSpec:
    """Return a job that runs ``code``, with a writable ``out/`` and a file that is not."""
    folder = place / more.pop("name", "job")
    (folder / "out").mkdir(parents=True)
    (folder / "main.py").write_text(code)
    (folder / "main.py").chmod(0o644)
    fields: dict[str, Any] = {
        "run": "isolation", "job": folder.name, "attempt": 1, "environment": load_environment("tf5"), "device": "cpu", "family": None,
        "argv": ("{root}/main.py",), "scratch": folder / "scratch", "log": folder / "log.txt", "memory_bytes": 256 * 2**20,
        "shm_bytes": 64 * 2**20,
        "mounts": (Mount(source=folder / "main.py", target="main.py"), Mount(source=folder / "out", target="out", writable=True)),
    }  # fmt: skip
    return ContainerSpec(**(fields | more))


def start(engine: DockerEngine, spec: ContainerSpec, *, keep: str | None = None) -> Process:
    """Start a job in the smallest image that is here."""
    found = smallest(engine.docker)
    if found is None:
        raise SystemExit("no image of longctx is here")
    return engine.start(spec, image=found[0], python=found[1], keep=keep)


def wait(process: Process, seconds: float = 60) -> tuple[int, bool]:
    """Return how a process ended: its code, and whether its memory limit killed it."""
    until = time.monotonic() + seconds
    while (ended := process.poll()) is None:
        assert time.monotonic() < until, "it does not end"
        time.sleep(0.02)
    return ended.code, ended.oom_killed


def _prove(place: Path) -> dict[str, Any]:
    engine = engine_for(place)
    found = proof.prove(lambda spec: start(engine, spec), load_environment("tf5"), place / "cache" / "doctor")
    return {
        "lines": {line.line: [line.held, line.saw] for line in found.lines}, "user": found.user, "group": found.group,
        "owner": found.owner, "isolation": found.isolation, "caller": os.getuid(),
    }  # fmt: skip


def _run(place: Path, code: str, **more: Any) -> dict[str, Any]:
    spec = job(place, code, **more)
    with start(engine_for(place), spec) as process:
        ended, oom = wait(process)
    out = {path.name: [path.stat().st_uid, path.stat().st_gid] for path in (spec.scratch.parent / "out").iterdir()}
    answer = {"code": ended, "oom": oom, "log": spec.log.read_text(), "out": out}
    shutil.rmtree(spec.scratch.parent)  # whoever made it can remove what the container left in it
    return answer


def _hold(place: Path) -> dict[str, Any]:
    with start(engine_for(place), job(place, HOLD)) as process:
        print(json.dumps({"container": process.container}), flush=True)  # type: ignore[attr-defined]
        time.sleep(100)
    return {}


def main() -> None:
    """Do what is asked; with ``--help`` nothing, so that it shows whether everything can be imported."""
    if sys.argv[1] == "--help":
        return
    asked = json.loads(sys.argv[1])
    place, do = Path(asked.pop("place")), asked.pop("do")
    print(json.dumps({"prove": _prove, "run": _run, "hold": _hold}[do](place, **asked)))


if __name__ == "__main__":
    main()
