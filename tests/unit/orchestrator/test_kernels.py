"""Compiled kernels on the host: what a job left is hostile until it was copied, and nothing that is kept is ever replaced."""

import os
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from longctx.orchestrator import kernels
from longctx.orchestrator.errors import StorageError

KEY = kernels.key("sha256:1234", "sm_90")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """What a job left: one kernel of Triton, two files of Inductor."""
    out = tmp_path / "out"
    put(out / "kernels/triton/AAAA/add.cubin", "binary")
    put(out / "kernels/triton/AAAA/__grp__add.json", "{}")
    put(out / "kernels/inductor/ab/cab.py", "code")
    put(out / "kernels/inductor/fxgraph/xy/key/entry", "graph")
    return out


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def narrow_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def put(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def held(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_key_tells_images_and_architectures_apart() -> None:
    keys = {kernels.key(image, gpu) for image in ("a", "b", "ab") for gpu in ("sm_90", "sm_80", "")}
    assert len(keys) == 9
    assert all(len(key) == 64 and int(key, 16) >= 0 for key in keys)
    assert kernels.key("a", "sm_90") == kernels.key("a", "sm_90")


@pytest.mark.parametrize("key", ["", "..", "../../../etc/passwd", "A" * 64, "short"])
def test_only_a_digest_is_a_key(cache: Path, key: str) -> None:
    with pytest.raises(ValueError, match="no key"):
        kernels.seed(cache, key)
    assert not cache.exists()


def test_everyone_may_read_what_seed_and_take_make(cache: Path, out: Path) -> None:
    folder = kernels.seed(cache, KEY)
    assert folder == cache / "kernels" / KEY
    assert kernels.seed(cache, KEY) == folder
    assert kernels.take(out, cache, KEY) is None
    for path in (folder.parent, folder, *folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


def test_seed_says_where_it_cannot_write(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(StorageError, match=KEY):
        kernels.seed(cache, KEY)


def test_nothing_left_is_nothing_to_do(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert kernels.take(tmp_path / "out", cache, KEY) is None
    assert not cache.exists()


def test_what_a_job_left_is_kept_once_and_removed(cache: Path, out: Path) -> None:
    left = held(out / "kernels")
    assert len(left) == 4
    assert kernels.take(out, cache, KEY) is None
    assert held(kernels.seed(cache, KEY)) == left
    assert not (out / "kernels").exists()
    assert [path.name for path in (cache / "kernels").iterdir()] == [KEY]


def test_the_first_writer_wins_and_gaps_are_filled(cache: Path, out: Path) -> None:
    folder = kernels.seed(cache, KEY)
    put(folder / "triton/AAAA/add.cubin", "first")
    put(folder / "inductor/ab/cab.py", "first")
    put(folder / "inductor/fxgraph", "a file where the job has a folder")
    number = (folder / "triton/AAAA/add.cubin").stat().st_ino
    assert kernels.take(out, cache, KEY) is None
    assert held(folder) == {
        "triton/AAAA/add.cubin": "first", "triton/AAAA/__grp__add.json": "{}", "inductor/ab/cab.py": "first",
        "inductor/fxgraph": "a file where the job has a folder",
    }  # fmt: skip
    assert (folder / "triton/AAAA/add.cubin").stat().st_ino == number


def test_a_kernel_appears_whole_and_a_group_after_its_files(cache: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(kernels.seed(cache, KEY) / "triton/BBBB/mul.ptx", "unfinished")
    for name in ("mul.ptx", "mul.cubin", "__grp__mul.json"):
        put(out / "kernels/triton/BBBB" / name)
    linked: list[str] = []
    link = os.link

    def watched(source: Path, target: Path) -> None:
        linked.append(target.name)
        link(source, target)

    monkeypatch.setattr(kernels.os, "link", watched)
    assert kernels.take(out, cache, KEY) is None
    assert not {"add.cubin", "__grp__add.json"} & set(linked)  # renamed as a folder
    assert {"mul.cubin", "cab.py"} <= set(linked)
    assert linked[-1] == "__grp__mul.json"


def test_file_systems_without_hard_links(cache: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(kernels.os, "link", refuse)
    put(kernels.seed(cache, KEY) / "inductor/ab/cab.py", "first")
    assert kernels.take(out, cache, KEY) is None
    assert held(kernels.seed(cache, KEY))["inductor/ab/cab.py"] == "first"
    assert held(kernels.seed(cache, KEY))["inductor/fxgraph/xy/key/entry"] == "graph"


def link_to_file(left: Path) -> None:
    (left / "triton/AAAA/secret").symlink_to("/etc/passwd")


def link_to_folder(left: Path) -> None:
    (left / "inductor/etc").symlink_to("/etc")


def dangling_link(left: Path) -> None:
    (left / "inductor/zz").symlink_to("nowhere")


def link_as_cache(left: Path) -> None:
    (left / "triton").rename(left / "inductor/moved")
    (left / "triton").symlink_to(left / "inductor/moved")


def second_name(left: Path) -> None:
    os.link(left / "inductor/ab/cab.py", left.parent / "another")


def pipe(left: Path) -> None:
    os.mkfifo(left / "inductor/pipe")


def bound_socket(left: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryDirectory() as short:  # the path of a socket is at most 107 bytes
        server.bind(f"{short}/s")
        Path(short, "s").rename(left / "inductor/socket")


def other_cache(left: Path) -> None:
    put(left / "cubins/x")


def file_as_cache(left: Path) -> None:
    put(left / "loose")


def hidden(left: Path) -> None:
    put(left / "inductor/.1.2.tmp")


def temporary(left: Path) -> None:
    put(left / "triton/AAAA/add.tmp")


def escape_sequence(left: Path) -> None:
    put(left / "inductor/\x1b[2J")


def not_text(left: Path) -> None:
    put(left / os.fsdecode(b"inductor/\xff"))


def deep(left: Path) -> None:
    put(left / "inductor/a/b/c/d/e/f/g/h")


def sparse(left: Path) -> None:
    with (left / "inductor/huge").open("wb") as file:
        file.truncate(kernels.BYTES_LIMIT + 1)


def full_of_folders(left: Path) -> None:
    for number in range(60):
        (left / f"inductor/{number}").mkdir()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (link_to_file, "'triton/AAAA/secret' is not a regular file"), (link_to_folder, "'inductor/etc' is not a regular file"),
        (dangling_link, "not a regular file"), (link_as_cache, "'triton' is not the folder"), (second_name, "has a second name"),
        (pipe, "'inductor/pipe' is not a regular file"), (bound_socket, "not a regular file"), (other_cache, "'cubins' is not the folder"),
        (file_as_cache, "'loose' is not the folder"), (hidden, "is not a name"), (temporary, "is not a name"),
        (escape_sequence, "is not a name"),
        (not_text, "is not a name"), (deep, "lies deeper"), (sparse, "would outgrow its caps"), (full_of_folders, "would outgrow its caps"),
    ],
)  # fmt: skip
def test_a_bad_tree_is_refused_whole(
    cache: Path, out: Path, spoil: Callable[[Path], None], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "FOLDERS_LIMIT", 50)
    folder = kernels.seed(cache, KEY)
    put(folder / "triton/CCCC/kept")
    spoil(out / "kernels")
    told = kernels.take(out, cache, KEY)
    assert told is not None and reason in told and "\x1b" not in told
    assert "\n" not in told
    assert held(folder) == {"triton/CCCC/kept": "x"}
    assert not os.path.lexists(out / "kernels")
    assert [path.name for path in (cache / "kernels").iterdir()] == [KEY]
    assert Path("/etc/passwd").exists()


def test_a_tree_that_is_deeper_than_a_walk_goes_is_removed(cache: Path, out: Path) -> None:
    descriptor = os.open(out / "kernels/inductor", os.O_RDONLY)
    for _ in range(5000):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    told = kernels.take(out, cache, KEY)
    assert told is not None and "lies deeper" in told
    assert list(out.iterdir()) == []
    assert held(kernels.seed(cache, KEY)) == {}


def test_a_tree_that_is_shut_is_told_and_removed(cache: Path, out: Path) -> None:
    (out / "kernels/inductor/ab").chmod(0)
    if os.access(out / "kernels/inductor/ab", os.R_OK):
        pytest.skip("this user opens everything")
    told = kernels.take(out, cache, KEY)
    assert told is not None and "Permission denied" in told
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_removed_and_told(cache: Path, tmp_path: Path, kind: str) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    put(elsewhere / "triton/AAAA/x")
    out.mkdir()
    if kind == "link":
        (out / "kernels").symlink_to(elsewhere)
    else:
        put(out / "kernels")
    told = kernels.take(out, cache, KEY)
    assert told is not None and "it is no folder" in told
    assert not os.path.lexists(out / "kernels")
    assert held(elsewhere) == {"triton/AAAA/x": "x"}
    assert held(kernels.seed(cache, KEY)) == {}


def test_caps_count_what_is_kept(cache: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "FILES_LIMIT", 5)
    folder = kernels.seed(cache, KEY)
    put(folder / "inductor/1")
    put(folder / "inductor/2")
    told = kernels.take(out, cache, KEY)
    assert told is not None and f"{folder} would outgrow its caps, 5 files" in told and "remove that folder" in told
    assert sorted(held(folder)) == ["inductor/1", "inductor/2"]
    (folder / "inductor/2").unlink()
    put(out / "kernels/triton/AAAA/a")
    put(out / "kernels/triton/AAAA/b")
    put(out / "kernels/triton/AAAA/c")
    put(out / "kernels/triton/AAAA/d")
    assert kernels.take(out, cache, KEY) is None
    assert len(held(folder)) == 5


def test_a_full_disk_is_told_and_merges_nothing(cache: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kernels.seed(cache, KEY)

    def full(path: Path) -> None:
        assert len(held(path)) == 4
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kernels, "_sync", full)
    told = kernels.take(out, cache, KEY)
    assert told is not None and "could not be taken" in told and "No space left" in told
    assert held(folder) == {}
    assert not (out / "kernels").exists()


def test_a_cache_that_cannot_be_made_is_told(cache: Path, out: Path) -> None:
    put(cache / "kernels", "a file where the folder should be")
    told = kernels.take(out, cache, KEY)
    assert told is not None and "could not be taken" in told and "\n" not in told
    assert not (out / "kernels").exists()


def test_what_a_killed_process_staged_goes_after_a_day(cache: Path, out: Path) -> None:
    kept = kernels.seed(cache, KEY).parent
    old, fresh = kept / ".old.tmp", kept / ".fresh.tmp"
    put(old / "x")
    put(fresh / "x")
    os.utime(old, (0, 0))
    assert kernels.take(out, cache, KEY) is None
    assert not old.exists() and fresh.exists()


def test_jobs_merge_at_the_same_time(cache: Path, tmp_path: Path) -> None:
    jobs = [tmp_path / f"job{number}" for number in range(4)]
    for job in jobs:
        for name in range(8):
            for part in ("k.cubin", "k.ptx", "__grp__k.json"):
                put(job / f"kernels/triton/K{name}/{part}", job.name)
            put(job / f"kernels/inductor/aa/{name}.py", job.name)
        put(job / f"kernels/inductor/own/{job.name}", job.name)
    told: list[str | None] = []
    threads = [threading.Thread(target=lambda job=job: told.append(kernels.take(job, cache, KEY))) for job in jobs]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == [None] * 4
    found = held(kernels.seed(cache, KEY))
    assert len(found) == 8 * 4 + 4
    for name in range(8):
        assert len({found[f"triton/K{name}/{part}"] for part in ("k.cubin", "k.ptx", "__grp__k.json")}) == 1
