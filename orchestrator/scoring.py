"""Scores of a cell: responses against references on the host, without a model, as often as wanted.

One response is in memory at a time. What failed scores null and keeps its place in the denominator.
"""

import json
import statistics
import sys
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from ..evals import registry
from ..evals.base import Eval
from ..evals.base import Reference as EvalReference
from . import stats
from .cells import responses_digest
from .contracts.cell import CellState, Source
from .contracts.outcome import Isolation
from .contracts.plan import LockedModel, PlannedCell, PlannedTask
from .contracts.request import Reference
from .contracts.response import SCORED, Response, Timing
from .contracts.result import BucketTime, CellBytes, Counts, Interval, Result, Score, Speed
from .errors import DataError, ScoreRefused
from .jobs import ids_name, order, sized
from .store import RunFolder, file_digest, lines, plain, read_document, read_lines, write_document, writing
from .tasks import eval_sha256

_WORST: Sequence[Isolation] = ("none", "partial", "full")


@dataclass
class _Totals:
    """What is kept while the responses go by: a number a request at most."""

    values: dict[str, "array[float]"] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    clusters: list[str] = field(default_factory=list)
    axes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    finish: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    kv: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    kv_n: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    compared: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By what is compared with full: sums of (full, held) over the requests that have both."""
    at: str = "prefill"
    requests: int = 0


def _paired(run: RunFolder, cell: PlannedCell) -> Iterator[tuple[Reference, Response | None]]:
    """Pair every reference with the response to its very request, or None.

    Merged files stand in the task's order and are read side by side, one line of each in memory. Where they do not (the task lost
    requests, or lists them otherwise, since the answers were merged), an offset for each response is kept.
    """
    path = run.cell(cell.cell) / "responses.jsonl"
    ids = run.ids(ids_name(cell.model, cell.task, plain(cell.prompting)))
    if _side_by_side(ids, run.references(cell.task), path):
        yield from _joined(ids, run.references(cell.task), path)
        return
    wanted = {one.id: one.request_sha256 for one in order(ids)}
    places: dict[str, tuple[int, int]] = {}
    offset = 0
    for line in lines(path):
        row = json.loads(line)
        if wanted.get(row["id"]) == row["request_sha256"]:
            places[row["id"]] = (offset, len(line))
        offset += len(line) + 1
    with path.open("rb") as file:
        for reference in read_lines(run.references(cell.task), Reference):
            response = None
            if reference.id in places:
                start, length = places[reference.id]
                file.seek(start)
                response = Response.model_validate_json(file.read(length))
            yield reference, response


def _side_by_side(ids: Path, references: Path, responses: Path) -> bool:
    """Whether ids and references list the same requests, and the responses some of them, all in one order."""
    pairs = zip_longest(sized(ids), lines(references))
    if not all(one is not None and line is not None and one.id == json.loads(line)["id"] for one, line in pairs):
        return False
    rest = sized(ids)  # each look goes on where the last one stopped
    return all(any(one.id == name for one in rest) for name in (json.loads(line)["id"] for line in lines(responses)))


def _joined(ids: Path, references: Path, responses: Path) -> Iterator[tuple[Reference, Response | None]]:
    """Read the three files side by side."""
    answers = (Response.model_validate_json(line) for line in lines(responses))
    ahead = next(answers, None)
    for one, reference in zip(sized(ids), read_lines(references, Reference), strict=True):
        if ahead is not None and ahead.id == one.id:
            yield reference, ahead if ahead.request_sha256 == one.request_sha256 else None
            ahead = next(answers, None)
        else:
            yield reference, None


def score_cell(run: RunFolder, cell: PlannedCell, task: PlannedTask, model: LockedModel, seed: int) -> Result:
    """Score one cell: writes ``scores.jsonl``, then ``result.json``; returns the result. Raises ScoreRefused on mixed prompts."""
    one = _eval(task.task)
    folder = run.cell(cell.cell)
    totals = _Totals()
    name = task.task.partition("/")[2]
    with writing(folder / "scores.jsonl") as file:
        for reference, response in _paired(run, cell):
            score = _one(one, name, reference, response, totals)
            file.write(score.model_dump_json().encode() + b"\n")
    state = read_document(folder / "cell.json", CellState)
    result = _result(run, cell, task, model, seed, one, totals, state)
    write_document(folder / "result.json", result)
    return result


def _eval(task: str) -> Eval:
    try:
        return registry.get(task.partition("/")[0])
    except (LookupError, ImportError) as error:
        raise DataError(f"{task} cannot be scored: {error}.", "Set LONGCTX_PATH as it was when the run was made.") from error


def eval_now(task: str) -> str:
    """Return the hash of a task's eval as its code stands now. Raises DataError where there is no such eval any more."""
    return eval_sha256(_eval(task), task.partition("/")[2])


