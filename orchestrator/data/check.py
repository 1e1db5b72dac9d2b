"""What a data folder holds, and whether it still is what it should be. Reads only."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...evals.base import DataMissing
from ...evals.data import File, Source, command, file_sha256, rows
from ...evals.sources import SOURCES
from ..errors import DataError
from ..models.source import Report
from . import network
from .fetch import source
from .record import FileRecord, SourceRecord, load

if TYPE_CHECKING:
    from rich.table import Table

State = Literal["right", "unrecorded", "missing", "altered", "wrong"]
"""``unrecorded``: its rows are as rows should be, but nothing says what its checksum must be."""
GOOD: tuple[State, ...] = ("right", "unrecorded")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One file, looked at."""

    path: str
    state: State
    detail: str = ""


def verify(names: Sequence[str], data: Path, report: Report) -> dict[str, list[Finding]]:
    """Read every file of the named sources (those that are here, when none is named) and return what was found, by source.

    Raises DataError if there is nothing to verify, or the record is damaged. Wrong files are findings, not errors.
    """
    record = load(data)
    chosen = [source(name) for name in names] or [one for one in SOURCES.values() if _here(one, data, record.sources.get(one.name))]
    if not chosen:
        raise DataError(f"{data} holds no data.", f"Fetch some: {command(next(iter(SOURCES)), data)}")
    found = {}
    for one in chosen:
        report(f"reading {one.name} in {data}")
        known = record.sources.get(one.name)
        found[one.name] = [finding for file in one.files if (finding := _look(one, file, data, known))]
        if one.sets and not any((data / file.path).exists() for file in one.sets) and not (known and known.archive_sha256):
            found[one.name].append(Finding(path=one.sets[0].path, state="missing", detail="and every other set"))
    return found


def complaint(found: dict[str, list[Finding]], data: Path) -> DataError | None:
    """Return the error that says what is wrong and which command mends it; None when all is right."""
    bad = {name: wrong for name, findings in found.items() if (wrong := [one for one in findings if one.state not in GOOD])}
    if not bad:
        return None
    lines = [f"{one.path}: {one.state}{f' ({one.detail})' if one.detail else ''}" for wrong in bad.values() for one in wrong]
    shown = "\n  ".join(lines[:20]) + (f"\n  and {len(lines) - 20} more" if len(lines) > 20 else "")
    mend = "\n".join(f"Fetch again what is wrong: {command(name, data)}{_from(name, data)}" for name in bad)
    return DataError(f"{data}:\n  {shown}", mend)


def _from(name: str, data: Path) -> str:
    """Data that came from a folder is mended from there."""
    known = load(data).sources.get(name)
    return f" --from {shlex.quote(known.origin)}" if known is not None and known.origin != "network" else ""


def _here(one: Source, data: Path, known: SourceRecord | None) -> bool:
    return known is not None or any((data / file.path).exists() for file in one.files)


def _look(one: Source, file: File, data: Path, known: SourceRecord | None) -> Finding | None:
    """Return a finding; None for a set that nobody says must be here."""
    path = data / file.path
    recorded = known.files.get(file.path) if known else None
    if not path.is_file():
        return Finding(path=file.path, state="missing") if recorded is not None or file.sha256 is not None else None
    try:
        wanted = file.sha256 or (recorded.sha256 if recorded else None)
        if wanted is not None:
            if (got := file_sha256(path)) != wanted:
                return Finding(path=file.path, state="altered", detail=f"SHA-256 {got[:16]}… instead of {wanted[:16]}…")
            return Finding(path=file.path, state="right", detail=_rows(recorded))
        count = sum(1 for _ in rows(path, one.fields, ""))
    except DataMissing as error:
        return Finding(path=file.path, state="wrong", detail=str(error).removeprefix(str(path)).lstrip(":"))
    except OSError as error:
        return Finding(path=file.path, state="wrong", detail=str(error.strerror))
    return Finding(path=file.path, state="unrecorded", detail=f"{count} of {file.rows} rows")


def _rows(recorded: FileRecord | None) -> str:
    return f"{recorded.rows} of {recorded.of} rows" if recorded is not None and recorded.rows is not None else ""


def overview(data: Path) -> list[dict[str, Any]]:
    """Return a line a source as plain data: what it is, how much of it is here, where that came from. Opens nothing but the record."""
    record = load(data)
    lines = []
    for one in SOURCES.values():
        known = record.sources.get(one.name)
        here = [file for file in one.files if (data / file.path).is_file()]
        counted = [known.files[file.path].rows or 0 for file in one.sets if known and file in here and file.path in known.files]
        lines.append(
            {
                "name": one.name,
                "summary": one.summary,
                "files": len(here),
                "files_of": len(one.files),
                "rows": sum(counted) if counted else None,
                "rows_of": sum(file.rows or 0 for file in one.sets) or None,
                "origin": known.origin if known else None,
                "revisions": dict(known.revisions) if known else {},
                "folder": str(data),
                "command": command(one.name, data),
            }
        )
    return lines


def overview_table(lines: Sequence[dict[str, Any]]) -> "Table":
    """Return the overview for a person."""
    from rich.text import Text

    made = _table(("name", "here", "rows", "from", "what"))
    for line in lines:
        rows_here = "–" if line["rows_of"] is None else f"{line['rows'] if line['rows'] is not None else '?'} of {line['rows_of']}"
        where = line["origin"] or ("not recorded" if line["files"] else "–")
        made.add_row(*map(Text, (line["name"], f"{line['files']} of {line['files_of']} files", rows_here, where, line["summary"])))
    return made


def files_table(name: str, data: Path) -> "Table":
    """Return every file of a source: whether it is here, and where it comes from."""
    from rich.text import Text

    one = source(name)
    made = _table(("file", "here", "comes from"))
    addresses = {file.path: network.url(repository, file) for repository in one.repositories for file in repository.files}
    for file in one.files:
        address = addresses.get(file.path) or (f"{one.archive.file} of hf:{one.archive.name}: {file.upstream}" if one.archive else "")
        made.add_row(*map(Text, (file.path, "yes" if (data / file.path).is_file() else "no", address)))
    return made


def totals(found: dict[str, list[Finding]]) -> list[str]:
    """Return a line a source: how many files are right, and what stands in no record; wrong ones are told by ``complaint``."""
    lines = []
    for name, findings in found.items():
        states = Counter(one.state for one in findings)
        lines.append(f"{name}: {len(findings)} files, {', '.join(f'{count} {state}' for state, count in states.items())}")
        loose = [f"{Path(one.path).stem} {one.detail.removesuffix(' rows')}" for one in findings if one.state == "unrecorded"]
        if loose:
            lines.append(f"  not recorded by a fetch, so only their rows were checked: {', '.join(loose)} rows")
    return lines


def _table(columns: Sequence[str]) -> "Table":
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column)
    return made
