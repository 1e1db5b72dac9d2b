"""Cell folders: what attempts wrote, merged by request id into one ``responses.jsonl`` that does not tell how often a run was interrupted.

What comes out of a container is hostile: links and odd files are refused, sizes capped, every line validated and written anew.
"""

import hashlib
import itertools
import json
import os
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from .batches import Sized
from .contracts.cell import CellState, Source
from .contracts.job import Batch, Job, JobCell
from .contracts.outcome import Environment, Verdict
from .contracts.plan import PlannedCell
from .contracts.response import Response, Timing
from .errors import BadRunFolder
from .store import (
    LINE_LIMIT,
    RunFolder,
    digest,
    file_digest,
    lines,
    link_or_copy,
    read_document,
    read_lines,
    storage_errors,
    write,
    write_document,
    writing,
)  # fmt: skip

OUT_LIMIT = 64 * 2**30
FILES_LIMIT = 100_000
MERGED = "merged"
"""Names, a line each, the cells whose part of an attempt's output was taken, so that it is never taken again."""


def covers(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the hash of a set of (request id, request hash)."""
    total = hashlib.sha256()
    for name, request in sorted(pairs):
        total.update(f"{name}\0{request}\n".encode())
    return total.hexdigest()


_READABLE = {stat.S_IFREG: stat.S_IRUSR, stat.S_IFDIR: stat.S_IRUSR | stat.S_IXUSR}
"""Mode bits without which the host, if it is not root, would stumble over what a container left."""


def refuse_hostile(out: Path) -> str | None:
    """Return why a container's output cannot be used, or None."""
    size = files = 0
    try:
        status = out.lstat()
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    if not stat.S_ISDIR(status.st_mode) or stat.S_IMODE(status.st_mode) & _READABLE[stat.S_IFDIR] != _READABLE[stat.S_IFDIR]:
        return "it is no folder that can be read"
    for folder, folders, names in os.walk(out):
        for name in (*folders, *names):
            path = Path(folder) / name
            try:
                status = path.lstat()
            except OSError as error:
                return f"{path.relative_to(out)} cannot be read: {error.strerror}"
            files += 1
            if stat.S_ISLNK(status.st_mode):
                return f"it holds a link: {path.relative_to(out)}"
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                return f"it holds something that is no file: {path.relative_to(out)}"
            if stat.S_IMODE(status.st_mode) & _READABLE[stat.S_IFMT(status.st_mode)] != _READABLE[stat.S_IFMT(status.st_mode)]:
                return f"it holds something that its owner may not read: {path.relative_to(out)}"
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
    codes: set[str] = field(default_factory=set)


def _better(one: _Place, other: _Place | None, wanted: Mapping[str, str], name: str) -> bool:
    """Whether ``one`` replaces ``other``: it answers the request as it stands now, or it is no error, or it is the newer of two errors."""

    def rank(place: _Place) -> tuple[bool, bool]:
        return wanted.get(name) == place.request_sha256, not place.error

    return other is None or rank(one) > rank(other) or (rank(one) == rank(other) and one.error)


def _index(path: Path, asked: Collection[str] | None = None) -> dict[str, _Place]:
    """Validate every line of a responses file; return where each lies.

    Bad lines, and ids that were not ``asked`` for, are left out (if they are wanted they will be answered again).
    """
    found: dict[str, _Place] = {}
    if not path.exists():
        return found
    offset = 0
    with path.open("rb") as file:
        while line := file.readline(LINE_LIMIT):
            if line.endswith(b"\n"):
                try:
                    response = Response.model_validate_json(line)
                    if asked is None or response.id in asked:
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


def _timings(path: Path, asked: Collection[str] | None = None) -> dict[str, bytes]:
    found = {}
    if path.exists():
        for line in lines(path):
            try:
                timing = Timing.model_validate_json(line)
                if asked is None or timing.id in asked:
                    found[timing.id] = timing.model_dump_json().encode()
            except ValidationError:
                continue
    return found


def collect(run: RunFolder, cells: Mapping[str, PlannedCell], *, dead: bool = False) -> list[str]:
    """Merge what attempts hold and was not taken yet into its cells; return the cells that changed.

    An attempt counts for a cell only if it ran the cell's configuration with code that the plan takes. ``dead`` says that nothing runs
    any more, so that attempts without a verdict (killed ones) are complete too.
    """
    gathered: dict[str, _Gathered] = {}
    taken: dict[Path, list[str]] = {}
    orders: dict[str, Mapping[str, str]] = {}
    jobs = run.path / "jobs"
    for folder in sorted(jobs.iterdir()) if jobs.is_dir() else []:
        for attempt in run.attempts(folder.name):
            if (attempt / "job.json").exists():
                part = _gather(run, attempt, cells, gathered, orders)
                if part and (dead or (attempt / "verdict.json").exists()):
                    taken[attempt] = part
    for name, found in gathered.items():
        _merge(run, cells[name], found, _order(run, cells[name], orders))
    for attempt, names in taken.items():
        write(attempt / MERGED, "".join(f"{name}\n" for name in sorted({*merged(attempt), *names})))
    return list(gathered)


def merged(attempt: Path) -> frozenset[str]:
    """Return the cells whose part of an attempt's output was taken already."""
    path = attempt / MERGED
    return frozenset(path.read_text(encoding="utf-8").splitlines()) if path.exists() else frozenset()


def _gather(
    run: RunFolder, attempt: Path, cells: Mapping[str, PlannedCell], gathered: dict[str, _Gathered], orders: dict[str, Mapping[str, str]]
) -> list[str]:
    """Index what one attempt wrote for cells of the plan; return those cells. What other code or configurations made stays for later."""
    try:
        job = Job.model_validate_json((attempt / "job.json").read_bytes())
    except ValidationError:
        return []
    done = merged(attempt)
    parts = [part for part in job.cells if part.cell not in done and _counts(part, cells.get(part.cell))]
    out = attempt / "out"
    if not parts or refuse_hostile(out):
        return [part.cell for part in parts]
    verdict = read_document(attempt / "verdict.json", Verdict) if (attempt / "verdict.json").exists() else None
    environment = _environment(out)
    for part in parts:
        places = _index(out / f"{part.cell}.responses.jsonl", _asked(attempt, part))
        timed = {one for bucket in part.timing.buckets for one in bucket.requests} if part.timing else set()
        timings = _timings(out / f"{part.cell}.timing.jsonl", timed)
        if not places and not timings:
            continue
        found = gathered.setdefault(part.cell, _Gathered())
        wanted = _order(run, cells[part.cell], orders)
        for name, place in places.items():
            if _better(place, found.places.get(name), wanted, name):
                found.places[name] = place
        found.timings |= timings
        found.codes.add(part.code_sha256)
        weights = next((_weights(place) for place in places.values()), None)
        found.sources.append(
            Source(
                run=run.name,
                job=job.job,
                attempt=job.attempt,
                engine=verdict.engine if verdict else "unknown",
                isolation=verdict.isolation if verdict else "none",
                responses=len(places),
                timings=len(timings),
                weights=weights,
                environment=environment,
            )
        )
    return [part.cell for part in parts]


def _counts(part: JobCell, planned: PlannedCell | None) -> bool:
    """Whether a part of a job ran what the plan's cell asks for."""
    return (
        planned is not None
        and part.config_sha256 == planned.config_sha256
        and part.code_sha256 in (planned.code_sha256, planned.accepted_code)
    )


def _asked(attempt: Path, part: JobCell) -> frozenset[str]:
    """Return the ids that an attempt was to answer for a cell: whatever else it wrote was not asked for."""
    path = attempt / "in" / f"{part.cell}.batches.jsonl"
    return frozenset(name for batch in read_lines(path, Batch) for name in batch.keep) if path.exists() else frozenset()


def _weights(place: _Place) -> int | None:
    return Response.model_validate_json(_read(place)).memory.weights


def _read(place: _Place) -> bytes:
    with place.file.open("rb") as file:
        file.seek(place.offset)
        return file.read(place.length)


def _merge(run: RunFolder, cell: PlannedCell, found: _Gathered, wanted: Mapping[str, str]) -> None:
    """Write responses.jsonl in the order of the task's requests, then the timings, then the state."""
    folder = run.cell(cell.cell)
    target = folder / "responses.jsonl"
    tidy(folder)
    state = read_document(folder / "cell.json", CellState) if (folder / "cell.json").exists() else None
    if state is not None and not {cell.code_sha256, cell.accepted_code} & set(state.codes):
        set_aside(folder)
        state = None
    places = _index(target)
    for name, place in found.places.items():
        if _better(place, places.get(name), wanted, name):
            places[name] = place
    first = [name for name in wanted if name in places]
    # Answers to requests that the task no longer has are kept, at the end: the task may want them again.
    order = [*first, *sorted(set(places) - set(first))]
    with writing(target) as file:
        for name in order:
            file.write(Response.model_validate_json(_read(places[name])).model_dump_json().encode() + b"\n")
    timings = _timings(folder / "timing.jsonl") | found.timings
    if timings:
        write(folder / "timing.jsonl", b"".join(line + b"\n" for line in timings.values()))
    codes = {*(state.codes if state else ()), *found.codes, cell.code_sha256}
    write_document(
        folder / "cell.json",
        CellState(
            cell=cell.cell,
            config_sha256=cell.config_sha256,
            codes=tuple(sorted(codes)),
            answered=len(order),
            covers_sha256=covers((name, place.request_sha256) for name, place in places.items()),
            errors=sum(place.error for place in places.values()),
            sources=(*(state.sources if state else ()), *found.sources),
        ),
    )


def _order(run: RunFolder, cell: PlannedCell, orders: dict[str, Mapping[str, str]]) -> Mapping[str, str]:
    """Return the hash of every request of the cell's task by id, in the task's order; each task is read once."""
    if cell.task not in orders:
        path = run.requests(cell.task)
        orders[cell.task] = {row["id"]: digest(row) for row in map(json.loads, lines(path))} if path.exists() else {}
    return orders[cell.task]


def set_aside(folder: Path) -> None:
    """Keep a cell's folder, whole, below the run's ``aside/``, where no plan looks. One rename, so that there is no moment between."""
    place = folder.parent.parent / "aside"
    number = next(number for number in itertools.count(1) if not (place / f"{folder.name}.{number}").exists())
    with storage_errors(place):
        place.mkdir(exist_ok=True)
        folder.rename(place / f"{folder.name}.{number}")


def tidy(folder: Path) -> None:
    """Set aside answers without a state: a process was killed between the two. The attempt that they came from still has them."""
    if not (folder / "cell.json").exists() and (folder / "responses.jsonl").exists():
        set_aside(folder)


def accept(folder: Path, code_sha256: str) -> None:
    """Record that a person takes the cell's answers, made by other code, for those of this code."""
    state = read_document(folder / "cell.json", CellState)
    if code_sha256 not in state.codes:
        write_document(folder / "cell.json", state.model_copy(update={"codes": tuple(sorted({*state.codes, code_sha256}))}))


def set_aside_timing(folder: Path, hardware: str) -> None:
    """Keep times of other hardware apart: times are comparable only on one kind of machine."""
    if not (folder / "cell.json").exists() or not (folder / "timing.jsonl").exists():
        return
    state = read_document(folder / "cell.json", CellState)
    others = [source for source in state.sources if source.timings and not same_hardware(source.environment, hardware)]
    if others:
        (folder / "timing.jsonl").replace(folder / f"timing.{digest(hardware_of(others[-1].environment))[:10]}.jsonl")
        kept = tuple(source.model_copy(update={"timings": 0}) if source in others else source for source in state.sources)
        write_document(folder / "cell.json", state.model_copy(update={"sources": kept}))


def same_hardware(environment: Environment | None, hardware: str) -> bool:
    """Whether an attempt computed on what this host has; ``hardware`` may name several kinds of GPU, a job has some of them."""
    known = hardware_of(environment)
    return known is None or set(known.split(" + ")) <= set(hardware.split(" + "))


def hardware_of(environment: Environment | None) -> str | None:
    """Return the name of what an attempt computed on."""
    if environment is None:
        return None
    if environment.gpus:
        return " + ".join(sorted({str(gpu.get("name")) for gpu in environment.gpus}))
    return environment.cpu


def drop_errors(folder: Path) -> None:
    """Forget answers that ended in an error, so that they are tried again. The state goes first: it never promises more than is there."""
    state = read_document(folder / "cell.json", CellState)
    places = {name: place for name, place in _index(folder / "responses.jsonl").items() if not place.error}
    covered = covers((name, place.request_sha256) for name, place in places.items())
    write_document(folder / "cell.json", state.model_copy(update={"answered": len(places), "errors": 0, "covers_sha256": covered}))
    with writing(folder / "responses.jsonl") as file:
        for place in places.values():
            file.write(_read(place))


def adopt(source: Path, target: Path) -> None:
    """Take over a cell from another folder: its responses, timings and state. What the target held is set aside."""
    if not (source / "cell.json").exists():
        raise BadRunFolder(f"{source} holds no cell.json.", "It changed while it was read; run again.")
    if target.exists():
        set_aside(target)
    # Read before the responses are linked: the other run may go on, and a state must never promise more than is there.
    state = (source / "cell.json").read_bytes()
    for name in ("responses.jsonl", "timing.jsonl"):
        if (source / name).exists():
            link_or_copy(source / name, target / name)
    write(target / "cell.json", state)


class Answered(NamedTuple):
    """What a responses file holds."""

    pairs: dict[str, str]
    """Request hash by id."""
    errors: frozenset[str]
    """The ids whose answer is an error."""


def answered(path: Path) -> Answered:
    """Read a responses file that longctx wrote; empty where there is none."""
    found, errors = {}, set()
    if path.exists():
        for row in map(json.loads, lines(path)):
            found[row["id"]] = row["request_sha256"]
            if row["finish"] == "error":
                errors.add(row["id"])
    return Answered(found, frozenset(errors))


def wanted(requests: Sequence[Sized]) -> str:
    """Return what :func:`covers` gives when exactly these requests are answered."""
    return covers((request.id, request.request_sha256) for request in requests)


def responses_digest(folder: Path) -> str:
    """Return the hash of a cell's responses file."""
    return file_digest(folder / "responses.jsonl")
