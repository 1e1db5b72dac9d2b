"""The main job: a manifest in, a summary out. Everything it learns is on disk before it goes on, so it can be killed anywhere."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from . import aggregates, backends, cells, devices, scoring, taskstore, tokens, world
from .backends.base import Backend
from .contracts.cell import CellState
from .contracts.outcome import Event, Verdict
from .contracts.plan import Absent, Lock, LockedEnvironment, LockedMethod, LockedModel, Plan, PlannedCell, Timeline
from .contracts.result import Result, Row, Summary
from .environments import find_environment
from .errors import EnvironmentFailed, Interrupted, ModelError, RunIncomplete
from .plan import Facts, Options
from .progress import Display, JobView, Watcher, display
from .report import write_summary
from .settings import Settings
from .store import RunFolder, locked, read_document, write, write_document

if TYPE_CHECKING:
    from rich.console import Console

POLL_SECONDS = 0.05
TRIES = 2
"""How often a job is started at most when the infrastructure fails it."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the command line says about a run."""

    manifest: Path
    name: str | None = None
    engine: str | None = None
    backend: str = "local"
    accept_code: bool = False
    fresh: bool = False
    retry_errors: bool = False
    parallel: int | None = None
    stream: bool = False
    """Have the runner report text as it comes, as events."""
    on_event: Callable[[Event], None] | None = None
    command: str = "longctx run"
    """How a person started it, for the hint that says how to resume."""


@dataclass
class Stopping:
    """Counts Ctrl-C and SIGTERM while jobs run: the first asks, the second insists."""

    asked: int = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator["Stopping"]:
        """Take the signals over; give them back on leaving."""

        def note(*_: object) -> None:
            self.asked += 1

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass
class Ran:
    """How the jobs of a plan ended."""

    failed: dict[str, Verdict | None] = field(default_factory=dict)
    """Jobs that did not end well, with their last verdict."""
    stopped: bool = False


@dataclass
class Clock:
    """How long each part of a run took on the host's clock."""

    marks: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Add the time spent inside to a part."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.marks[part] = self.marks.get(part, 0.0) + time.monotonic() - start

    def timeline(self) -> Timeline:
        """Return all parts."""
        return Timeline(**self.marks)


def execute(options: RunOptions, settings: Settings, console: "Console") -> Summary:
    """Run a manifest to the end, or resume it.

    Raises LongctxError before anything is written when the manifest is wrong, Interrupted when a person stopped it, and RunIncomplete
    (carrying the summary) when cells are missing or partial.
    """
    loaded = world.read(options.manifest, settings)
    run = RunFolder((settings.runs / (options.name or loaded.manifest.name)).absolute())
    with locked(run.guard, f"Run {run.name}"):
        session = _Session(options, settings, console, run, Clock(), loaded.manifest.description)
        return session.go(world.look(loaded, settings, options.engine or loaded.manifest.engine, session.say, fetch=True))


