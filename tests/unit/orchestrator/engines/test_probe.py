"""The probe on a host that isolates nothing, or little: it tells what it could do, and leaves nothing."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from longctx.orchestrator.engines import probe


def listing(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in folder.rglob("*")}


def test_files_that_can_be_written_are_named_and_left_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "deep" / "file").write_text("content")
    before = listing(tmp_path)
    line = probe.read_only_mounts(str(tmp_path))
    assert line.held is False
    assert line.saw == "writable: ., deep, deep/file"
    assert listing(tmp_path) == before


def test_a_root_is_held_only_when_it_is_read_only_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_new_file", lambda folder: "EACCES")
    monkeypatch.setattr(probe, "_read_only", lambda path: path != "/var")
    line = probe.read_only_root()
    assert line.held is False and "/var EACCES" in line.saw and "/etc EACCES (read-only)" in line.saw
    monkeypatch.setattr(probe, "_read_only", lambda path: True)
    assert probe.read_only_root().held is True


def test_out_is_written_and_a_missing_one_is_told(tmp_path: Path) -> None:
    assert probe.out_writable(str(tmp_path)) == ("out_writable", False, "writing out/probe.txt", "ENOENT")
    (tmp_path / "out").mkdir()
    assert probe.out_writable(str(tmp_path)).held is True
    assert (tmp_path / "out" / "probe.txt").read_text() == "written inside\n"


def test_forks_without_a_limit_stop_at_the_number_and_are_reaped() -> None:
    line = probe.pids(5)
    assert line.held is False and line.saw == "5 started, then no refusal"
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_forks_that_are_refused_hold_the_line() -> None:
    code = (
        "import os, resource, sys, json; sys.path.insert(0, sys.argv[1]); import probe\n"
        "if os.getuid() == 0: os.setgid(54322), os.setuid(54322)\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (8, 8)) if os.getuid() == 54322 else sys.exit(9)\n"
        "print(json.dumps(probe.pids(10000)))"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code, str(Path(probe.__file__).parent)], capture_output=True, text=True, check=False)
    if done.returncode == 9:
        pytest.skip("only root can become a user who has no process yet")
    _, held, tried, saw = json.loads(done.stdout)
    assert held is True and tried == "10,000 forks"
    assert saw.endswith("started, then EAGAIN") and int(saw.split()[0]) < 8


def test_none_is_forked_where_no_limit_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("it forked"))
    assert probe.pids(0).held is False


def test_another_job_s_file_is_told_apart_from_one_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    assert probe.other_jobs([str(tmp_path / "secret")])[1::2] == (False, "read")
    assert probe.other_jobs([str(tmp_path / "none")])[1::2] == (True, "ENOENT")
    assert probe.other_jobs([]).held is None


def test_a_variable_of_the_caller_is_named_but_not_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "hunter2")
    line = probe.clean_environment(["A_TOKEN", "NOT_HERE"])
    assert line.held is False and line.saw == "here too: A_TOKEN"
    monkeypatch.delenv("A_TOKEN")
    assert probe.clean_environment(["A_TOKEN"]).held is True


def test_a_visible_gpu_that_was_not_leased_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    assert probe.gpus([]).held is False
    assert "GPU-1" in probe.gpus([]).saw


def test_the_process_s_own_memory_limit_counts_where_no_group_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_read", lambda path: "")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2**20, 2**20))
    assert probe.memory(2**20).held is True
    assert probe.memory(2**19).held is False
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert probe.memory(None) == ("memory_limit", False, "reading the limit of the control group and of the process", "no limit")


@pytest.mark.parametrize(("path", "text"), [("memory.max", "1048576\n"), ("memory/memory.limit_in_bytes", "1048576\n")])
def test_the_limit_of_either_version_of_control_groups_is_read(path: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_read", lambda asked: text if asked == f"/sys/fs/cgroup/{path}" else "")
    assert probe.memory(2**20).saw == "1 MiB, the control group's"


MOUNTS = """\
22 1 0:30 / / ro,relatime - overlay overlay rw
23 22 0:31 / /proc rw - proc proc rw
24 22 8:1 /var/lib/docker/containers/x/hosts /etc/hosts rw - ext4 /dev/sda1 rw
25 22 8:1 /data/model /longctx/model/config.json ro - ext4 /dev/sda1 rw
"""


def test_a_mount_of_the_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_read", lambda path: MOUNTS)
    assert probe.host_paths("/longctx").held is True
    monkeypatch.setattr(probe, "_read", lambda path: MOUNTS + "26 22 8:1 / /longctx-elsewhere/a\\040b rw - ext4 /dev/sda1 rw\n")
    assert probe.host_paths("/longctx")[1::2] == (False, "mounted: /longctx-elsewhere/a b")


def test_the_program_stands_alone_and_tells_every_line_once(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-I", "-S", probe.__file__, json.dumps({"root": str(tmp_path), "forks": 3})],
        capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    told = json.loads(done.stdout)
    lines = [probe.Line(**line) for line in told["lines"]]
    assert len({line.line for line in lines}) == len(lines) == 18
    assert all(line.tried and line.saw for line in lines)
    assert told["user"] == os.getuid() and "PATH" in told["variables"]
