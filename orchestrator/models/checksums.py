"""SHA-256 of model files, remembered while a file's size, modification time and inode stay what they were."""

import contextlib
import hashlib
import os
from pathlib import Path

from ..errors import ModelError
from ..settings import Settings
from .source import Report
from .store import locked, models_folder, read_json, write_json

CHUNK = 2**20
WORTH_A_LINE = 2**28
"""Bytes from which a person is told that a file is being read."""


class Checksums:
    """The table ``models/checksums.json``: resolved path -> ``[size, mtime_ns, inode, sha256]``. Losing it costs only time."""

    def __init__(self, settings: Settings) -> None:
        self._file = models_folder(settings) / "checksums.json"
        self._table = self._read()
        self._new: dict[str, list[int | str]] = {}

    def known(self, path: Path) -> str | None:
        """Return the checksum if the file is unchanged since it was computed; reads no content."""
        real = path.resolve()
        try:
            entry = self._table.get(str(real))
            return str(entry[3]) if entry and entry[:3] == _stamp(real.stat()) else None
        except OSError:
            return None

    def of(self, path: Path, report: Report) -> str:
        """Return the checksum, computing it if need be. Raises ModelError if the file cannot be read or changes meanwhile."""
        if (sha256 := self.known(path)) is not None:
            return sha256
        real = path.resolve()
        try:
            with real.open("rb", buffering=0) as file:
                before = _stamp(os.fstat(file.fileno()))
                if (size := os.fstat(file.fileno()).st_size) >= WORTH_A_LINE:
                    report(f"reading {path.name} ({size / 1e9:.1f} GB) for its checksum")
                digest = hashlib.sha256()
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                after = _stamp(os.fstat(file.fileno()))
        except OSError as error:
            raise ModelError(f"{path}: {error.strerror or error}", "The file must be readable for whoever runs longctx.") from error
        if before != after:
            raise ModelError(f"{path} changed while it was read.", "Let whatever writes it finish, then run the same command again.")
        entry = [*before, digest.hexdigest()]
        self._table[str(real)] = self._new[str(real)] = entry
        return digest.hexdigest()

    def save(self) -> None:
        """Add what was computed to the table on disk, beside what other processes added, and forget files that are gone."""
        if not self._new:
            return
        # A cache folder that cannot be written costs a second reading, not the command.
        with contextlib.suppress(OSError), locked(self._file.parent / "locks" / "checksums"):
            table = {path: entry for path, entry in {**self._read(), **self._new}.items() if Path(path).exists()}
            write_json(self._file, table)
            self._new = {}

    def _read(self) -> dict[str, list[int | str]]:
        table = read_json(self._file)
        if not isinstance(table, dict):
            return {}
        return {path: entry for path, entry in table.items() if isinstance(entry, list) and len(entry) == 4}


def _stamp(status: os.stat_result) -> list[int | str]:
    return [status.st_size, status.st_mtime_ns, status.st_ino]
