"""Fills the data folder: from the network, or from a folder that somebody brought. Every file appears whole and checked, or not at all."""

import contextlib
import hashlib
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...evals.base import DataMissing
from ...evals.data import Archive, File, Source, command, file_sha256, rows
from ...evals.sources import SOURCES
from ..errors import DataError, StorageError
from ..manifest.problems import nearest
from ..models.source import Report
from ..settings import Settings
from ..store import locked, storage_errors, writing
from . import network
from .record import FileRecord, SourceRecord, load, save

CHUNK = 2**20


def source(name: str) -> Source:
    """Return a source by name. Raises DataError with the nearest spelling."""
    if name not in SOURCES:
        near = nearest(name, SOURCES)
        hint = f" Did you mean '{near}'?" if near else ""
        raise DataError(f"There is no data called '{name}'.", f"There is: {', '.join(SOURCES)}.{hint}")
    return SOURCES[name]


def folder_of(settings: Settings) -> Path:
    """Return the data folder in force."""
    return settings.data if settings.data is not None else settings.cache.expanduser().absolute() / "data"


def fetch(name: str, settings: Settings, report: Report, *, origin: Path | None = None) -> SourceRecord:
    """Bring one source into the data folder, and return what is there now. Whole and right files are not fetched again.

    ``origin`` is a folder to take the files from instead of the network. Raises DataError (and then what was fetched before is as it was),
    StorageError.
    """
    wanted, data = source(name), folder_of(settings)
    with storage_errors(data):
        data.mkdir(parents=True, exist_ok=True)
        with locked(data / ".lock", f"The data folder {data}"):
            if origin is not None:
                made = _from_folder(wanted, origin.expanduser().absolute(), data, report)
            else:
                made = _from_network(wanted, data, settings, report)
            save(data, name, made)
    return made


# From the network


def _from_network(wanted: Source, data: Path, settings: Settings, report: Report) -> SourceRecord:
    offline = "nothing is fetched now (offline: true in the settings)" if settings.offline else None
    before = load(data).sources.get(wanted.name)
    files: dict[str, FileRecord] = {}
    revisions: dict[str, str] = {}
    try:
        for repository in wanted.repositories:
            missing = [file for file in repository.files if not _right(data / file.path, file.sha256)]
            if missing and offline:
                raise network.Unreachable(offline)
            if missing:
                report(f"{len(missing)} files of {repository.name}@{repository.commit[:12]}")
            for file in missing:
                _place(data / file.path, network.read(repository, file, settings), file, network.url(repository, file))
            files |= {file.path: FileRecord(sha256=file.sha256 or "", size=(data / file.path).stat().st_size) for file in repository.files}
            revisions[repository.name] = repository.commit
        archive_sha256 = None
        if wanted.archive is not None:
            known = _unpacked(wanted.archive, data, before)
            if known is not None and before is not None:
                report(f"{len(known)} sets are here already")
                archive_sha256, commit = before.archive_sha256, before.revisions[_hub(wanted.archive)]
            elif offline:
                raise network.Unreachable(offline)
            else:
                known, archive_sha256, commit = _archive(wanted, wanted.archive, data, before, settings, report)
            files |= known
            revisions[_hub(wanted.archive)] = commit
    except network.Unreachable as error:
        raise DataError(
            f"{wanted.name} cannot be fetched: {error}.",
            "Try again where the network can be reached (proxy and certificates are in the settings, HF_ENDPOINT names a mirror of the "
            f"hub), or bring the files in a folder: {command(wanted.name, data)} --from DIR. "
            f"`longctx data list {wanted.name}` shows every file and where it comes from.",
        ) from error
    return SourceRecord(origin="network", revisions=revisions, archive_sha256=archive_sha256, files=files)


def _hub(archive: Archive) -> str:
    return f"hf:{archive.name}"


def _right(path: Path, sha256: str | None) -> bool:
    return sha256 is not None and path.is_file() and file_sha256(path) == sha256