def _one(one: Eval, task: str, reference: Reference, response: Response | None, totals: _Totals) -> Score:
    totals.requests += 1
    metrics: dict[str, float] | None = None
    if response is not None:
        totals.finish[response.finish] += 1
        if response.finish in SCORED:
            metrics = one.score(task, _plain(reference), response.text)
            for key, value in metrics.items():
                totals.values[key].append(value)
            totals.clusters.append(reference.cluster)
            for axis in one.axes:
                if axis in reference.axes:
                    totals.axes[axis].append(sys.intern(str(reference.axes[axis])))
            _add_bytes(response, totals)
    return Score(id=reference.id, metrics=metrics, cluster=reference.cluster, axes=reference.axes)


def _plain(reference: Reference) -> EvalReference:
    return EvalReference(
        id=reference.id, answers=reference.answers, cluster=reference.cluster, classes=reference.classes, length=reference.length,
        axes=reference.axes,
    )  # fmt: skip


def _add_bytes(response: Response, totals: _Totals) -> None:
    kv = response.kv
    if kv is None:
        return
    totals.at = kv.at
    measured = {"device": kv.device.total if kv.device else None, "host": kv.host, "analytic": kv.analytic, "full": kv.full}
    for key, value in measured.items():
        if value is not None:
            totals.kv[key] += value
            totals.kv_n[key] += 1
            if kv.full is not None:
                full, held = totals.compared.get(key, (0.0, 0.0))
                totals.compared[key] = (full + kv.full, held + value)


def _result(
    run: RunFolder, cell: PlannedCell, task: PlannedTask, model: LockedModel, seed: int, one: Eval, totals: _Totals, state: CellState
) -> Result:
    scored = len(totals.clusters)
    scores = {
        key: _interval(values, totals.clusters, seed).model_copy(
            update={"zeros": sum(values) / totals.requests if totals.requests else None}
        )
        # Where nothing was scored the headline still stands there: no mean, and what all failures as zero come to.
        for key, values in (totals.values or {one.metric: array("d")}).items()
    }
    headline = totals.values.get(one.metric, array("d"))
    finish = totals.finish
    return Result(
        cell=cell.cell, label=cell.label, variant=cell.variant, method=cell.method, params=cell.params, model=cell.model,
        model_source=model.source, task=task.task, task_key=task.key, environment=cell.environment, prompting=cell.prompting,
        config_sha256=cell.config_sha256, code_sha256=cell.code_sha256, eval_sha256=task.eval_sha256,
        references_sha256=file_digest(run.references(cell.task)), responses_sha256=responses_digest(run.cell(cell.cell)),
        metric=one.metric,
        counts=Counts(
            requests=totals.requests, answered=sum(finish.values()), scored=scored, oom=finish["oom"], too_long=finish["too_long"],
            error=finish["error"],
        ),
        partial=scored < totals.requests, scores=scores, by_axis=_by_axis(headline, totals, seed), kv=_bytes(totals),
        speed=Speed(buckets=buckets(run.cell(cell.cell) / "timing.jsonl", _requests(run, cell))),
        weights=next((source.weights for source in reversed(state.sources) if source.weights is not None), None),
        isolation=_isolation(state.sources), engine=next((source.engine for source in reversed(state.sources)), None),
        environment_seen=next(
            (source.environment.model_dump(mode="json") for source in reversed(state.sources) if source.environment), {}
        ),
        random_weights=model.special, seed=seed,
    )  # fmt: skip


def _interval(values: Sequence[float], clusters: Sequence[str], seed: int) -> Interval:
    return stats.interval(values, clusters=clusters, seed=seed)