@dataclass
class _Session:
    options: RunOptions
    settings: Settings
    console: "Console"
    run: RunFolder
    clock: Clock
    description: str
    _environments: dict[str, LockedEnvironment] = field(default_factory=dict)
    _unavailable: dict[str, str] = field(default_factory=dict)

    def say(self, line: str) -> None:
        """Tell a person one line."""
        self.console.print(line, markup=False, highlight=False)

    def go(self, here: world.World) -> Summary:
        """Everything after the manifest was found good."""
        self.say(f"Run {self.run.name}: engine {here.engine.name}, device {here.device} ({devices.hardware(here.device)}).")
        with self.clock.timing("prepare_s"):
            plan, known, models = self._first_plan(here)
        with self.clock.timing("tokenise_s"):
            self._tokenise(plan, models, here)
        plan = self._replan(here, known)
        with self.clock.timing("prepare_s"):
            known = self._prepare(here, plan, known)
        plan = self._replan(here, known)
        self._take_over(plan)
        plan = self._write(here, plan, models)
        with self.clock.timing("jobs_s"):
            ran = self._jobs(plan)
        cells.collect(self.run, {cell.cell: cell for cell in plan.cells}, dead=not ran.stopped)
        if ran.stopped:
            done = sum(_answered(self.run, cell) for cell in plan.cells)
            total = sum(cell.requests or 0 for cell in plan.cells)
            raise Interrupted(f"Stopped. {done} of {total} answers are kept in {self.run.path}.", f"Resume: {self.options.command}")
        with self.clock.timing("score_s"):
            summary = self._score(plan, models, ran)
        if not summary.complete:
            raise Incomplete(summary, self.run, ran)
        return summary

    def _options(self, *, fresh: bool) -> Options:
        options = self.options
        return Options(run=self.run.name, accept_code=options.accept_code, fresh=fresh, retry_errors=options.retry_errors)

    def _replan(self, here: world.World, known: Facts) -> Plan:
        return world.make_plan(here, known, self.run, self._options(fresh=self.options.fresh))

    def _first_plan(self, here: world.World) -> tuple[Plan, Facts, Mapping[str, LockedModel]]:
        """Build the tasks, take what earlier attempts left, and plan."""
        lend = tokens.lender(here.engine, self.settings, self.say)
        known = world.facts(here, build=True, count=lend)
        for task in known.tasks.values():
            taskstore.place(task, self.run)
        plan = self._replan(here, known)
        cells.collect(self.run, {cell.cell: cell for cell in plan.cells}, dead=True)
        write(self.run.manifest, here.loaded.text)
        return plan, known, {name: model for name, model in here.models.items() if model is not None}

    def _tokenise(self, plan: Plan, models: Mapping[str, LockedModel], here: world.World) -> None:
        left = tokens.place(self.run, plan, models, self.settings)
        if not left:
            return
        for environment in {task.environment for task in left}:
            self._environments[environment] = here.engine.prepare(find_environment(environment).spec, "cpu", self.say)
        plan = plan.model_copy(update={"tokenise": tuple(left), "jobs": ()})
        self._write(here, plan, models)
        ran = self._place(plan, [task.task for task in left], _tokenise_views(plan))
        if ran.stopped:
            raise Interrupted("Stopped while tokenising; nothing is lost.", f"Resume: {self.options.command}")
        for task in left:
            if task.job in ran.failed:
                verdict = ran.failed[task.job]
                raise ModelError(
                    f"The prompts of {task.model} could not be tokenised: {_why(verdict)}",
                    f"Read `longctx logs {self.run.name} --job {task.job}`.",
                )
            tokens.accept(self.run, task, models[task.model], self.settings)

    def _prepare(self, here: world.World, plan: Plan, known: Facts) -> Facts:
        """Make the environments that jobs need. Where one cannot be had its cells are reported as not run, and the rest goes on."""
        for name in sorted({job.environment for job in plan.jobs}):
            try:
                self._environments[name] = here.engine.prepare(find_environment(name).spec, here.device, self.say)
            except EnvironmentFailed as error:
                self._unavailable[name] = " ".join(str(error).split())
                self.say(f"Environment {name} cannot be had: {self._unavailable[name]}")
        if self._unavailable and set(self._unavailable) >= {cell.environment for cell in plan.cells}:
            raise EnvironmentFailed(
                "No environment of this manifest can be had:", "\n".join(f"  {name}: {why}" for name, why in self._unavailable.items())
            )
        for name in {cell.environment for cell in plan.cells} - set(self._environments) - set(self._unavailable):
            if (found := here.engine.find(find_environment(name).spec, here.device)) is not None:
                self._environments[name] = found
        return _with_unavailable(known, self._unavailable)

    def _take_over(self, plan: Plan) -> None:
        """Bring the cells' folders to where the jobs start from: adopt from sibling runs, set aside what does not count."""
        hardware = devices.hardware(plan.device)
        for cell in plan.cells:
            folder = self.run.cell(cell.cell)
            cells.tidy(folder)
            if cell.source is not None:
                places = (self.run.path.parent / cell.source / "cells").iterdir()
                cells.adopt(
                    next(place for place in places if place != folder and place.name.endswith(f"--{cell.config_sha256[:10]}")), folder
                )
            if (folder / "cell.json").exists():
                if cell.status == "STALE" or (cell.status == "RERUN" and self.options.fresh):
                    cells.set_aside(folder)
                    continue
                if cell.status == "RERUN":
                    cells.drop_errors(folder)
                if cell.accepted_code is not None:
                    cells.accept(folder, cell.code_sha256)
            cells.set_aside_timing(folder, hardware)

    def _write(self, here: world.World, plan: Plan, models: Mapping[str, LockedModel]) -> Plan:
        codes = sorted({(cell.method, cell.code_sha256) for cell in plan.cells})
        lock = Lock(
            run=self.run.name, longctx=__version__, created_at=time.time(), models=tuple(models.values()),
            environments=tuple(self._environments[name] for name in sorted(self._environments)),
            methods=tuple(LockedMethod(name=name, code_sha256=sha256) for name, sha256 in codes),
            tasks=plan.tasks,
        )  # fmt: skip
        write_document(self.run.lock, lock)
        plan = plan.model_copy(update={"stream": self.options.stream})
        write_document(self.run.plan, plan)
        return plan

    def _jobs(self, plan: Plan) -> Ran:
        if not plan.jobs:
            self.say("Nothing to run: every answer is there.")
            return Ran()
        labels = {cell.cell: cell.label for cell in plan.cells}
        missing = {cell.cell: cell.missing or 0 for cell in plan.cells}
        views = {
            job.job: JobView(job=job.job, total=sum(missing[cell] for cell in job.cells) // job.shards, labels=labels) for job in plan.jobs
        }
        return self._place(plan, [job.task for job in plan.jobs], views)

    def _place(self, plan: Plan, tasks: Sequence[int], views: Mapping[str, JobView]) -> Ran:
        """Start tasks, show how they go, start again what the infrastructure failed, and say how all ended."""
        backend = backends.make(plan.backend, self.options.parallel or plan.parallel)
        everything = {task.task: task.job for task in plan.tokenise} | {task.task: task.job for task in plan.jobs}
        names = {task: everything[task] for task in tasks}
        wanted = {cell.cell: cell for cell in plan.cells}
        watcher = Watcher(views, self.run.attempts, self.options.on_event)
        with Stopping().listening() as stopping, display(self.console) as shown:
            watch = _Watch(backend, self.run, names, watcher, shown, stopping, self.say, lambda: cells.collect(self.run, wanted))
            backend.submit(self.run.plan, tasks)
            return watch.until_all_ended()

    def _score(self, plan: Plan, models: Mapping[str, LockedModel], ran: Ran) -> Summary:
        tasks = {task.key: task for task in plan.tasks}
        answered = [cell for cell in plan.cells if (self.run.cell(cell.cell) / "responses.jsonl").exists()]
        scoring.refuse_mixed(self.run, answered)
        rows = []
        for cell in plan.cells:
            path = self.run.cell(cell.cell)
            result: Result | None = None
            reason = ""
            if cell in answered:
                if cell.status == "REUSE":
                    result = read_document(path / "result.json", Result)
                else:
                    result = scoring.score_cell(self.run, cell, tasks[cell.task], models[cell.model], plan.seed)
            else:
                reason = next(
                    (_why(ran.failed[job.job]) for job in plan.jobs if cell.cell in job.cells and job.job in ran.failed), "no answer"
                )
            rows.append(
                Row(
                    label=cell.label,
                    model=cell.model,
                    task=cell.task,
                    environment=cell.environment,
                    locked=cell.locked,
                    status=cell.status if result else "failed",
                    reason=reason,
                    result=result,
                )
            )
        rows += [_absent(one) for one in plan.absent if one.kind == "not_run"]
        complete = not ran.failed and all(row.result is not None and scoring.whole(row.result) for row in rows if row.status != "not_run")
        summary = Summary(
            run=self.run.name, description=self.description, longctx=__version__, finished_at=time.time(), complete=complete,
            rows=tuple(rows),
            absent=plan.absent, timeline=self.clock.timeline(), aggregates=aggregates.of(rows),
        )  # fmt: skip
        write_summary(self.run, summary)
        return summary


class Incomplete(RunIncomplete):
    """The run ended, but not all of it; ``summary`` holds what there is."""

    def __init__(self, summary: Summary, run: RunFolder, ran: Ran) -> None:
        failed = [row for row in summary.rows if row.status == "failed"]
        counts = [(row, row.result.counts) for row in summary.rows if row.result]
        errors = sum(count.error for _, count in counts)
        parts = [f"{job}: {_why(verdict)}" for job, verdict in ran.failed.items()]
        parts += [f"{row.label} in {row.environment}: {row.reason}" for row in failed if not ran.failed]
        parts += [
            f"{row.label} in {row.environment} on {row.task}: {count.requests - count.answered} of {count.requests} requests have no answer"
            for row, count in counts
            if count.answered < count.requests
        ]
        if errors:
            parts.append(f"{errors} requests ended in an error of the method (`--retry-errors` tries them again)")
        super().__init__(
            "The run is not complete:\n  " + "\n  ".join(parts),
            f"Read `longctx logs {run.name}`, mend the cause, and run the same command: what is answered is kept.",
        )
        self.summary = summary


def _with_unavailable(known: Facts, unavailable: Mapping[str, str]) -> Facts:
    import dataclasses

    return dataclasses.replace(known, unavailable=dict(unavailable))


@dataclass
class _Watch:
    """Follows submitted tasks until all have ended: starts again what the infrastructure failed, and passes on a wish to stop."""

    backend: Backend
    run: RunFolder
    names: Mapping[int, str]
    """Job by task, of those that were submitted."""
    watcher: Watcher
    shown: Display
    stopping: Stopping
    say: Callable[[str], None]
    collect: Callable[[], object]
    """Takes what attempts hold so far, so that a second try does only what is left."""
    ran: Ran = field(default_factory=Ran)
    _tries: dict[int, int] = field(default_factory=dict)
    _before: dict[int, int] = field(default_factory=dict)
    """How many attempts a job had when it was submitted: older ones say nothing about this try."""
    _told: int = 0

    def __post_init__(self) -> None:
        self._before = {task: len(self.run.attempts(job)) for task, job in self.names.items()}

    def until_all_ended(self) -> Ran:
        """Look again and again; return how all ended."""
        while True:
            states = self.backend.states()
            again = False
            for task in [task for task, state in states.items() if state == "failed"]:
                if not self.stopping.asked and self.names[task] not in self.ran.failed:
                    again |= self._failed(task)
            if self.stopping.asked > self._told:
                self._stop()
            self.watcher.look()
            for task, job in self.names.items():
                if job in self.watcher.views and states.get(task) in ("done", "failed"):
                    self.watcher.views[job].state = "failed" if job in self.ran.failed else "done"
            self.shown.show(self.watcher.views)
            # Of the states that were looked at above: one that changed since has not been judged yet.
            if not again and all(state in ("done", "failed") for state in states.values()):
                return self.ran
            time.sleep(POLL_SECONDS)

    def _failed(self, task: int) -> bool:
        """Judge a failed task; return whether it was started again."""
        job = self.names[task]
        verdict = _verdict(self.run, job, self._before[task])
        tries = self._tries.get(task, 1)
        if tries < TRIES and (verdict is None or verdict.retry):
            self.say(f"{job}: {_why(verdict)}; trying again.")
            self.collect()
            self._tries[task] = tries + 1
            self._before[task] = len(self.run.attempts(job))
            self.backend.submit(self.run.plan, [task])
            return True
        self.ran.failed[job] = verdict
        self.say(f"{job}: failed: {_why(verdict)}")
        return False

    def _stop(self) -> None:
        self._told = self.stopping.asked
        self.ran.stopped = True
        self.say("Stopping now." if self._told > 1 else "Stopping after the sample in hand; Ctrl-C again stops at once.")
        self.backend.cancel(now=self._told > 1)


def _verdict(run: RunFolder, job: str, before: int) -> Verdict | None:
    """Return the verdict of a job's newest attempt, unless that is one of the ``before`` older ones, or its worker died."""
    attempts = run.attempts(job)
    if len(attempts) <= before or not (attempts[-1] / "verdict.json").exists():
        return None
    return read_document(attempts[-1] / "verdict.json", Verdict)


def _why(verdict: Verdict | None) -> str:
    if verdict is None:
        return "its worker died"
    lines = verdict.detail.strip().splitlines()
    # A traceback ends with what was raised; every message of ours begins with what happened.
    told = lines[-1 if lines[0].startswith("Traceback") else 0] if lines else ""
    return " ".join(part for part in (verdict.outcome.replace("_", " "), f"({told})" if told else "", verdict.next_step) if part)


def _tokenise_views(plan: Plan) -> dict[str, JobView]:
    sizes = {task.key: task.requests or 0 for task in plan.tasks}
    tasks = {task.key: task.task for task in plan.tasks}  # tokenising tells its progress by task, not by cell
    return {
        task.job: JobView(
            job=task.job, total=sum(sizes[key] for key, _, _ in task.items), labels={tasks[key]: key for key, _, _ in task.items}
        )
        for task in plan.tokenise
    }


def _absent(one: Absent) -> Row:
    return Row(label=one.variant, model=one.model, task=one.task, environment=one.environment, status=one.kind, reason=one.reason)


def _answered(run: RunFolder, cell: PlannedCell) -> int:
    path = run.cell(cell.cell) / "cell.json"
    return min(read_document(path, CellState).answered, cell.requests or 0) if path.exists() else 0
