"""The venv engine with a real environment: what it isolates, seen from inside, and what is left when a process ends."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from longctx.orchestrator.engines import proof
from longctx.orchestrator.engines.base import ContainerSpec, Ended, Mount, Process
from longctx.orchestrator.engines.group import MARK, GroupProcess, marked
from longctx.orchestrator.engines.launch import REFUSED
from longctx.orchestrator.engines.venv import LAUNCH, VenvEngine
from longctx.orchestrator.environments import load_environment
from longctx.orchestrator.settings import Settings

pytestmark = pytest.mark.venv
PATIENCE = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """Starts a piece of Python as the job's runner."""

    folder: Path
    engine: VenvEngine

    def spec(self, code: str, **changes: Any) -> ContainerSpec:
        package = self.folder / "code" / "runner"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(textwrap.dedent(code))
        (self.folder / "out").mkdir(exist_ok=True)
        spec = ContainerSpec(
            run="run", job="job", attempt=1, environment=load_environment("tf5"), device="cpu", family=None,
            argv=("-m", "runner", "--root", "{root}"), scratch=self.folder / "scratch", log=self.folder / "log.txt",
            mounts=(Mount(source=self.folder / "code", target="code"), Mount(source=self.folder / "out", target="out", writable=True)),
        )  # fmt: skip
        return dataclasses.replace(spec, **changes)

    def run(self, code: str, **changes: Any) -> tuple[Ended, Process]:
        with self.engine.start(self.spec(code, **changes)) as process:
            return wait(process), process

    def ask(self, code: str, **changes: Any) -> Any:
        ended, _ = self.run(code, **changes)
        assert ended == Ended(code=0), self.log()
        return json.loads(self.log().splitlines()[-1])

    def log(self) -> str:
        return (self.folder / "log.txt").read_text()


@pytest.fixture
def stage(tmp_path: Path, environment_python: Callable[[str], Path], real_settings: Settings) -> Stage:
    environment_python("tf5")
    return Stage(folder=tmp_path, engine=VenvEngine(real_settings))


def wait(process: Process) -> Ended:
    until = time.monotonic() + PATIENCE
    while (ended := process.poll()) is None:
        assert time.monotonic() < until, "the process does not end"
        time.sleep(0.01)
    return ended


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("name", ["tf5", "tf4.40"])
def test_environments_are_made_and_found(name: str, environment_python: Callable[[str], Path], real_settings: Settings) -> None:
    python = environment_python(name)
    locked = VenvEngine(real_settings).find(load_environment(name), "cpu")
    assert (
        locked is not None and locked.torch_record_sha256 is not None and locked.python.rpartition(".")[0] in load_environment(name).python
    )
    assert locked.packages["torch"].partition("+")[0] == load_environment(name).torch["cpu"]
    assert locked.packages["transformers"] == {"tf5": "5.23.0", "tf4.40": "4.40.2"}[name]
    assert not [package for package in locked.packages if package.startswith("nvidia-")], "a CPU environment carries no CUDA"
    assert python.exists() and (python.parent.parent / "environment.json").is_file()


def test_nothing_of_the_caller_reaches_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.setenv("PYTHONSTARTUP", "/somewhere.py")
    monkeypatch.setenv("LD_PRELOAD", "")
    seen = stage.ask(
        "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv, sys.path, os.path.expanduser('~'), os.getcwd()]))",
        env={"LONGCTX_LIFELINE": "stdin"}, threads=1,
    )  # fmt: skip
    variables, arguments, path, home, folder = seen
    assert "a-secret" not in json.dumps(seen)
    assert not {"HF_TOKEN", "PYTHONSTARTUP", "LD_PRELOAD", "SSL_CERT_FILE", "PYTEST_CURRENT_TEST"} & variables.keys()
    scratch = stage.folder / "scratch"
    assert home == folder == variables["HOME"] == str(scratch / "home") and variables["TMPDIR"] == str(scratch / "tmp")
    assert all(variables[key].startswith(home) for key in ("HF_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME"))
    expected = {
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "LONGCTX_LIFELINE": "stdin",
    }
    assert variables.items() >= expected.items()
    assert arguments[1:] == ["--root", str(scratch / "root")] and path[1] == str(scratch / "root" / "code")


