"""What a container under the profile may not do, tried from inside as root and as an ordinary user; and that none is ever left behind."""

import contextlib
import grp
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine.docker_jobs import HOLD, engine_for, job, start, wait

from longctx.orchestrator import devices
from longctx.orchestrator.engines.base import Ended
from longctx.orchestrator.engines.docker import process as docker_process
from longctx.orchestrator.engines.docker.engine import DockerEngine
from longctx.orchestrator.engines.docker.profile import NOBODY
from longctx.orchestrator.errors import EngineUnavailable, EnvironmentFailed, Interrupted
from longctx.orchestrator.failure import judge

pytestmark = pytest.mark.docker

JOBS = Path(__file__).with_name("docker_jobs.py")
ORDINARY = 54321
"""A user id that nobody has here."""
VARIABLES = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"}
"""Another Python of the same version finds the same packages."""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="longctx-isolation-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def engine(place: Path, tf5_image: None) -> Iterator[DockerEngine]:
    made = engine_for(place)
    yield made
    made.docker.close()


@dataclass
class Caller:
    """Somebody who starts jobs: this process's user (``user`` None), or another one."""

    place: Path
    user: int | None
    groups: tuple[int, ...] = ()
    python: str = sys.executable

    def ask(self, do: str, **more: Any) -> Any:
        """Let the caller do something; return its answer."""
        process = self.start(do, **more)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return json.loads(out)

    def start(self, do: str, **more: Any) -> "subprocess.Popen[str]":
        """Start the caller's program."""
        identity: dict[str, Any] = {}
        if self.user is not None:
            identity = {"user": self.user, "group": self.user, "extra_groups": self.groups}
        return subprocess.Popen(
            [self.python, str(JOBS), json.dumps({"place": str(self.place), "do": do, **more})], text=True, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**VARIABLES, "HOME": str(self.place), "LONGCTX_SECRET": "a caller's"}, **identity,
        )  # fmt: skip

    @property
    def inside(self) -> int:
        """Who the caller is inside a container, and whose its files are outside."""
        uid = os.getuid() if self.user is None else self.user
        return uid or NOBODY


def ordinary(place: Path) -> Caller:
    """Return an ordinary user who may use the engine; skips where there is none to be had."""
    socket = Path("/var/run/docker.sock")
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    if os.environ.get("DOCKER_HOST") or not socket.exists():
        pytest.skip("the engine is not behind the usual socket")
    status = socket.stat()
    if not stat.S_IMODE(status.st_mode) & 0o060 or status.st_gid == 0:
        pytest.skip(f"the engine's socket is not for a group: {grp.getgrgid(status.st_gid).gr_name}")
    home = place / "ordinary"
    home.mkdir()
    os.chown(home, ORDINARY, ORDINARY)
    for python in (sys.executable, "/usr/bin/python3"):
        identity = {"user": ORDINARY, "group": ORDINARY, "extra_groups": ()}
        with contextlib.suppress(OSError):
            if (
                subprocess.run(
                    [python, str(JOBS), "--help"], env=VARIABLES, cwd="/", capture_output=True, check=False, **identity
                ).returncode
                == 0
            ):
                return Caller(home, ORDINARY, (status.st_gid,), python)
    pytest.skip("another user may not read this Python's packages, or this checkout")


@pytest.fixture(scope="module", params=["caller", "ordinary user"])
def caller(request: pytest.FixtureRequest, engine: DockerEngine, place: Path) -> Caller:
    place.chmod(0o755)
    if engine.docker.rootless:
        pytest.skip("rootless: root inside is the caller")
    if request.param == "ordinary user":
        return ordinary(place)
    (place / "own").mkdir()
    return Caller(place / "own", None)


Proved = Callable[[str], str]


@pytest.fixture(scope="module")
def proved(caller: Caller) -> Proved:
    """Return a function from a line of the profile to what the probe saw; a line that did not hold fails the test."""
    found = caller.ask("prove")
    assert found["user"] == found["group"] == found["owner"] == caller.inside
    assert found["isolation"] == "full"

    def saw(line: str) -> str:
        held, seen = found["lines"][line]
        assert held is True, seen
        return str(seen)

    return saw


def test_nothing_can_be_written_to_the_system(proved: Proved) -> None:
    assert "/usr EROFS (read-only)" in proved("read_only_root") or "/usr EACCES (read-only)" in proved("read_only_root")


