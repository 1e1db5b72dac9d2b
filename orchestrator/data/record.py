"""``lock.json`` in a data folder: what was fetched, from where, and what every file is. Evals read it too (``evals/data.py``)."""

from pathlib import Path

from pydantic import Field, ValidationError

from ...evals.data import LOCK
from ..contracts.base import Bytes, Contract, Count, Document, Sha256
from ..errors import DataError
from ..store import write_document


class FileRecord(Contract):
    """One file as it was fetched."""

    sha256: Sha256
    size: Bytes
    rows: Count | None = Field(default=None, description="JSON lines it has; null where it has none")
    of: Count | None = Field(default=None, description="JSON lines of the whole set")


class SourceRecord(Contract):
    """One source as it was fetched."""

    origin: str = Field(description="'network', or the folder it was taken from")
    revisions: dict[str, str] = Field(default_factory=dict, description="repository to commit")
    archive_sha256: Sha256 | None = Field(default=None, description="of the archive that the hub gave")
    files: dict[str, FileRecord] = Field(description="by path below the data folder")


class DataLock(Document):
    """The whole record."""

    sources: dict[str, SourceRecord] = Field(default_factory=dict)


def load(data: Path) -> DataLock:
    """Return the record of a data folder; an empty one where there is none. Raises DataError if it cannot be read."""
    path = data / LOCK
    try:
        return DataLock.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return DataLock()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}.", "The data folder must be readable.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: {where}: {first['msg']}.", f"Remove {path} and fetch again: longctx data fetch NAME.") from error


def save(data: Path, name: str, record: SourceRecord) -> None:
    """Put one source's record in place of an older one."""
    present = load(data)
    write_document(data / LOCK, present.model_copy(update={"sources": {**present.sources, name: record}}))