def test_what_detail_claims_holds_inside(stage: Stage) -> None:
    code = """
        import json, os, resource, socket
        status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
        names = ("CORE", "FSIZE", "NOFILE", "DATA")
        limits = {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in names}
        networks = [name for _, name in socket.if_nameindex()]
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
            loopback = True
        own = os.getpid() == os.getpgrp() == os.getsid(0)
        open(os.path.join(os.environ["PYTHONPATH"], "../out/file"), "w").close()
        print(json.dumps([status, limits, networks, loopback, own, os.getuid()]))
    """
    ended, process = stage.run(code, memory_bytes=8 * 2**30)
    assert ended.code == 0, stage.log()
    status, limits, networks, loopback, own, uid = json.loads(stage.log())
    detail = process.isolation_detail
    assert process.isolation == "partial" and own and loopback
    assert (
        limits["CORE"] == [0, 0] and limits["DATA"] == [8 * 2**30] * 2 and 1024 <= limits["NOFILE"][0] <= 65536 and limits["FSIZE"][0] > 0
    )
    assert (networks == ["lo"]) == detail["network_none"]
    assert (status["NoNewPrivs"] == "1") == detail["no_new_privileges"]
    assert (int(status["CapEff"], 16) == 0) == detail["capabilities_dropped"]
    assert int(status["CapEff"], 16) & ~0b1111 == 0 or not detail["no_new_privileges"]
    assert uid == os.getuid() and (stage.folder / "out" / "file").stat().st_uid == os.getuid()


def test_the_memory_limit_is_felt_as_an_exception(stage: Stage) -> None:
    ended, _ = stage.run("x = bytearray(2**30)", memory_bytes=2**29)
    assert ended.code == 1 and "MemoryError" in stage.log()


def test_the_log_is_plain(stage: Stage) -> None:
    stage.run("import sys; print('\\x1b[31mred\\x1b[0m', flush=True); print('10%\\r100%', file=sys.stderr)")
    assert stage.log() == "red\n100%\n"


def test_terminate_reaches_the_runner_alone_and_is_its_to_answer(stage: Stage) -> None:
    code = """
        import signal, subprocess, sys, time
        child = subprocess.Popen(["sleep", "600"])
        def stop(*_):
            print("child alive:", child.poll() is None, flush=True)
            sys.exit(7)
        signal.signal(signal.SIGTERM, stop)
        print("ready", flush=True)
        time.sleep(600)
    """
    with stage.engine.start(stage.spec(code)) as process:
        until(lambda: stage.folder.joinpath("log.txt").exists() and "ready" in stage.log(), "it never got ready")
        process.terminate()
        assert wait(process).code == 7
    assert "child alive: True" in stage.log()


ORPHANS = """
    import os, subprocess, time
    pids = [os.getpid(), subprocess.Popen(["sleep", "600"]).pid, subprocess.Popen(["sleep", "600"], start_new_session=True).pid]
    print(*pids, flush=True)
    {then}
"""


def pids(stage: Stage) -> list[int]:
    until(lambda: stage.folder.joinpath("log.txt").exists() and stage.log().endswith("\n"), "it never said its ids")
    return [int(part) for part in stage.log().split()]


def test_kill_leaves_no_orphan_not_even_in_a_session_of_its_own(stage: Stage) -> None:
    with stage.engine.start(stage.spec(ORPHANS.format(then="time.sleep(600)"))) as process:
        started = pids(stage)
        assert all(alive(pid) for pid in started)
        process.kill()
        assert wait(process) == Ended(code=-signal.SIGKILL)
        until(lambda: not any(alive(pid) for pid in started), "a child outlived the kill")


def test_a_normal_end_leaves_no_orphan_either(stage: Stage) -> None:
    ended, _ = stage.run(ORPHANS.format(then=""))
    assert ended.code == 0
    until(lambda: not any(alive(pid) for pid in pids(stage)), "a child outlived its parent")


def test_leaving_the_context_kills_and_cleans_whatever_was_raised(stage: Stage) -> None:
    outside = stage.folder / "out"
    with pytest.raises(ZeroDivisionError), stage.engine.start(stage.spec(ORPHANS.format(then="time.sleep(600)"))):
        started = pids(stage)
        (stage.folder / "scratch" / "home" / "link").symlink_to(outside)
        (outside / "kept").touch()
        _ = 1 / 0
    assert not any(alive(pid) for pid in started)
    assert list((stage.folder / "scratch").iterdir()) == [] and (outside / "kept").exists() and (stage.folder / "code").is_dir()


