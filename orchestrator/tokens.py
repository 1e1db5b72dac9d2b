"""The tokenise step: token ids are made once per model × task × prompting, checked, and kept; every method reads the same file."""

import contextlib
import hashlib
import itertools
import json
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from . import jobs
from .code import runner_digest, stage
from .contracts.job import Job, JobDevice
from .contracts.plan import LockedModel, Plan, TokeniseTask
from .contracts.request import Ids, Prompting
from .engines.base import ContainerSpec, Engine, Mount, Report
from .environments import find_environment
from .errors import EnvironmentFailed, ModelError
from .settings import Settings
from .store import RunFolder, digest, file_digest, lines, link_or_copy, plain, write, write_document

COUNT_TIMEOUT_SECONDS = 600.0


def cached(run: RunFolder, model: LockedModel, key: str, prompting: Prompting, settings: Settings) -> Path:
    """Return where the ids of these requests under this tokenizer and prompting are kept, whether they are there or not."""
    tokenizer = [[file.path, file.sha256] for file in model.files if not file.path.endswith(".safetensors")]
    made_with = [tokenizer, model.job.template, find_environment(model.environment).sha256, runner_digest()]
    return settings.cache / "ids" / f"{digest([made_with, plain(prompting), file_digest(run.requests(key))])[:24]}.ids"


def place(run: RunFolder, plan: Plan, models: Mapping[str, LockedModel], settings: Settings) -> list[TokeniseTask]:
    """Put every ids file that is kept into the run; return the tasks that still have to be done, with only the items missing."""
    left = []
    for task in plan.tokenise:
        missing = []
        for item in task.items:
            kept = cached(run, models[task.model], item[0], item[1], settings)
            if kept.exists():
                link_or_copy(kept, run.ids(item[2]))
            else:
                run.ids(item[2]).unlink(missing_ok=True)
                missing.append(item)
        if missing:
            left.append(task.model_copy(update={"items": tuple(missing)}))
    return left


def accept(run: RunFolder, task: TokeniseTask, model: LockedModel, settings: Settings) -> None:
    """Check what the newest attempt of a tokenising job wrote and keep it. Raises ModelError naming file and line where it is wrong."""
    attempt = jobs.Attempt(run.attempts(task.job)[-1])
    for key, prompting, name in task.items:
        path = attempt.out / name
        if path.is_symlink() or not path.is_file():
            raise ModelError(f"The tokenising of {key} for {task.model} wrote no ids.", f"Read {attempt.log}.")
        _check(path, run.requests(key), attempt.log)
        kept = cached(run, model, key, prompting, settings)
        link_or_copy(path, kept)
        link_or_copy(kept, run.ids(name))


def _check(path: Path, requests: Path, log: Path) -> None:
    """Every request has its line, in order, and every hash is right. One line in memory."""
    for number, (request, line) in enumerate(itertools.zip_longest(lines(requests), lines(path)), 1):
        problem = "lines and requests differ in number" if request is None or line is None else _wrong(request, line)
        if problem:
            raise ModelError(f"{path}:{number}: {problem}.", f"The tokenising job did not do what it should: read {log}.")


def _wrong(request: bytes, line: bytes) -> str | None:
    try:
        ids = Ids.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    row = json.loads(request)
    if ids.id != row["id"] or ids.request_sha256 != digest(row):
        return f"these are not the ids of request {row['id']}"
    try:
        packed = struct.pack(f"<{len(ids.ids)}I", *ids.ids)
    except struct.error:
        return f"request {ids.id} has ids that no vocabulary has"
    if hashlib.sha256(packed).hexdigest() != ids.given_sha256:
        return f"the hash of request {ids.id} is not that of its ids"
    return None


Count = Callable[[Sequence[str]], Sequence[int]]
"""From texts to how many tokens each has."""


def lender(engine: Engine, settings: Settings, report: Report) -> Callable[[LockedModel], contextlib.AbstractContextManager[Count]]:
    """Return what lends evals a model's tokenizer: a process in the model's own environment that counts, asked through a folder."""

    @contextlib.contextmanager
    def lend(model: LockedModel) -> Iterator[Count]:
        environment = find_environment(model.environment).spec
        engine.prepare(environment, "cpu", report)
        folder = settings.cache / "counting" / f"{model.name}-{time.time_ns()}"
        mailbox, out = folder / "in", folder / "out"
        for part in (mailbox, out / "count"):
            part.mkdir(parents=True)
        job = Job(
            kind="count", run="count", job="count", attempt=1, environment=model.environment, model=model.job, device=JobDevice(kind="cpu")
        )
        write_document(folder / "job.json", job)
        spec = ContainerSpec(
            run="count", job="count", attempt=1, environment=environment, device="cpu", family=None, argv=jobs.RUNNER_ARGUMENTS,
            mounts=(
                Mount(source=folder / "job.json", target="job.json"), Mount(source=stage(settings.cache, {}), target="code"),
                *jobs.model_mounts(model, weights=False), Mount(source=mailbox, target="requests/count"),
                Mount(source=out, target="out", writable=True),
            ),
            scratch=folder / "scratch", log=folder / "log.txt", env={"LONGCTX_LIFELINE": "stdin"},
        )  # fmt: skip
        numbers = itertools.count(1)
        with engine.start(spec) as process:

            def count(texts: Sequence[str]) -> Sequence[int]:
                name = f"{next(numbers):04d}.json"
                write(mailbox / name, json.dumps({"texts": list(texts)}))
                answer = out / "count" / name
                until = time.monotonic() + COUNT_TIMEOUT_SECONDS
                while not answer.exists():
                    if (ended := process.poll()) is not None or time.monotonic() > until:
                        how = f"ended with {ended.code}" if ended else "did not answer in time"
                        raise EnvironmentFailed(f"Counting tokens for {model.name} {how}.", f"Read {spec.log}.")
                    time.sleep(0.005)
                return _counts(answer, len(texts), model, spec.log)

            yield count
            write(mailbox / "stop", "")
            until = time.monotonic() + 10
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.005)
        _remove(folder)

    return lend


def _counts(path: Path, wanted: int, model: LockedModel, log: Path) -> Sequence[int]:
    """Read an answer of the counting process, which is not trusted: a plain file, not too long, one count a text."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > 32 * (wanted + 32):
            raise ValueError("no plain answer")
        counts = json.loads(path.read_bytes())["counts"]
        if not isinstance(counts, list) or len(counts) != wanted or not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError("not one count a text")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EnvironmentFailed(f"Counting tokens for {model.name} gave no answer that can be used: {error}.", f"Read {log}.") from error
    return counts


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
