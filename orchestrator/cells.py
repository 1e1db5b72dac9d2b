"""Cell folders: merging what attempts wrote, by request id, into one ``responses.jsonl`` that does not tell how often the run was interrupted.

What comes out of a container is hostile: links and odd files are refused, sizes capped, every line validated and written anew.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from .batches import Sized
from .contracts.cell import CellState, Source
from .contracts.job import Job
from .contracts.outcome import Environment, Verdict
from .contracts.plan import PlannedCell
from .contracts.response import Response, Timing
from .errors import BadRunFolder
from .store import LINE_LIMIT, RunFolder, digest, file_digest, lines, link_or_copy, read_document, write, write_document, writing

OUT_LIMIT = 64 * 2**30
FILES_LIMIT = 100_000
MERGED = "merged"
"""Marks an attempt whose output was taken."""


def covers(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the hash of a set of (request id, request hash)."""
    total = hashlib.sha256()
    for name, request in sorted(pairs):
        total.update(f"{name}\0{request}\n".encode())
    return total.hexdigest()


def refuse_hostile(out: Path) -> str | None:
    """Return why a container's output cannot be used, or None."""
    size = files = 0
    for folder, folders, names in os.walk(out):
        for name in (*folders, *names):
            path = Path(folder) / name
            status = path.lstat()
            files += 1
            if stat.S_ISLNK(status.st_mode):
                return f"it holds a link: {path.relative_to(out)}"
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                return f"it holds something that is no file: {path.relative_to(out)}"
            if stat.S_ISREG(status.st_mode):
                size += status.st_size
        if files > FILES_LIMIT or size > OUT_LIMIT:
            return f"it holds more than {FILES_LIMIT} files or {OUT_LIMIT // 2**30} GiB"
    return None


class _Place(NamedTuple):
    """Where a line lies."""

    file: Path
    offset: int
    length: int
    request_sha256: str
    error: bool


@dataclass
class _Gathered:
    """What attempts hold for one cell."""

    places: dict[str, _Place] = field(default_factory=dict)
    timings: dict[str, bytes] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)


def _index(path: Path) -> dict[str, _Place]:
    """Validate every line of a responses file; return where each lies. Bad lines are left out (they will be answered again)."""
    found: dict[str, _Place] = {}
    if not path.exists():
        return found
    offset = 0
    with path.open("rb") as file:
        while line := file.readline(LINE_LIMIT):
            if line.endswith(b"\n"):
                try:
                    response = Response.model_validate_json(line)
                    found[response.id] = _Place(path, offset, len(line), response.request_sha256, response.finish == "error")
                except ValidationError:
                    pass
            offset += len(line)
    return found


def _environment(out: Path) -> Environment | None:
    path = out / "environment.json"
    if not path.is_file() or path.stat().st_size > 2**20:
        return None
    try:
        return Environment.model_validate_json(path.read_bytes())
    except ValidationError:
        return None


def _timings(path: Path) -> dict[str, bytes]:
    found = {}
    if path.exists():
        for line in lines(path):
            try:
                timing = Timing.model_validate_json(line)
                found[timing.id] = timing.model_dump_json().encode()
            except ValidationError:
                continue
    return found


def collect(run: RunFolder, cells: Mapping[str, PlannedCell], *, dead: bool = False) -> list[str]:
    """Merge every attempt not merged yet into its cells; return the cells that changed.

    An attempt counts for a cell only if it ran the cell's configuration with code that the plan takes. ``dead`` says that nothing runs
    any more, so that attempts without a verdict (killed ones) are complete too.
    """
    gathered: dict[str, _Gathered] = {}
    taken: list[Path] = []
    jobs = run.path / "jobs"
    for folder in sorted(jobs.iterdir()) if jobs.is_dir() else []:
        for attempt in run.attempts(folder.name):
            if (attempt / MERGED).exists() or not (attempt / "job.json").exists():
                continue
            if _gather(run, attempt, cells, gathered) and (dead or (attempt / "verdict.json").exists()):
                taken.append(attempt)
    for name, found in gathered.items():
        _merge(run, cells[name], found)
    for attempt in taken:
        write(attempt / MERGED, "")
    return list(gathered)


def _gather(run: RunFolder, attempt: Path, cells: Mapping[str, PlannedCell], gathered: dict[str, _Gathered]) -> bool:
    """Index what one attempt wrote; return whether all of it found its cell, so that the attempt need not be read again."""
    try:
        job = Job.model_validate_json((attempt / "job.json").read_bytes())
    except ValidationError:
        return True
    out = attempt / "out"
    if job.kind != "generate" or refuse_hostile(out):
        return True
    complete = True
    verdict = read_document(attempt / "verdict.json", Verdict) if (attempt / "verdict.json").exists() else None
    environment = _environment(out)
    for part in job.cells:
        planned = cells.get(part.cell)
        if planned is None or part.config_sha256 != planned.config_sha256 or part.code_sha256 not in (planned.code_sha256, planned.accepted_code):
            complete = False
            continue
        places = _index(out / f"{part.cell}.responses.jsonl")
        timings = _timings(out / f"{part.cell}.timing.jsonl")
        if not places and not timings:
            continue
        found = gathered.setdefault(part.cell, _Gathered())
        for name, place in places.items():
            if name not in found.places or found.places[name].error:
                found.places[name] = place
        found.timings |= timings
        weights = next((_weights(place) for place in places.values()), None)
        found.sources.append(
            Source(
                run=run.name, job=job.job, attempt=job.attempt, engine=verdict.engine if verdict else "unknown",
                isolation=verdict.isolation if verdict else "none", responses=len(places), timings=len(timings), weights=weights,
                environment=environment,
            )  # fmt: skip
        )
    return complete