def test_the_lifeline_closes_when_the_holder_is_killed(stage: Stage, real_settings: Settings) -> None:
    spec = stage.spec(
        "import os, sys; print(os.getpid(), flush=True); sys.stdin.buffer.read(); open(sys.argv[2] + '/out/gone', 'w').close()"
    )
    holder = f"""
        import pathlib, sys, time
        from longctx.orchestrator.engines.base import ContainerSpec, Mount
        from longctx.orchestrator.engines.venv import VenvEngine
        from longctx.orchestrator.environments import load_environment
        from longctx.orchestrator.settings import Settings
        folder = pathlib.Path({str(stage.folder)!r})
        mounts = tuple(Mount(source=folder / name, target=name) for name in ("code", "out"))
        spec = ContainerSpec(run="r", job="j", attempt=1, environment=load_environment("tf5"), device="cpu", family=None,
            argv={spec.argv!r}, scratch=folder / "scratch", log=folder / "log.txt", mounts=mounts)
        process = VenvEngine(Settings.model_validate_json({real_settings.model_dump_json()!r})).start(spec)
        time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(holder)]) as process:
        try:
            (runner,) = pids(stage)
            assert alive(runner)
        finally:
            process.send_signal(signal.SIGKILL)
    until(lambda: not alive(runner), "the runner outlived its holder")
    assert (stage.folder / "out" / "gone").exists()


def test_a_kill_from_outside_is_told_from_ours(stage: Stage) -> None:
    with stage.engine.start(stage.spec("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")) as process:
        assert wait(process) == Ended(code=-signal.SIGKILL, oom_killed=False)


@pytest.fixture
def other_user() -> Iterator[int]:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    yield 65534


@pytest.fixture
def launch(other_user: int, tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run the launcher as another user, from where that user can read it."""
    launcher = tmp_path / "launch.py"
    launcher.write_bytes(LAUNCH.read_bytes())
    launcher.chmod(0o644)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith(("pytest-", "test_")):
            folder.chmod(0o755)
    python = readable_python(other_user)
    if python is None:
        pytest.skip("no Python that another user may run")

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [python, "-I", "-S", str(launcher), *(python if part == "PYTHON" else part for part in arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, user=other_user, group=other_user, extra_groups=[])

    return run


def test_without_root_the_network_goes_too_where_user_namespaces_are_allowed(launch: Callable[..., Any], other_user: int) -> None:
    allowed = json.loads(launch("--probe").stdout)
    if allowed["network"] is None:
        pytest.skip("user namespaces are not allowed here")
    assert allowed == {"network": "user+net", "privileges": True}
    code = "import os, socket; print(os.getuid(), os.getgid(), socket.if_nameindex(), open('/proc/self/status').read())"
    seen = launch(json.dumps({**allowed, "limits": {}}), "PYTHON", "-c", code).stdout
    assert seen.startswith(f"{other_user} {other_user} [(1, 'lo')]") and "CapEff:\t0000000000000000" in seen


def test_a_promise_that_cannot_be_kept_stops_the_launch(launch: Callable[..., Any]) -> None:
    done = launch(json.dumps({"network": "net", "privileges": True, "limits": {}}), "PYTHON", "-c", "print('started')")
    assert done.returncode == REFUSED and "cannot isolate" in done.stderr and "started" not in done.stdout


def readable_python(user: int) -> str | None:
    for candidate in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run([candidate, "-I", "-S", "-c", ""], check=True, capture_output=True, user=user, group=user, extra_groups=[])
            return candidate
    return None


def test_descendants_are_marked(stage: Stage) -> None:
    with stage.engine.start(stage.spec(ORPHANS.format(then="time.sleep(600)"))) as process:
        started = pids(stage)
        variables = Path(f"/proc/{started[0]}/environ").read_bytes().split(b"\0")
        (mark,) = (part.partition(b"=")[2].decode() for part in variables if part.startswith(f"{MARK}=".encode()))
        assert isinstance(process, GroupProcess) and sorted(marked(mark)) == sorted(started)


def test_what_the_engine_says_of_a_process_is_what_the_probe_meets_inside(stage: Stage) -> None:
    found = proof.prove(stage.engine.start, load_environment("tf5"), stage.folder / "doctor", limits_processes=False)
    lines = {line.line: line for line in found.lines}
    for line in sorted(found.promised.keys() & lines.keys()):
        assert lines[line].held == found.promised[line], lines[line]
    assert {
        "network_none",
        "no_new_privileges",
        "memory_limit",
        "clean_environment",
        "read_only_root",
    } <= found.promised.keys() & lines.keys()
    assert found.isolation == "partial" and found.owner == found.user == os.getuid()


def test_what_is_kept_stays_and_what_is_not_goes(stage: Stage) -> None:
    folders = [stage.folder / "scratch" / part for part in ("root", "home", "tmp")]
    with stage.engine.start(stage.spec("print('kept')"), keep="a name") as process:
        assert wait(process) == Ended(code=0)
    assert all(folder.is_dir() for folder in folders)
    assert stage.engine.interact(stage.spec("raise SystemExit(7)"), keep="a name") == 7
    assert stage.engine.kept("a name") == ()
    stage.run("print('not kept')")
    assert not any(folder.exists() for folder in folders)