def test_nothing_can_be_written_to_what_is_mounted_but_out(proved: Proved) -> None:
    proved("read_only_mounts")
    proved("out_writable")


def test_there_is_no_network(proved: Proved) -> None:
    assert proved("network_none").startswith("interfaces lo; connect: ENETUNREACH")


def test_nobody_becomes_root(proved: Proved) -> None:
    assert "setuid(0): EPERM" in proved("not_root")
    assert "NoNewPrivs 1; chown to root: EPERM" in proved("no_new_privileges")


def test_there_are_no_capabilities(proved: Proved) -> None:
    assert "mknod: EPERM; mount: EPERM" in proved("capabilities_dropped")


def test_system_calls_are_filtered(proved: Proved) -> None:
    proved("seccomp")


def test_ten_thousand_forks_stop_at_the_limit(proved: Proved) -> None:
    started = int(proved("pids_limit").partition(" ")[0].replace(",", ""))
    assert 400 < started < 512


def test_memory_and_shared_memory_have_the_limits_that_were_asked_for(proved: Proved) -> None:
    assert proved("memory_limit").startswith("1,024 MiB, the control group's")
    assert proved("shm_limit").startswith("/dev/shm 256 MiB; /tmp 1,024 MiB")


def test_nothing_of_the_host_or_of_another_job_is_there(proved: Proved) -> None:
    proved("no_host_paths")
    assert proved("no_other_jobs") in ("ENOENT", "EACCES")


def test_the_engine_cannot_be_asked(proved: Proved) -> None:
    proved("no_engine_socket")


def test_no_gpu_and_no_variable_of_the_caller_is_there(proved: Proved) -> None:
    proved("gpus_by_uuid")
    proved("clean_environment")


def test_an_init_runs_and_kernels_compile(proved: Proved) -> None:
    assert proved("init") == "docker-init"
    assert proved("compiler") == "compiled and ran"


def test_memory_beyond_the_limit_ends_the_job_alone(caller: Caller, engine: DockerEngine, place: Path) -> None:
    with start(engine, job(place, HOLD, name=f"bystander-{uuid.uuid4().hex}")) as bystander:
        ran = caller.ask("run", code="held = []\nwhile True:\n    held.append(b'x' * 2**20)\n", memory_bytes=64 * 2**20)
        assert ran["oom"] and ran["code"] == -signal.SIGKILL
        outcome, _ = judge(Ended(code=ran["code"], oom_killed=ran["oom"]), None, timed_out=None, stopping=False)
        assert outcome == "host_oom"
        assert bystander.poll() is None


def test_files_in_out_belong_to_whoever_the_job_is(caller: Caller) -> None:
    ran = caller.ask("run", code="open('/longctx/out/x', 'w').write('x')\nimport os\nos.makedirs('/longctx/out/deep')\n")
    assert ran["code"] == 0, ran["log"]
    assert ran["out"] == {"x": [caller.inside] * 2, "deep": [caller.inside] * 2}


def inspect(container: str) -> Any:
    done = subprocess.run(["docker", "inspect", container], capture_output=True, text=True, check=False)
    return json.loads(done.stdout)[0] if done.returncode == 0 else None


def container_of(process: Any) -> str:
    return str(process.container)


def test_a_running_job_shows_every_line_of_the_profile(engine: DockerEngine, tmp_path: Path) -> None:
    with start(engine, job(tmp_path, HOLD)) as process:
        assert process.isolation == "full" and all(process.isolation_detail.values())
        seen = inspect(container_of(process))
    host, config = seen["HostConfig"], seen["Config"]
    assert host["NetworkMode"] == "none" and list(seen["NetworkSettings"]["Networks"]) == ["none"]
    assert host["ReadonlyRootfs"] is True and host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"] and not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Init"] is True
    assert host["PidsLimit"] == 512
    assert host["Memory"] == host["MemorySwap"] == 256 * 2**20
    assert host["ShmSize"] == 64 * 2**20 and host["IpcMode"] == "private"
    assert not host["DeviceRequests"] and not host["Devices"] and not host["Binds"]
    assert list(host["Tmpfs"]) == ["/tmp"] and {"exec", "nosuid", "nodev"} <= set(host["Tmpfs"]["/tmp"].split(","))
    assert {mount["Destination"]: mount["RW"] for mount in seen["Mounts"]} == {"/longctx/main.py": False, "/longctx/out": True}
    assert not config["Tty"] and config["OpenStdin"] and config["StdinOnce"]
    user = os.getuid() or NOBODY
    assert config["User"] in (f"{user}:{os.getgid() or NOBODY}", "0:0" if engine.docker.rootless else "")