def _weights(place: _Place) -> int | None:
    return Response.model_validate_json(_read(place)).memory.weights


def _read(place: _Place) -> bytes:
    with place.file.open("rb") as file:
        file.seek(place.offset)
        return file.read(place.length)


def _merge(run: RunFolder, cell: PlannedCell, found: _Gathered) -> None:
    """Write responses.jsonl in the order of the task's requests, then the timings, then the state."""
    folder = run.cell(cell.cell)
    target = folder / "responses.jsonl"
    state = read_document(folder / "cell.json", CellState) if (folder / "cell.json").exists() else None
    keep = {cell.code_sha256, cell.accepted_code}
    if state is not None and not set(state.codes) <= keep:
        set_aside(folder, state)
        state = None
    places = _index(target) | {}
    for name, place in found.places.items():
        if name not in places or places[name].error or places[name].request_sha256 != place.request_sha256:
            places[name] = place
    order = _order(run, cell, places)
    with writing(target) as file:
        for name in order:
            file.write(Response.model_validate_json(_read(places[name])).model_dump_json().encode() + b"\n")
    timings = _timings(folder / "timing.jsonl") | found.timings
    if timings:
        write(folder / "timing.jsonl", b"".join(line + b"\n" for line in timings.values()))
    codes = {*(state.codes if state else ()), cell.code_sha256}
    write_document(
        folder / "cell.json",
        CellState(
            cell=cell.cell, config_sha256=cell.config_sha256, codes=tuple(sorted(codes)), answered=len(order),
            covers_sha256=covers((name, place.request_sha256) for name, place in places.items()),
            errors=sum(place.error for place in places.values()), sources=(*(state.sources if state else ()), *found.sources),
        ),  # fmt: skip
    )


def _order(run: RunFolder, cell: PlannedCell, places: Mapping[str, _Place]) -> Sequence[str]:
    """Return the answered ids in the order of the task's requests; those of requests that the task no longer has come last, by id."""
    path = run.requests(cell.task)
    known = [row["id"] for row in map(json.loads, lines(path))] if path.exists() else []
    first = [name for name in known if name in places]
    return [*first, *sorted(set(places) - set(first))]


def set_aside(folder: Path, state: CellState) -> None:
    """Keep responses of older code beside the new ones, under the code's hash."""
    suffix = state.codes[-1][:10] if state.codes else "unknown"
    for name in ("responses.jsonl", "timing.jsonl", "scores.jsonl", "result.json", "cell.json"):
        path = folder / name
        if path.exists():
            path.replace(path.with_name(f"{path.stem}.{suffix}{path.suffix}"))


def set_aside_timing(folder: Path, hardware: str) -> None:
    """Keep times of other hardware apart: times are comparable only on one kind of machine."""
    if not (folder / "cell.json").exists() or not (folder / "timing.jsonl").exists():
        return
    state = read_document(folder / "cell.json", CellState)
    others = [source for source in state.sources if source.timings and hardware_of(source.environment) not in (None, hardware)]
    if others:
        (folder / "timing.jsonl").replace(folder / f"timing.{digest(hardware_of(others[-1].environment))[:10]}.jsonl")
        kept = tuple(source.model_copy(update={"timings": 0}) if source in others else source for source in state.sources)
        write_document(folder / "cell.json", state.model_copy(update={"sources": kept}))


def hardware_of(environment: Environment | None) -> str | None:
    """Return the name of what an attempt computed on."""
    if environment is None:
        return None
    if environment.gpus:
        return " + ".join(sorted({str(gpu.get("name")) for gpu in environment.gpus}))
    return environment.cpu


def drop_errors(folder: Path, state: CellState) -> None:
    """Forget answers that ended in an error, so that they are tried again."""
    places = {name: place for name, place in _index(folder / "responses.jsonl").items() if not place.error}
    with writing(folder / "responses.jsonl") as file:
        for place in places.values():
            file.write(_read(place))
    covered = covers((name, place.request_sha256) for name, place in places.items())
    write_document(
        folder / "cell.json", state.model_copy(update={"answered": len(places), "errors": 0, "covers_sha256": covered})
    )


def adopt(source: Path, target: Path) -> None:
    """Take over a cell from another run: its responses, timings and state."""
    if not (source / "cell.json").exists():
        raise BadRunFolder(f"{source} holds no cell.json.", "It changed while it was read; run again.")
    for name in ("responses.jsonl", "timing.jsonl", "cell.json"):
        if (source / name).exists():
            link_or_copy(source / name, target / name)


def pairs(path: Path) -> dict[str, str]:
    """Return request hash by id of everything answered in a responses file."""
    if not path.exists():
        return {}
    return {row["id"]: row["request_sha256"] for row in map(json.loads, lines(path))}


def wanted(requests: Sequence[Sized]) -> str:
    """Return what :func:`covers` gives when exactly these requests are answered."""
    return covers((request.id, request.request_sha256) for request in requests)


def responses_digest(folder: Path) -> str:
    """Return the hash of a cell's responses file."""
    return file_digest(folder / "responses.jsonl")