def _place(path: Path, content: bytes, file: File, where: str) -> None:
    got = hashlib.sha256(content).hexdigest()
    if got != file.sha256:
        raise DataError(
            f"{where} is not what it should be: SHA-256 {got[:16]}…, pinned {str(file.sha256)[:16]}….",
            "Something between here and there changes files (a proxy, a login page): take them from a folder with --from DIR.",
        )
    with writing(path) as opened:
        opened.write(content)


def _unpacked(archive: Archive, data: Path, before: SourceRecord | None) -> Mapping[str, FileRecord] | None:
    """Return the archive's files as recorded, if all of them came from the network and are unchanged."""
    if before is None or _hub(archive) not in before.revisions:
        return None
    known = {file.path: before.files[file.path] for file in archive.files if file.path in before.files}
    whole = len(known) == len(archive.files) and all(_right(data / path, record.sha256) for path, record in known.items())
    return known if whole else None


def _archive(
    wanted: Source, archive: Archive, data: Path, before: SourceRecord | None, settings: Settings, report: Report
) -> tuple[Mapping[str, FileRecord], str, str]:
    """Download and unpack. What was fetched once is fetched at the same commit and must be the same again."""
    known = before.revisions.get(_hub(archive)) if before else None
    scratch = data / ".download"
    path, commit = network.archive(archive, archive.revision or known, scratch, settings, report)
    got = file_sha256(path)
    pinned = archive.sha256 or (before.archive_sha256 if before and known == commit else None)
    if pinned is not None and got != pinned:
        with contextlib.suppress(OSError):
            shutil.rmtree(scratch)
        raise DataError(
            f"{archive.file} of {archive.name}@{commit[:12]} is not what it was: SHA-256 {got[:16]}…, known {pinned[:16]}….",
            "Run it again; if that does not help, the mirror gives another file than the hub did.",
        )
    report(f"unpacking {len(archive.files)} sets")
    unpacked = scratch / "unpacked"
    try:
        _unpack(path, archive, unpacked)
        files = {file.path: _record(unpacked / file.path, wanted, file) for file in archive.files}
        with storage_errors(data):
            for name in files:
                (data / name).parent.mkdir(parents=True, exist_ok=True)
                (unpacked / name).replace(data / name)
    except _DAMAGE as error:
        raise DataError(f"{archive.file} of {archive.name}@{commit[:12]} is damaged: {error}.", "Run the same command again.") from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(scratch)
    return files, got, commit


_DAMAGE = (zipfile.BadZipFile, zlib.error, KeyError, EOFError)
"""What reading a zip file raises when it is cut short, altered, or lacks a member."""


def _unpack(path: Path, archive: Archive, into: Path) -> None:
    """Unpack the members that are wanted, and no others."""
    with zipfile.ZipFile(path) as opened:
        for file in archive.files:
            with opened.open(file.upstream) as member, writing(into / file.path) as target:
                shutil.copyfileobj(member, target, CHUNK)


def _record(path: Path, wanted: Source, file: File) -> FileRecord:
    """Describe a file; where it has rows, check each."""
    rows_there = _count(path, wanted, file) if file.rows is not None else None
    return FileRecord(sha256=file_sha256(path), size=path.stat().st_size, rows=rows_there, of=file.rows)


def _count(path: Path, wanted: Source, file: File) -> int:
    """Return how many rows a file has. Raises DataError naming line and key of the first that is not as rows are."""
    count = 0
    try:
        for _ in rows(path, wanted.fields, ""):
            count += 1
    except DataMissing as error:
        raise DataError(f"{file.path}{str(error).removeprefix(str(path))}", "Take that set's file from where it comes from.") from error
    if not count:
        raise DataError(f"{path} has no rows.", "Take that set's file from where it comes from.")
    return count


# From a folder


def places(file: File, origin: Path) -> Iterator[Path]:
    """Yield where a file may lie in a folder that somebody brought: laid out as the data folder is, as upstream is, or flat."""
    yield origin / file.path
    yield origin / file.path.partition("/")[2]
    yield origin / file.upstream
    yield origin / file.path.partition("/")[0] / file.upstream
    yield origin / Path(file.path).name


