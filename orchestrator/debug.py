"""``longctx debug``: one request of one cell again, in the same image with the same mounts, where a person can look at it.

It writes only below the run's ``debug/``: nothing of it is merged or scored. The batch is the planned one, so the method meets the same
neighbours; the code is today's, which is told where it is not what the run was planned with.
"""

import json
import re
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from . import batches, devices, engines, jobs
from .cells import refuse_hostile
from .contracts.job import Batch, Job
from .contracts.plan import Lock, Plan, PlannedCell
from .engines.base import ContainerSpec, Debuggable, Ended, Process, Report
from .environments import find_environment
from .errors import BadRunFolder, RunIncomplete, UsageError
from .events import clean
from .failure import RULES, judge
from .jobs import Attempt, ids_name
from .settings import Settings
from .store import RunFolder, lines, plain, read_document
from .worker import kernel_key, last_word, method_code, with_kernels

POLL_SECONDS = 0.05
SHOWN = 20
"""How many candidates an error lists."""
SHELL = (
    "import os, sys\n"
    "print('The job is in ' + sys.argv[1] + '; what it runs:\\n  python -s -B -m runner --root ' + sys.argv[1], flush=True)\n"
    "os.chdir(sys.argv[1])\n"
    "os.execv('/bin/sh', ['/bin/sh'])\n"
)
"""What takes the runner's place: the environment's Python becomes a shell, so that all else is the job's own."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the command line says."""

    cell: str
    request: str | None = None
    shell: bool = False


def debug(run: RunFolder, wanted: Wanted, settings: Settings, report: Report, out: IO[str]) -> None:
    """Run the request: the log goes to ``out`` as it comes, then the response; what is about it goes to ``report``.

    Raises UsageError listing cells or requests, BadRunFolder where the run lacks what is needed, RunIncomplete where there is no answer.
    """
    plan, lock = read_document(run.plan, Plan), read_document(run.lock, Lock)
    cell = find_cell(plan.cells, wanted.cell)
    batch = find_batch(run, cell, wanted.request)
    earlier = earlier_job(run, plan, cell)
    engine = engines.make(plan.engine, settings)
    if not isinstance(engine, Debuggable):
        raise UsageError(f"The engine {plan.engine} cannot be debugged in.", "`longctx logs` shows what its jobs printed.")
    if wanted.shell and not sys.stdin.isatty():
        raise UsageError("--shell needs a terminal on standard input.", "Leave it out: the job then runs by itself.")
    needed, changed = method_code(plan, cell.family, cell.environment, [cell])
    if changed:
        report(f"The code of {', '.join(changed)} changed since the run was planned; this is today's.")
    with devices.lease(len(earlier.device.gpus), settings.cache) as gpus:
        earlier = earlier.model_copy(update={"device": earlier.device.model_copy(update={"gpus": gpus})})
        attempt = new_attempt(run, cell.cell)
        spec = jobs.again(run, plan, lock, earlier, cell, batch, attempt, needed, settings.cache)
        made = engine.prepare(find_environment(spec.environment.name).spec, spec.device, report)
        spec = with_kernels(spec, kernel_key(made, spec), settings.cache)
        keep = f"longctx-debug-{re.sub('[^A-Za-z0-9_.-]', '-', run.name)[:40]}-{secrets.token_hex(3)}"
        report(f"{cell.cell}\nrequest {', '.join(batch.keep)}, batch of {len(batch.members)}, engine {engine.name}, in {attempt.folder}")
        try:
            if wanted.shell:
                report(f"The shell ended with {engine.interact(as_shell(spec), keep=keep)}.")
            else:
                _show(engine, spec, keep, attempt, out, report)
        finally:
            for command in engine.kept(keep):
                report(f"  {command}")


def find_cell(cells: Sequence[PlannedCell], part: str) -> PlannedCell:
    """Return the cell of this name or label, or the only one whose name contains it. Raises UsageError listing candidates."""
    for found in ([one for one in cells if part in (one.cell, one.label)], [one for one in cells if part in one.cell]):
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"{len(found)} cells are called {part!r}:\n{_listed([one.cell for one in found])}", "Write more of a name.")
    raise UsageError(f"No cell is called {part!r}. There are:\n{_listed([one.cell for one in cells])}", "Write part of a name.")


