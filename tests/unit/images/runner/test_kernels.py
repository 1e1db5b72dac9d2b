"""Compiled kernels inside: what is copied into the caches before the family loads, and what a job leaves of its own."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from longctx.images.runner import kernels
from longctx.orchestrator import kernels as host

FAMILY = """
import os, time
from pathlib import Path
from .family import Fake

class Compiling(Fake):
    def load(self, model):
        cache = Path(os.environ["TRITON_CACHE_DIR"])
        print("seeded", sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()), flush=True)
        age = float(os.environ.get("FAKE_AGE", "0"))
        for path in (cache / "NEW/launcher.so", Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "ab/cab.py"):
            path.parent.mkdir(parents=True)
            path.write_text("x" * int(os.environ.get("FAKE_SIZE", "10")))
            os.utime(path, (time.time() - age, time.time() - age))
        super().load(model)
"""


@pytest.fixture
def caches(tmp_path: Path) -> dict[str, str]:
    """A job's variables."""
    return {
        "TRITON_CACHE_DIR": str(tmp_path / "home/triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "home/inductor"),
        "LONGCTX_KERNELS": "keep",
    }


@pytest.fixture
def compiling(root: Any) -> Any:
    """A job whose family compiles while it loads."""
    (root.path / "code/methods/fake/compiling.py").write_text(FAMILY)
    root.add_cell({"a": 4}, ["a"])
    root.job(entry="methods.fake.compiling:Compiling")
    return root


def put(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def kernel(folder: Path, name: str = "add", *, at: str | None = None, lacking: str = "") -> None:
    """Write what Triton keeps of a kernel that it compiled in the folder ``at``."""
    names = [f"{name}.{kind}" for kind in ("json", "ptx", "cubin")]
    for each in names:
        if not each.endswith(lacking or "nothing"):
            put(folder / each, each)
    put(folder / f"__grp__{name}.json", json.dumps({"child_paths": {each: f"{at or folder}/{each}" for each in names}}))


def held(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


WHOLE = {"K/add.json", "K/add.ptx", "K/add.cubin", "K/__grp__add.json"}


def test_the_host_asks_in_the_words_that_the_runner_knows() -> None:
    assert host.VARIABLES == {kernels.VARIABLE: kernels.KEEP}
    assert host.TARGET == kernels.FOLDER
    assert set(host.CACHES) == set(kernels.CACHES)
    limits = ("FILES_LIMIT", "BYTES_LIMIT", "DEPTH_LIMIT")
    assert [getattr(host, name) for name in limits] == [getattr(kernels, name) for name in limits]


@pytest.mark.parametrize("place", ["the same", "another"])
def test_a_group_leads_to_the_copy(tmp_path: Path, caches: dict[str, str], place: str) -> None:
    cache = Path(caches["TRITON_CACHE_DIR"])
    kernel(tmp_path / "root/kernels/triton/K", at=str(cache / "K") if place == "the same" else "/etc")
    assert kernels.seed(tmp_path / "root", caches) is None
    assert held(cache) == WHOLE
    group = json.loads((cache / "K/__grp__add.json").read_text())
    assert group == {"child_paths": {f"add.{kind}": str(cache / f"K/add.{kind}") for kind in ("json", "ptx", "cubin")}}
    assert (cache / "K/add.ptx").read_text() == "add.ptx"


@pytest.mark.parametrize("direction", ["seed", "keep"])
def test_only_whole_kernels_travel(tmp_path: Path, caches: dict[str, str], direction: str) -> None:
    root, out, cache = tmp_path / "root", tmp_path / "out", Path(caches["TRITON_CACHE_DIR"])
    source = root / "kernels/triton" if direction == "seed" else cache
    kernel(source / "K")
    kernel(source / "LACKS", lacking="cubin")
    kernel(source / "TWO")
    kernel(source / "TWO", "mul", lacking="ptx")
    put(source / "CUT/add.ptx")
    put(source / "CUT/add.ttir")
    kernel(source / "TORN")
    put(source / "TORN/__grp__add.json", '{"child_pa')
    kernel(source / "ODD")
    put(source / "ODD/__grp__add.json", "[" * 100_000)
    put(source / "LAUNCHER/stub.so")
    put(source / "K/tmp.pid_1_2/add.cubin")
    put(source / "loose")
    (source / "LINK").mkdir()
    (source / "LINK/secret").symlink_to("/etc/passwd")
    (source / "FOLDER").symlink_to("/etc")
    if direction == "seed":
        assert kernels.seed(root, caches) is None
        found = held(cache)
    else:
        assert kernels.keep(root, out, caches, True) is None
        found = held(out / "kernels/triton")
    assert found == WHOLE | {"LAUNCHER/stub.so"}


def test_locks_and_temporary_files_stay(tmp_path: Path, caches: dict[str, str]) -> None:
    cache = Path(caches["TORCHINDUCTOR_CACHE_DIR"])
    for name in ("ab/cab.py", "fxgraph/xy/key/entry", "ab/cab.best_config"):
        put(cache / name)
    for name in ("locks/cab.lock", "ab/cab.lock", "ab/lock", "ab/.12.34.tmp", "ab/x.o.tmp", "ab/__pycache__/cab.pyc", "a/b/c/d/e/f/g/h/i"):
        put(cache / name)
    (cache / "ab/link.so").symlink_to("/etc/passwd")
    os.mkfifo(cache / "ab/pipe")
    put(cache / "ab" / os.fsdecode(b"\xff"))
    assert kernels.keep(tmp_path / "root", tmp_path / "out", caches, True) is None
    assert held(tmp_path / "out/kernels/inductor") == {"ab/cab.py", "fxgraph/xy/key/entry", "ab/cab.best_config"}


def test_only_what_is_new_is_left(tmp_path: Path, caches: dict[str, str]) -> None:
    root, out, cache = tmp_path / "root", tmp_path / "out", Path(caches["TRITON_CACHE_DIR"])
    kernel(root / "kernels/triton/K")
    put(root / "kernels/inductor/ab/cab.py")
    assert kernels.seed(root, caches) is None
    kernel(cache / "K")  # Triton wrote it anew
    kernel(cache / "N")
    put(out / "kernels/triton/OLD/of an earlier process")
    assert kernels.keep(root, out, caches, True) is None
    assert held(out / "kernels") == {f"triton/N/{name.partition('/')[2]}" for name in WHOLE}


@pytest.mark.parametrize("value", [None, "", "0", "no"])
def test_nothing_is_left_unless_asked_for(tmp_path: Path, caches: dict[str, str], value: str | None) -> None:
    del caches["LONGCTX_KERNELS"]
    if value is not None:
        caches["LONGCTX_KERNELS"] = value
    kernel(Path(caches["TRITON_CACHE_DIR"]) / "K")
    assert kernels.keep(tmp_path / "root", tmp_path / "out", caches, True) is None
    assert not (tmp_path / "out").exists()


def test_after_an_end_that_was_not_planned_only_settled_kernels_are_left(tmp_path: Path, caches: dict[str, str]) -> None:
    cache = Path(caches["TRITON_CACHE_DIR"])
    for name in ("K", "FRESH"):
        kernel(cache / name)
    for path in (cache / "K").iterdir():
        os.utime(path, (time.time() - 60,) * 2)
    assert kernels.keep(tmp_path / "root", tmp_path / "out", caches, False) is None
    assert held(tmp_path / "out/kernels/triton") == WHOLE


@pytest.mark.parametrize(("limit", "value"), [("FILES_LIMIT", 9), ("BYTES_LIMIT", 500)])
def test_caps_leave_out_whole_kernels(
    tmp_path: Path, caches: dict[str, str], monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(kernels, limit, value)
    cache = Path(caches["TRITON_CACHE_DIR"])
    for name in "ABCD":
        kernel(cache / name, at="/cache")
    told = kernels.keep(tmp_path / "root", tmp_path / "out", caches, True)
    left = held(tmp_path / "out/kernels/triton")
    assert len(left) % 4 == 0 and 0 < len(left) < 16
    assert told is not None and f"{16 - len(left)} files of compiled kernels were left out" in told
    (tmp_path / "root").mkdir()
    (tmp_path / "root/kernels").symlink_to(cache.parent)
    caches["TRITON_CACHE_DIR"] = str(tmp_path / "second")
    told = kernels.seed(tmp_path / "root", caches)
    assert held(tmp_path / "second") == left
    assert told is not None and "left out" in told


def test_a_cache_that_cannot_be_written_is_left_empty(tmp_path: Path, caches: dict[str, str]) -> None:
    kernel(tmp_path / "root/kernels/triton/K")
    put(tmp_path / "root/kernels/inductor/ab/cab.py")
    put(Path(caches["TORCHINDUCTOR_CACHE_DIR"]), "a file where the cache should be")
    told = kernels.seed(tmp_path / "root", caches)
    assert told is not None and "compiled anew" in told
    assert held(Path(caches["TRITON_CACHE_DIR"])) == set()


def test_no_caches_named_and_nothing_mounted(tmp_path: Path, caches: dict[str, str]) -> None:
    assert kernels.seed(tmp_path, caches) is None
    put(tmp_path / "root/kernels/inductor/ab/cab.py")
    assert kernels.seed(tmp_path / "root", {}) is None
    assert kernels.keep(tmp_path / "root", tmp_path / "out", {"LONGCTX_KERNELS": "keep"}, True) is None
    assert not Path(caches["TRITON_CACHE_DIR"]).exists() and not (tmp_path / "out").exists()


def test_from_job_to_job(compiling: Any, caches: dict[str, str], tmp_path: Path) -> None:
    key = host.key("image", "sm_90")
    ran = compiling.run(**caches)
    assert ran.code == 0, ran.log
    assert "seeded []" in ran.log
    assert held(compiling.out / "kernels") == {"triton/NEW/launcher.so", "inductor/ab/cab.py"}
    assert host.take(compiling.out, tmp_path / "cache", key) is None
    (compiling.path / "kernels").symlink_to(host.seed(tmp_path / "cache", key))
    caches = {**caches, "TRITON_CACHE_DIR": str(tmp_path / "next/triton"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "next/inductor")}
    compiling.job()
    plain = compiling.run(**caches)
    assert plain.code == 0, plain.log
    assert held(tmp_path / "next") == {"triton/NEW/launcher.so", "inductor/ab/cab.py"}
    assert not (compiling.out / "kernels").exists()
    compiling.job(entry="methods.fake.compiling:Compiling")
    caches["TRITON_CACHE_DIR"] = str(tmp_path / "third/triton")
    assert "seeded ['NEW/launcher.so']" in compiling.run(**caches).log


def test_runs_on_python_3_9(compiling: Any, caches: dict[str, str], python39: str) -> None:
    compiling.python = python39
    kernel(compiling.path / "kernels/triton/K")
    ran = compiling.run(**caches)
    assert ran.code == 0, ran.log
    assert "K/__grp__add.json" in ran.log
    assert held(compiling.out / "kernels/triton") == {"NEW/launcher.so"}


@pytest.mark.parametrize(("age", "left"), [("60", {"triton/NEW/launcher.so", "inductor/ab/cab.py"}), ("0", set())])
def test_a_job_that_failed_leaves_what_was_settled(compiling: Any, caches: dict[str, str], age: str, left: set[str]) -> None:
    ran = compiling.run(FAKE_LOAD="error", FAKE_AGE=age, **caches)
    assert ran.code == 70
    assert compiling.exit()["reason"] == "load_failed"
    assert held(compiling.out / "kernels") == left


@pytest.mark.parametrize(("number", "left"), [(signal.SIGTERM, {"triton/NEW/launcher.so", "inductor/ab/cab.py"}), (signal.SIGKILL, set())])
def test_a_job_that_was_stopped_leaves_them_and_one_that_was_killed_does_not(
    compiling: Any, caches: dict[str, str], number: signal.Signals, left: set[str]
) -> None:
    with compiling.start(FAKE_LOAD="sleep", FAKE_AGE="60", **caches) as process:
        assert any(line.startswith("sleeping") for line in process.stdout)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == (75 if number == signal.SIGTERM else -9)
    assert held(compiling.out / "kernels") == left


def test_no_room_is_a_warning(compiling: Any, caches: dict[str, str]) -> None:
    Path(caches["TRITON_CACHE_DIR"]).parent.mkdir()
    small = ("sh", "-c", 'ulimit -f 100; exec "$@"', "sh")  # files of at most 51,200 bytes
    put(Path(caches["TRITON_CACHE_DIR"]) / "BIG/launcher.so", "x" * 100_000)
    ran = compiling.run(small, **caches)
    assert ran.code == 0, ran.log
    assert compiling.exit()["status"] == "done"
    (warning,) = compiling.events("warning")
    assert "were not kept for later jobs" in warning["message"] and "File too large" in warning["message"]
    assert not (compiling.out / "kernels").exists()


def test_what_cannot_be_copied_in_is_a_warning(compiling: Any, caches: dict[str, str]) -> None:
    put(compiling.path / "kernels/triton/BIG/launcher.so", "x" * 100_000)
    ran = compiling.run(("sh", "-c", 'ulimit -f 100; exec "$@"', "sh"), **caches)
    assert ran.code == 0, ran.log
    assert "seeded []" in ran.log
    assert "compiled anew" in compiling.events("warning")[0]["message"]
