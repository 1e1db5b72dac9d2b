import hashlib
import json
import os
from pathlib import Path

import pytest

from longctx.orchestrator.errors import ModelError
from longctx.orchestrator.models.checksums import Checksums
from longctx.orchestrator.settings import Settings


def silent(line: str) -> None:
    pass


def remembered(settings: Settings, path: Path) -> str | None:
    """What a new process would know."""
    return Checksums(settings).known(path)


@pytest.fixture
def file(tmp_path: Path, settings: Settings) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    table = Checksums(settings)
    assert table.known(path) is None
    assert table.of(path, silent) == hashlib.sha256(b"one").hexdigest()
    table.save()
    assert remembered(settings, path) == hashlib.sha256(b"one").hexdigest()
    return path


def test_other_content_of_the_same_size(file: Path, settings: Settings) -> None:
    status = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert remembered(settings, file) is None
    assert Checksums(settings).of(file, silent) == hashlib.sha256(b"two").hexdigest()


def test_another_file_with_the_same_size_and_time(file: Path, settings: Settings) -> None:
    status = file.stat()
    other = file.with_name("other")
    other.write_bytes(b"two")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)
    assert file.stat().st_mtime_ns == status.st_mtime_ns
    assert remembered(settings, file) is None


def test_another_size_with_the_same_time(file: Path, settings: Settings) -> None:
    status = file.stat()
    file.write_bytes(b"one and more")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert remembered(settings, file) is None


def test_a_link_is_its_target(file: Path, settings: Settings) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    assert remembered(settings, link) == hashlib.sha256(b"one").hexdigest()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"x": 1}'])
def test_a_damaged_table_is_only_forgotten(content: bytes, file: Path, settings: Settings) -> None:
    (settings.cache / "models" / "checksums.json").write_bytes(content)
    assert remembered(settings, file) is None
    table = Checksums(settings)
    table.of(file, silent)
    table.save()
    assert remembered(settings, file) is not None


def test_two_processes_keep_what_the_other_found(file: Path, settings: Settings) -> None:
    first, second = Checksums(settings), Checksums(settings)
    for table, name in ((first, "a"), (second, "b")):
        file.with_name(name).write_bytes(name.encode())
        table.of(file.with_name(name), silent)
    first.save()
    second.save()
    assert all(remembered(settings, file.with_name(name)) for name in ("a", "b", "weights"))


def test_files_that_are_gone_leave_the_table(file: Path, settings: Settings) -> None:
    file.with_name("a").write_bytes(b"a")
    file.unlink()
    table = Checksums(settings)
    table.of(file.with_name("a"), silent)
    table.save()
    kept = json.loads((settings.cache / "models" / "checksums.json").read_text())
    assert list(kept) == [str(file.with_name("a").resolve())]


def test_a_file_that_is_not_there(tmp_path: Path, settings: Settings) -> None:
    assert remembered(settings, tmp_path / "none") is None
    with pytest.raises(ModelError, match="none"):
        Checksums(settings).of(tmp_path / "none", silent)
