"""Files as the truth: nothing torn, nothing left behind, one writer."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from unit.orchestrator.builders import response

from longctx.orchestrator import store
from longctx.orchestrator.contracts.response import Response
from longctx.orchestrator.errors import BadRunFolder, RunLocked, StorageError


def fail(code: int) -> Any:
    def raising(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return raising


def test_writing_replaces_in_one_step_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    store.write(path, "one")
    with store.writing(path) as file:
        file.write(b"two")
        assert path.read_text() == "one", "the old content stays until the new one is whole"
    assert path.read_text() == "two"
    assert [child.name for child in path.parent.iterdir()] == ["b.json"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("where", ["fsync", "write"])
def test_a_full_disk_keeps_the_old_content_and_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "x.jsonl"
    store.write(path, "old")
    if where == "fsync":
        monkeypatch.setattr(os, "fsync", fail(errno.ENOSPC))
        with pytest.raises(StorageError, match=r"x\.jsonl: No space left on device\.\n.*run the same command to resume"):
            store.write(path, "new")
    else:
        with pytest.raises(StorageError), store.writing(path) as file:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_inside_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "x"
    store.write(path, "old")
    with pytest.raises(KeyboardInterrupt), store.writing(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_errors_of_the_system_are_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), store.storage_errors(tmp_path):
        raise IsADirectoryError(errno.EISDIR, "a folder")


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": 2}\n{"c": ')
    assert list(store.lines(path)) == [b'{"a": 1}', b'{"b": 2}']


def test_an_endless_line_ends_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LINE_LIMIT", 16)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"short\n" + b"x" * 100 + b"\nafter\n")
    assert list(store.lines(path)) == [b"short"]


def test_a_wrong_line_is_named_with_file_line_and_key(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(response("a").model_dump_json() + "\n" + response("b").model_dump_json().replace('"stop"', '"stopp"') + "\n")
    with pytest.raises(BadRunFolder, match=r"x\.jsonl:2: finish: Input should be"):
        list(store.read_lines(path, Response))


def test_documents_say_what_is_wrong_and_where(tmp_path: Path) -> None:
    with pytest.raises(BadRunFolder, match="does not exist"):
        store.read_document(tmp_path / "no.json", Response)
    with pytest.raises(BadRunFolder, match="Is a directory"):
        store.read_document(tmp_path, Response)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(BadRunFolder, match=r"x\.json: id: Field required"):
        store.read_document(tmp_path / "x.json", Response)


def test_lines_come_back_as_they_were_written(tmp_path: Path) -> None:
    documents = [response("a", text="line\nbreak \u2028 ünï"), response("b")]
    assert store.write_lines(tmp_path / "x.jsonl", iter(documents)) == 2
    assert list(store.read_lines(tmp_path / "x.jsonl", Response)) == documents


def test_hashes_depend_on_content_not_on_order() -> None:
    assert store.canonical({"b": 1, "a": "ü"}) == '{"a":"ü","b":1}'.encode()
    assert store.digest({"b": 1, "a": [2]}) == store.digest({"a": [2], "b": 1}) != store.digest({"a": [2], "b": 1.5})


HOLD = """
import sys, time
from pathlib import Path
from longctx.orchestrator.store import locked
with locked(Path(sys.argv[1]), "Run x"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_keeps_others_out_and_is_freed_by_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        started = time.monotonic()
        told = rf"Run x is in use by another process \(pid {holder.pid}\)\.\n.*nothing was changed"
        with pytest.raises(RunLocked, match=told), store.locked(path, "Run x"):
            pytest.fail("two at once")
        assert time.monotonic() - started < 1, "it must not wait"
        holder.send_signal(signal.SIGKILL)
    with store.locked(path, "Run x"):
        assert path.read_text() == f"pid {os.getpid()}"


def test_a_lock_is_free_after_an_exception(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), store.locked(tmp_path / "l", "it"):
        raise ValueError("inside")
    with store.locked(tmp_path / "l", "it"), pytest.raises(RunLocked), store.locked(tmp_path / "l", "it"):
        pytest.fail("two at once")


def test_links_replace_and_do_not_pile_up(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "there" / "b"
    source.write_text("1")
    store.link_or_copy(source, target)
    store.link_or_copy(source, target)  # both are one file already: the rename then does nothing
    assert target.samefile(source)
    store.write(source, "2")
    assert target.read_text() == "1", "a rename never reaches into another run"
    assert [child.name for child in target.parent.iterdir()] == ["b"]


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("1")
    monkeypatch.setattr(os, "link", fail(errno.EXDEV))
    store.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "1"
    monkeypatch.setattr("shutil.copyfile", lambda source, target: (Path(target).write_text("ha"), fail(errno.ENOSPC)())[0])
    with pytest.raises(StorageError):
        store.link_or_copy(tmp_path / "a", tmp_path / "c")
    assert sorted(child.name for child in tmp_path.iterdir()) == ["a", "b"]


def test_attempts_are_ordered_by_number(tmp_path: Path) -> None:
    run = store.RunFolder(tmp_path)
    assert run.attempts("j") == []
    for name in ("10", "9", "1", "scratch"):
        (run.job("j") / name).mkdir(parents=True)
    assert [folder.name for folder in run.attempts("j")] == ["1", "9", "10"]