def test_the_code_of_a_real_job_cannot_be_changed(engine: DockerEngine, tmp_path: Path) -> None:
    from longctx.orchestrator.code import stage
    from longctx.orchestrator.engines.base import Mount

    code = (
        "import pathlib, runner\nplace = pathlib.Path(runner.__file__)\nprint(place)\n"
        "try:\n    place.write_text('raise SystemExit')\nexcept OSError as error:\n    print(error.strerror)\n"
    )
    made = job(tmp_path, code)
    staged = Mount(source=stage(tmp_path / "cache", {}), target="code")
    wanted = job(tmp_path, code, name="staged", mounts=(*made.mounts, staged))
    with engine.start(wanted) as process:
        assert wait(process) == (0, False)
    assert wanted.log.read_text() in (
        f"/longctx/code/runner/__init__.py\n{told}\n" for told in ("Read-only file system", "Permission denied")
    )


def test_escapes_never_reach_the_log(engine: DockerEngine, tmp_path: Path) -> None:
    code = "print('\\x1b[31mred\\x1b[0m \\x1b]0;title\\x07end')\nimport sys\nsys.stderr.write('10%\\r100%\\n')\n"
    spec = job(tmp_path, code)
    with start(engine, spec) as process:
        assert wait(process) == (0, False)
    assert sorted(spec.log.read_text().splitlines()) == ["100%", "red end"]


def test_a_container_is_gone_after_success_and_after_failure(engine: DockerEngine, tmp_path: Path) -> None:
    for number, code in enumerate(("pass", "raise SystemExit(3)")):
        with start(engine, job(tmp_path, code, name=str(number))) as process:
            container = container_of(process)
            assert wait(process) == ((0, 3)[number], False)
            assert inspect(container) is not None
        assert inspect(container) is None


def test_a_container_is_gone_after_an_exception_while_it_runs(engine: DockerEngine, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), start(engine, job(tmp_path, HOLD)) as process:
        container = container_of(process)
        assert 1 // 0
    assert inspect(container) is None


def test_a_container_that_is_to_be_kept_stays_and_no_sweep_takes_it(engine: DockerEngine, tmp_path: Path) -> None:
    name = f"longctx-test-{uuid.uuid4().hex[:8]}"
    try:
        with start(engine, job(tmp_path, "print('kept')"), keep=name) as process:
            assert wait(process) == (0, False)
        seen = inspect(name)
        assert seen["State"]["Running"] is False and seen["Config"]["Labels"]["longctx"] == "kept"
        docker_process.sweep(engine.docker)
        again, remove = (command.split() for command in engine.kept(name))
        assert subprocess.run(again, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True).stdout.strip() == "kept"
        subprocess.run(remove, capture_output=True, check=True)
        assert inspect(name) is None
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)


