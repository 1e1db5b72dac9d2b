"""One task of a plan, on the machine where it was placed: prepare the environment, start the process, watch its clocks, judge how it went.

Every backend starts this as ``longctx worker --plan P --task N``. It writes only below the attempt's folder.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from . import devices, engines, jobs, kernels
from .catalog import find_catalog, read_method
from .cells import refuse_hostile
from .code import code_digest, folders, union
from .contracts.job import Job, Limits
from .contracts.outcome import Exit, Isolation, Loaded, Outcome, Verdict
from .contracts.plan import Lock, LockedEnvironment, Plan, PlannedCell, PlannedJob, TokeniseTask
from .engines.base import ContainerSpec, Ended, Engine, Mount, Process
from .environments import as_written, find_environment
from .errors import EngineUnavailable, EnvironmentFailed, Interrupted, LongctxError, ManifestError, StorageError
from .events import Tail
from .failure import RULES, judge
from .families import members, whole
from .settings import Settings
from .store import RunFolder, read_document, write_document

POLL_SECONDS = 0.02
_OUTCOMES: Mapping[type[LongctxError], Outcome] = {
    EnvironmentFailed: "environment_failed", EngineUnavailable: "engine_unavailable", StorageError: "disk_full",
}  # fmt: skip
"""What a job that could not be started comes to."""


class Stop:
    """Whether a person asked to stop (SIGTERM), or whoever started this process is gone (the end of stdin)."""

    def __init__(self) -> None:
        self.asked = False
        self.cut = False

    def listen(self) -> None:
        """Start listening."""
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)
        threading.Thread(target=self._lifeline, daemon=True).start()

    @property
    def wanted(self) -> bool:
        """Whether to stop, for whichever reason."""
        return self.asked or self.cut

    def _ask(self, *_: object) -> None:
        self.asked = True

    def _lifeline(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # no standard input at all counts as its end
            while os.read(sys.stdin.fileno(), 4096):
                pass
        self.cut = True


class Clocks:
    """The job's own limits: loading, one sample, one cell. Fed by the runner's events, never by a socket's timeout."""

    def __init__(self, limits: Limits, tail: Tail, now: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._tail, self._now = limits, tail, now
        self._loaded: float | None = None
        self._sample = self._cell = self._started = now()
        self._cell_name = ""

    def expired(self) -> str | None:
        """Read what is new; return the name of a limit that ran out, or None."""
        now = self._now()
        for event in self._tail.new():
            if isinstance(event, Loaded):
                self._loaded = self._sample = self._cell = now
            elif event.event == "progress":
                self._sample = now
                if event.cell != self._cell_name:
                    self._cell_name, self._cell = event.cell, now
        limits = self._limits
        if self._loaded is None:
            return "load_s" if limits.load_s is not None and now - self._started > limits.load_s else None
        if limits.sample_s is not None and now - self._sample > limits.sample_s:
            return "sample_s"
        return "cell_s" if limits.cell_s is not None and now - self._cell > limits.cell_s else None


def _watch(process: Process, clocks: Clocks, stop: Stop) -> tuple[Ended, str | None]:
    """Wait for the end, passing on what is asked; return how it ended and the clock that ran out, if one did."""
    told = False
    while (ended := process.poll()) is None:
        if stop.cut:
            process.kill()
        elif stop.asked and not told:
            process.terminate()
            told = True
        elif expired := clocks.expired():
            process.kill()
            while (ended := process.poll()) is None:
                time.sleep(POLL_SECONDS)
            return ended, expired
        time.sleep(POLL_SECONDS)
    return ended, None


def last_word(out: Path) -> Exit | None:
    """Return the runner's own last word; None where there is none, or something else in its place."""
    path = out / "exit.json"
    if path.is_symlink() or not path.is_file() or path.stat().st_size > 2**20:
        return None
    try:
        return Exit.model_validate_json(path.read_bytes())
    except ValueError:
        return None


def _required(plan: Plan, planned: PlannedJob) -> Mapping[str, Path]:
    """Return a job's method folders. Raises ManifestError when the code of its methods is not the planned one: results carry its hash."""
    by_name = {cell.cell: cell for cell in plan.cells}
    found, changed = method_code(plan, planned.family, planned.environment, [by_name[cell] for cell in planned.cells])
    if changed:
        raise ManifestError(f"The code of {changed[0]} changed since the run was planned.", "Run the same command again: it plans anew.")
    return found


def method_code(plan: Plan, family: str, environment: str, cells: Sequence[PlannedCell]) -> tuple[Mapping[str, Path], Sequence[str]]:
    """Return the method folders of cells of one family, and the methods whose code is not the planned one any more.

    The folders are those of the cells' methods and the rest of their family, so that images do not depend on manifests.
    """
    methods = {method.name: method for method in map(read_method, map(Path, plan.method_folders))}
    parts, changed = [], []
    written = as_written(environment)
    for name in {cell.method for cell in cells}:
        entry = next(one for one in methods[name].spec.environments if one.name == written)
        needed = folders(entry, methods[name].folder)
        if {cell.code_sha256 for cell in cells if cell.method == name} != {code_digest(needed)}:
            changed.append(name)
        parts.append(needed)
    return whole(members(find_catalog(), written).get(family, ()), written, union(parts)), changed


def _task(plan: Plan, number: int) -> PlannedJob | TokeniseTask:
    everything: list[PlannedJob | TokeniseTask] = [*plan.tokenise, *plan.jobs]
    for task in everything:
        if task.task == number:
            return task
    raise LongctxError(f"The plan has no task {number}.", f"It has {len(plan.tokenise) + len(plan.jobs)}.")


def run_task(plan_path: Path, number: int, settings: Settings) -> int:
    """Do one task; return 0 when it is done (or stopped on request), 1 otherwise. What happened is in ``verdict.json``."""
    stop = Stop()
    stop.listen()
    run = RunFolder(plan_path.parent)
    plan, lock = read_document(plan_path, Plan), read_document(run.lock, Lock)
    task = _task(plan, number)
    attempt = jobs.new_attempt(run, task.job)
    started = time.time()
    outcome: Outcome = "not_started"
    detail, step, code = "", "", None
    isolation: tuple[Isolation, Mapping[str, bool]] = ("none", {})
    try:
        engine = engines.make(plan.engine, settings)
        with devices.lease(task.gpus if isinstance(task, PlannedJob) else 0, settings.cache, lambda: stop.wanted) as gpus:
            spec = _render(run, plan, lock, task, attempt, settings, gpus)
            if spec is None:
                outcome, code = "done", 0
            else:
                made = engine.prepare(find_environment(task.environment).spec, spec.device, lambda _: None)
                kept = kernel_key(made, spec)
                outcome, detail, code, isolation = _execute(engine, with_kernels(spec, kept, settings.cache), attempt, stop)
                if kept and (refused := kernels.take(attempt.out, settings.cache, kept)):
                    detail = f"{detail}; {refused}".removeprefix("; ")
    except Interrupted as error:
        outcome, detail = "stopped", str(error)
    except LongctxError as error:
        outcome = next((name for kind, name in _OUTCOMES.items() if isinstance(error, kind)), "not_started")
        detail, step = str(error.args[0]), error.next_step
    except Exception:
        outcome, detail = "not_started", traceback.format_exc()
    rule = RULES[outcome]
    verdict = Verdict(
        job=task.job, attempt=attempt.number, outcome=outcome, retry=rule.retry, charged=rule.charged, exit_code=code,
        detail=detail[:8000], next_step=step or rule.next_step, started_at=started, seconds=time.time() - started, engine=plan.engine,
        isolation=isolation[0], isolation_detail=dict(isolation[1]),
    )  # fmt: skip
    write_document(attempt.folder / "verdict.json", verdict)
    return 0 if outcome in ("done", "stopped") else 1


def _render(
    run: RunFolder, plan: Plan, lock: Lock, task: PlannedJob | TokeniseTask, attempt: jobs.Attempt, settings: Settings, gpus: Sequence[str]
) -> ContainerSpec | None:
    if isinstance(task, TokeniseTask):
        return jobs.tokenise(run, plan, lock, task, attempt, settings.cache)
    task = task.model_copy(update={"device": task.device.model_copy(update={"gpus": tuple(gpus)})})
    return jobs.generate(run, plan, lock, task, attempt, _required(plan, task), settings.cache)


def kernel_key(made: LockedEnvironment, spec: ContainerSpec) -> str | None:
    """Return under which key the kernels are kept that this very code compiled on such GPUs; None for a job without."""
    if spec.device != "cuda":
        return None
    code = next(mount.source.name for mount in spec.mounts if mount.target == "code")
    return kernels.key(f"{made.image or made.spec_sha256}/{code}", devices.hardware("cuda"))


def with_kernels(spec: ContainerSpec, kept: str | None, cache: Path) -> ContainerSpec:
    """Return a job that starts from the kernels that are kept under this key."""
    if kept is None:
        return spec
    mount = Mount(source=kernels.seed(cache, kept), target=kernels.TARGET)
    return replace(spec, mounts=(*spec.mounts, mount), env={**spec.env, **kernels.VARIABLES})


def _execute(
    engine: Engine, spec: ContainerSpec, attempt: jobs.Attempt, stop: Stop
) -> tuple[Outcome, str, int | None, tuple[Isolation, Mapping[str, bool]]]:
    limits = read_document(attempt.folder / "job.json", Job).limits
    with engine.start(spec) as process:
        isolation = (process.isolation, dict(process.isolation_detail))
        try:
            ended, expired = _watch(process, Clocks(limits, Tail(attempt.out / "events.jsonl")), stop)
        except EngineUnavailable as error:
            return "engine_lost", str(error.args[0]), None, isolation
    if hostile := refuse_hostile(attempt.out):
        return "bad_output", hostile, ended.code, isolation
    outcome, detail = judge(ended, last_word(attempt.out), timed_out=expired, stopping=stop.wanted)
    return outcome, detail, ended.code, isolation