def _from_folder(wanted: Source, origin: Path, data: Path, report: Report) -> SourceRecord:
    """Check everything first, then copy: a folder that lacks something changes nothing."""
    if not origin.is_dir():
        raise DataError(f"--from: there is no folder {origin}.", "Name the folder that holds the files.")
    found = {file.path: next((path for path in places(file, origin) if path.is_file()), None) for file in wanted.files}
    with contextlib.ExitStack() as stack:
        if wanted.archive is not None and not any(found[file.path] for file in wanted.sets):
            found |= _packed(wanted, wanted.archive, origin, data, stack)
        _complain(wanted, origin, found)
        files = {}
        for file in wanted.files:
            path = found[file.path]
            if path is None:
                continue
            if file.sha256 is not None and (got := file_sha256(path)) != file.sha256:
                message = f"{path} is not the file that is wanted: SHA-256 {got[:16]}…, pinned {file.sha256[:16]}…."
                raise DataError(message, f"Take it from {_address(wanted, file)}.")
            files[file.path] = _record(path, wanted, file)
        for name, record in files.items():
            _copy(Path(str(found[name])), data / name, record)
    few = [f"{Path(name).stem} {one.rows} of {one.of}" for name, one in files.items() if one.rows is not None and one.rows != one.of]
    if few:
        report(f"subsets: {', '.join(few)} rows")
    if absent := [Path(file.path).stem for file in wanted.sets if file.path not in files]:
        report(f"not in that folder: {', '.join(absent)}")
    revisions = {repository.name: repository.commit for repository in wanted.repositories}
    return SourceRecord(origin=str(origin), revisions=revisions, files=files)


def _packed(wanted: Source, archive: Archive, origin: Path, data: Path, stack: contextlib.ExitStack) -> dict[str, Path | None]:
    """Take an archive that lies in the folder apart into a scratch folder, for as long as it is needed; return its files."""
    packed = next((path for path in (origin / archive.file, origin / wanted.name / archive.file) if path.is_file()), None)
    if packed is None:
        return {}
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=data, prefix=".unpack-")))
    try:
        _unpack(packed, archive, scratch)
    except _DAMAGE as error:
        step = "Download it again, or name a folder of its files."
        raise DataError(f"{packed} is not the archive that is wanted: {error}.", step) from error
    return {file.path: scratch / file.path for file in archive.files}


def _complain(wanted: Source, origin: Path, found: Mapping[str, Path | None]) -> None:
    """Say which files a folder lacks, and where they come from."""
    if absent := [file for file in wanted.pinned if found[file.path] is None]:
        names = ", ".join(file.path for file in absent[:4]) + (f" and {len(absent) - 4} more" if len(absent) > 4 else "")
        raise DataError(f"{origin} lacks {names}.", f"They come from {_address(wanted, absent[0])}.")
    if wanted.sets and not any(found[file.path] for file in wanted.sets):
        first = wanted.sets[0]
        message = f"{origin} holds none of the {len(wanted.sets)} sets, such as {first.path}."
        raise DataError(message, f"They come from {_address(wanted, first)}.")


def _address(wanted: Source, file: File) -> str:
    for repository in wanted.repositories:
        if file in repository.files:
            return network.url(repository, file)
    assert wanted.archive is not None
    return f"{wanted.archive.file} of the hub's dataset {wanted.archive.name}"


def _copy(source_path: Path, target: Path, record: FileRecord) -> None:
    """Copy one file, whole or not at all. A file that changed since it was checked is not taken."""
    if target.exists() and target.resolve() == source_path.resolve():
        return
    with writing(target) as opened:
        digest = hashlib.sha256()
        with source_path.open("rb") as content:
            while chunk := content.read(CHUNK):
                digest.update(chunk)
                opened.write(chunk)
        if digest.hexdigest() != record.sha256:
            raise StorageError(f"{source_path} changed while it was copied.", "Let whatever writes it finish, then run it again.")