@pytest.fixture
def holder(engine: DockerEngine, place: Path) -> Iterator[Callable[[], tuple["subprocess.Popen[str]", str]]]:
    """Start a process that holds a container; return both."""
    started = []

    def hold() -> tuple["subprocess.Popen[str]", str]:
        folder = place / f"holder-{len(started)}-{uuid.uuid4().hex[:6]}"
        folder.mkdir()
        process = Caller(folder, None).start("hold")
        started.append(process)
        assert process.stdout is not None
        return process, json.loads(process.stdout.readline())["container"]

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def eventually(holds: Callable[[], bool], seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_ctrl_c_removes_the_container(holder: Callable[[], tuple["subprocess.Popen[str]", str]]) -> None:
    process, container = holder()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert inspect(container) is None


def test_kill_9_ends_the_job_by_its_lifeline_and_the_next_sweep_removes_it(
    holder: Callable[[], tuple["subprocess.Popen[str]", str]], engine: DockerEngine
) -> None:
    process, container = holder()
    docker_process.sweep(engine.docker)
    assert inspect(container)["State"]["Running"] is True
    process.kill()
    process.communicate()
    ended: list[Any] = []  # it was the lifeline that ended it: by itself, before any sweep

    def over() -> bool:
        ended.append(inspect(container))
        return ended[-1] is None or not ended[-1]["State"]["Running"]

    assert eventually(over)
    if ended[-1] is not None:  # else another longctx on this host has swept it already
        assert ended[-1]["State"]["ExitCode"] == 0
    docker_process.sweep(engine.docker)
    assert inspect(container) is None


@pytest.fixture
def pretend_gpus(engine: DockerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """Two GPUs that nvidia-smi lists and the engine can give: each a variable and a file of its own inside."""
    folders = [Path(folder) for folder in engine.docker.info.get("CDISpecDirs") or ()]
    if not folders:
        pytest.skip("CDI is switched off in this engine")
    uuids = (f"GPU-{uuid.uuid4()}", f"GPU-{uuid.uuid4()}")
    programs = tmp_path / "programs"
    programs.mkdir()
    rows = "\n".join(f"{one}, Pretend, 1024" for one in uuids)
    (programs / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'ROWS'\n{rows}\nROWS\n")
    (programs / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    for one in uuids:
        (tmp_path / one).write_text(one)
        (tmp_path / one).chmod(0o644)
    spec = {
        "cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": [
            {"name": one, "containerEdits": {
                "env": [f"PRETEND_GPU_{number}={one}"],
                "mounts": [{"hostPath": str(tmp_path / one), "containerPath": f"/pretend/{one}", "options": ["ro", "bind"]}],
            }}
            for number, one in enumerate(uuids)
        ],
    }  # fmt: skip
    made = None
    with contextlib.ExitStack() as stack:
        for folder in folders:
            with contextlib.suppress(OSError):
                if not folder.exists():
                    folder.mkdir(parents=True)
                    stack.callback(shutil.rmtree, folder, ignore_errors=True)
                made = folder / f"longctx-test-{os.getpid()}.json"
                made.write_text(json.dumps(spec))
                stack.callback(made.unlink)
                break
        if made is None:
            pytest.skip(f"none of {', '.join(map(str, folders))} can be written")
        devices.gpus.cache_clear()
        stack.callback(devices.gpus.cache_clear)
        yield uuids


LOOK = (
    "import os\nprint(*sorted(value for name, value in os.environ.items() if name.startswith('PRETEND')))\nprint(*os.listdir('/pretend'))\n"
)


def test_two_jobs_at_once_see_their_own_gpu_and_no_other(pretend_gpus: tuple[str, str], engine: DockerEngine, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(devices.lease(1, cache)) for _ in range(2))
        assert {*first, *second} == set(pretend_gpus)
        asked = iter((False, True))
        with pytest.raises(Interrupted), devices.lease(1, cache, lambda: next(asked)):
            pass
        specs = [job(tmp_path, LOOK + HOLD, name=f"gpu-{number}", gpus=gpus, device="cuda") for number, gpus in enumerate((first, second))]
        processes = [stack.enter_context(start(engine, spec)) for spec in specs]
        assert eventually(lambda: all("up" in spec.log.read_text() for spec in specs if spec.log.exists()))
        for spec, process, gpus in zip(specs, processes, (first, second), strict=True):
            assert process.isolation_detail["gpus_by_uuid"]
            assert spec.log.read_text().splitlines()[:2] == [gpus[0], gpus[0]]
            requests = inspect(container_of(process))["HostConfig"]["DeviceRequests"]
            assert [(one["Driver"], one["Count"], one["DeviceIDs"]) for one in requests] == [("cdi", 0, [f"nvidia.com/gpu={gpus[0]}"])]
            assert f"CUDA_VISIBLE_DEVICES={gpus[0]}" in inspect(container_of(process))["Config"]["Env"]


def test_a_gpu_that_the_engine_lost_is_refused_with_a_step(pretend_gpus: tuple[str, str], engine: DockerEngine, tmp_path: Path) -> None:
    body = job(tmp_path, "pass", name=f"lost-{uuid.uuid4().hex}", gpus=(pretend_gpus[0],), device="cuda")
    for folder in engine.docker.info["CDISpecDirs"]:
        path = Path(folder) / f"longctx-test-{os.getpid()}.json"
        if path.exists():
            kept = path.read_text()
            path.write_text(kept.replace(pretend_gpus[0], "GPU-gone"))
            break
    with pytest.raises((EngineUnavailable, EnvironmentFailed), match="GPU-"):
        start(engine, body)
    assert body.job not in {one["Labels"].get("longctx.job") for one in engine.docker.api.containers(all=True)}