def _listed(names: Sequence[str]) -> str:
    more = [f"  … and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return "\n".join([*(f"  {name}" for name in names[:SHOWN]), *more])


def find_batch(run: RunFolder, cell: PlannedCell, request: str | None) -> Batch:
    """Return the planned batch of a request (the task's first one when None), of which only that one is kept.

    Raises BadRunFolder before the prompts are tokenised, UsageError listing requests for an id that the task has not.
    """
    path = run.ids(ids_name(cell.model, cell.task, plain(cell.prompting)))
    if not path.exists():
        raise BadRunFolder(f"The prompts of {cell.cell} are not there: {path}.", "Run the manifest first: it tokenises them.")
    requests = jobs.order(path)
    if not requests:
        raise BadRunFolder(f"The task of {cell.cell} has no requests.", "Run the manifest again.")
    wanted = requests[0].id if request is None else request
    for number, members in enumerate(batches.planned(requests, cell.batch)):
        if wanted in members:
            return Batch(id=number, members=members, keep=(wanted,))
    raise UsageError(f"{cell.task} has no request {wanted!r}. There are:\n{_listed([one.id for one in requests])}", "Name one of them.")


def earlier_job(run: RunFolder, plan: Plan, cell: PlannedCell) -> Job:
    """Return the newest job that had the cell in it, else what the plan would make of it. Raises BadRunFolder where there is neither."""
    for path in sorted((run.path / "jobs").glob("*/*/job.json"), key=lambda one: one.stat().st_mtime, reverse=True):
        if cell.cell.encode() in path.read_bytes():
            job = read_document(path, Job)
            if any(one.cell == cell.cell for one in job.cells):
                return job
    planned = next((one for one in plan.jobs if cell.cell in one.cells), None)
    if planned is None:
        step = f"Its answers come from another run: longctx debug {cell.source} {cell.cell}" if cell.source else "Run the manifest first."
        raise BadRunFolder(f"No job of run {run.name} ever had the cell {cell.cell}.", step)
    model = next(one.job for one in read_document(run.lock, Lock).models if one.name == cell.model)
    return Job(
        kind="generate", run=plan.run, job=planned.job, attempt=1, family=planned.family, entry=planned.entry,
        environment=planned.environment, model=model, device=planned.device, limits=planned.limits, seed=plan.seed,
    )  # fmt: skip


def new_attempt(run: RunFolder, cell: str) -> Attempt:
    """Make a new folder like an attempt's below the run's ``debug/``."""
    place = run.path / "debug" / cell
    taken = [int(one.name) for one in place.iterdir() if one.name.isdecimal()] if place.is_dir() else []
    folder = place / str(max(taken, default=0) + 1)
    for part in ("out", "in"):
        (folder / part).mkdir(parents=True)
    return Attempt(folder)


def as_shell(spec: ContainerSpec) -> ContainerSpec:
    """Return the same process with a shell in the runner's place; its standard input is a person's, hence no lifeline."""
    variables = {name: value for name, value in spec.env.items() if name != "LONGCTX_LIFELINE"}
    return replace(spec, argv=("-c", SHELL, "{root}"), env=variables)


def _show(engine: Debuggable, spec: ContainerSpec, keep: str, attempt: Attempt, out: IO[str], report: Report) -> None:
    with engine.start(spec, keep=keep) as process:
        ended = _follow(process, attempt.log, out)
    if hostile := refuse_hostile(attempt.out):
        raise RunIncomplete(f"The job left what it may not: {hostile}.", RULES["bad_output"].next_step)
    outcome, detail = judge(ended, last_word(attempt.out), timed_out=None, stopping=False)
    answered = False
    for path in sorted(attempt.out.glob("*.responses.jsonl")):
        for line in lines(path):
            answered = True
            out.write(_pretty(line) + "\n")
    if outcome != "done" or not answered:
        step = RULES[outcome].next_step or f"Read {attempt.log}."
        raise RunIncomplete(f"{outcome}: {clean(detail) or 'no response was written'} (exit code {ended.code})", step)
    report("Done.")


def _pretty(line: bytes) -> str:
    try:
        return clean(json.dumps(json.loads(line), indent=1, ensure_ascii=False))
    except ValueError:
        return clean(line.decode("utf-8", "replace"))


def _follow(process: Process, log: Path, out: IO[str]) -> Ended:
    """Copy the log to ``out`` as it grows, until the process ended."""
    position = 0
    while True:
        ended = process.poll()
        if log.exists():
            with log.open("rb") as file:
                file.seek(position)
                data = file.read()
            whole = data if ended else data[: data.rfind(b"\n") + 1]  # a character may be half written
            position += len(whole)
            out.write(whole.decode("utf-8", "replace"))
            out.flush()
        if ended is not None:
            return ended
        time.sleep(POLL_SECONDS)