def _by_axis(values: Sequence[float], totals: _Totals, seed: int) -> dict[str, dict[str, Interval]]:
    found: dict[str, dict[str, Interval]] = {}
    for axis, places in totals.axes.items():
        if len(places) != len(values):
            continue
        rows: dict[str, list[int]] = defaultdict(list)
        for index, place in enumerate(places):
            rows[place].append(index)
        found[axis] = {
            place: _interval([values[index] for index in chosen], [totals.clusters[index] for index in chosen], seed)
            for place, chosen in sorted(rows.items(), key=lambda item: _numeric(item[0]))
        }
    return found


def _numeric(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return float("inf"), text


def _bytes(totals: _Totals) -> CellBytes | None:
    if not totals.kv_n:
        return None
    mean = {key: totals.kv[key] / totals.kv_n[key] if totals.kv_n[key] else None for key in ("device", "host", "analytic", "full")}
    return CellBytes(
        at="end" if totals.at == "end" else "prefill", device=mean["device"], host=mean["host"], analytic=mean["analytic"],
        full=mean["full"], ratio=_ratio(totals, "device"), ratio_analytic=_ratio(totals, "analytic"),
    )  # fmt: skip


def _ratio(totals: _Totals, key: str) -> float | None:
    full, held = totals.compared.get(key, (0.0, 0.0))
    return full / held if full and held else None


def _requests(run: RunFolder, cell: PlannedCell) -> set[str]:
    return {request.id for request in order(run.ids(ids_name(cell.model, cell.task, plain(cell.prompting))))}


def buckets(path: Path, asked: Collection[str]) -> tuple[BucketTime, ...]:
    """Return medians of the timing pass by length bucket, over requests that the task has: a sibling's other lengths are not of it."""
    rows: dict[int, list[Timing]] = defaultdict(list)
    if path.exists():
        for timing in read_lines(path, Timing):
            if timing.id in asked:
                rows[timing.bucket].append(timing)
    return tuple(_bucket(tokens, timings) for tokens, timings in sorted(rows.items()))


def _bucket(tokens: int, timings: Sequence[Timing]) -> BucketTime:
    prefill = [timing.time.prefill_s for timing in timings if timing.time.prefill_s is not None]
    decode = [
        (timing.generated - 1) / timing.time.decode_s for timing in timings if timing.time.decode_s and timing.generated > 1
    ]  # the first token comes out of the prefill
    peaks = [timing.memory.peak for timing in timings if timing.memory.peak is not None]
    return BucketTime(
        tokens=tokens, n=len(timings), given=statistics.fmean(timing.given for timing in timings),
        prefill_s=statistics.median(prefill) if prefill else None, decode_tokens_per_s=statistics.median(decode) if decode else None,
        peak=max(peaks) if peaks else None,
    )  # fmt: skip


def _isolation(sources: Sequence[Source]) -> Isolation | None:
    return min((source.isolation for source in sources), key=_WORST.index, default=None)


def refuse_mixed(run: RunFolder, cells: Sequence[PlannedCell]) -> None:
    """Raise ScoreRefused when cells of one model, task and prompting were given different tokens for one and the same request.

    Answers to an older version of a request are passed over: they are not scored.
    """
    groups: dict[tuple[str, str, str], list[PlannedCell]] = defaultdict(list)
    for cell in cells:
        groups[(cell.model, cell.task, cell.prompting.model_dump_json())].append(cell)
    for members in groups.values():
        seen: dict[tuple[str, str], tuple[str, str]] = {}
        for cell in members:
            for name, request_sha256, sha256 in given_hashes(run.cell(cell.cell) / "responses.jsonl"):
                first = seen.setdefault((name, request_sha256), (sha256, cell.cell))
                if first[0] != sha256:
                    raise ScoreRefused(
                        f"Request {name} of {cell.task} was given different token ids in two cells of {cell.model}:\n"
                        f"  {first[1]}  {first[0][:16]}…\n  {cell.cell}  {sha256[:16]}…",
                        "Their scores cannot be compared: run both again with `--fresh`.",
                    )


def given_hashes(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield request id, request hash and the hash of the given tokens of every answer."""
    if path.exists():
        for row in map(json.loads, lines(path)):
            yield row["id"], row["request_sha256"], row["given_sha256"]


def whole(result: Result) -> bool:
    """Whether a cell got all it can get: every request answered, none of them with an error of the method."""
    return result.counts.answered == result.counts.requests and not result.counts.error
