"""What doctor makes of what it sees: states, next steps, exit codes. Nothing here asks a real engine."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from longctx.orchestrator import devices, doctor
from longctx.orchestrator.cli import main
from longctx.orchestrator.doctor import Check, Diagnosis
from longctx.orchestrator.engines.probe import Line
from longctx.orchestrator.engines.proof import Proof
from longctx.orchestrator.errors import EngineUnavailable
from longctx.orchestrator.settings import Settings


def proof(held: bool | None, isolation: str = "partial", line: str = "network_none", **promised: bool) -> Proof:
    fields: dict[str, Any] = {"isolation": isolation, "promised": promised}
    return Proof(lines=(Line(line, held, "trying", "this"),), user=1, group=1, owner=1, seconds=0.1, **fields)


@pytest.mark.parametrize(
    ("found", "state", "step"),
    [
        (proof(True), "ok", ""),
        (proof(None), "ok", ""),
        (proof(False, network_none=True), "failed", "please report"),
        (proof(False, network_none=False), "warning", "isolates partly"),
        (proof(False, "full"), "failed", "please report"),
        (proof(False, "full", "compiler"), "warning", "install gcc"),
        (proof(False, line="out_writable"), "failed", "please report"),
    ],
)
def test_what_is_promised_must_hold_and_the_rest_is_told(found: Proof, state: str, step: str) -> None:
    [check] = doctor.isolation("venv", found)
    assert (check.state, check.seen) == (state, "trying → this")
    assert step in check.next_step and bool(check.next_step) == bool(step)


@pytest.mark.parametrize(("left", "state"), [(50, "ok"), (10, "warning"), (1, "failed")])
def test_free_space_is_judged(left: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=left * 2**30))
    check = doctor.free("cache", tmp_path / "not" / "there", "Free some.")
    assert (check.state, check.next_step) == (state, "" if state == "ok" else "Free some.")
    assert f"{left:.1f} GiB free" in check.seen


def test_a_folder_that_cannot_be_written_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    cache, runs = doctor.disk(Settings(cache=tmp_path / "cache", runs=tmp_path / "runs"))
    assert cache.state == "failed" and "cannot be written" in cache.seen and "longctx config" in cache.next_step
    assert runs.state != "failed" or "GiB" in runs.seen


class FakeDocker:
    """An engine that says what it is told."""

    def __init__(self, images: list[dict[str, Any]] | None = None, environment: tuple[str, ...] = (), **info: Any) -> None:
        self.info, self.rootless = info, False
        inspected = {"Config": {"Env": list(environment)}}
        self.api = SimpleNamespace(images=lambda filters: images or [], inspect_image=lambda name: inspected)

    def ask(self, doing: str, call: Any) -> Any:
        return call()


def image(kind: str, size: int, *tags: str) -> dict[str, Any]:
    return {"Id": f"{kind}-{size}", "Size": size, "Labels": {"longctx.image": kind}, "RepoTags": list(tags)}


def test_the_smallest_image_with_a_python_of_ours_is_taken() -> None:
    images = [
        image("environment", 900, "longctx/tf5:cpu"),
        image("family", 1, "longctx/a:b"),
        image("python", 5),
        image("python", 7, "x:y"),
    ]
    assert doctor.smallest(FakeDocker(images)) == ("environment-900", "/opt/environment/bin/python")  # type: ignore[arg-type]
    images.append(image("python", 400, "longctx/python:1"))
    assert doctor.smallest(FakeDocker(images)) == ("python-400", "/usr/bin/python3")  # type: ignore[arg-type]
    official = FakeDocker(images, environment=("PYTHON_VERSION=3.11.9",))
    assert doctor.smallest(official) == ("python-400", "/usr/local/bin/python3")  # type: ignore[arg-type]
    assert doctor.smallest(FakeDocker()) is None  # type: ignore[arg-type]


GPU = devices.Gpu("GPU-1", "Pretend", 2**30)


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: (GPU,))


def given(found: FakeDocker) -> Check:
    [check] = doctor._devices(found)  # type: ignore[arg-type]
    return check


def test_a_gpu_that_the_engine_does_not_know_fails_with_the_way_to_make_it_known(one_gpu: None, tmp_path: Path) -> None:
    off = given(FakeDocker())
    assert off.state == "failed" and "daemon.json" in off.next_step and "unknown: GPU-1" in off.seen
    on = given(FakeDocker(CDISpecDirs=[str(tmp_path)]))
    assert on.state == "failed" and "nvidia-ctk" in on.next_step and "daemon.json" not in on.next_step


def test_a_gpu_is_known_by_its_uuid_or_through_the_runtime(one_gpu: None, tmp_path: Path) -> None:
    (tmp_path / "nvidia.json").write_text(json.dumps({"kind": "nvidia.com/gpu", "devices": [{"name": "GPU-1"}]}))
    assert "1 GPUs by UUID, through CDI" in given(FakeDocker(CDISpecDirs=[str(tmp_path)])).seen
    runtime = given(FakeDocker(Runtimes={"nvidia": {}}))
    assert runtime.state == "ok" and "through the NVIDIA runtime" in runtime.seen


def test_an_engine_that_cannot_limit_memory_is_warned_of() -> None:
    [check] = doctor._docker_engine(FakeDocker(ServerVersion="26", MemoryLimit=False))  # type: ignore[arg-type]
    assert check.state == "warning" and "no limit of memory" in check.seen and "Delegate" in check.next_step


def test_a_socket_that_may_not_be_opened_names_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    from longctx.orchestrator.engines.docker.engine import DockerEngine

    monkeypatch.setattr(DockerEngine, "unavailable", lambda self: "No Docker Engine answers (connecting): Permission denied")
    [check] = doctor.docker(Settings())
    assert check.state == "failed" and "usermod -aG docker" in check.next_step


def test_each_step_is_said_once_with_all_that_need_it() -> None:
    checks = [Check(part="venv", name=name, state="warning", seen="x", next_step="Do this.") for name in ("isolation: a", "isolation: b")]
    told = doctor.words(Diagnosis(checks=checks, engines=["venv"]))
    assert told.count("Do this.") == 1 and "venv a, venv b:" in told
    assert "on the engine venv unless" in told


def failing(part: str) -> Iterator[Check]:
    yield Check(part=part, name="engine", state="failed", seen="gone", next_step=f"Start {part}.")


def working(part: str) -> Iterator[Check]:
    yield Check(part=part, name="engine", state="ok", seen="there")


@pytest.mark.parametrize(
    ("docker", "venv", "code", "engines"),
    [
        (failing, failing, 7, []),
        (failing, working, 0, ["venv"]),
        (working, failing, 0, ["docker"]),
        (working, working, 0, ["docker", "venv"]),
    ],
)
def test_the_exit_code_says_whether_a_job_can_run(
    docker: Any,
    venv: Any,
    code: int,
    engines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "docker", lambda settings: docker("docker"))
    monkeypatch.setattr(doctor, "venv", lambda settings: venv("venv"))
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    out, err = capfd.readouterr()
    told = json.loads(out)
    assert (ended.value.code or 0, told["engines"], told["usable"]) == (code, engines, code == 0)
    assert {check["name"] for check in told["checks"]} >= {"settings", "disk: cache", "disk: runs", "driver", "engine"}
    assert ("No engine can be used here" in err) == (code == 7)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit):
        main(["doctor"])
    table = capfd.readouterr().out
    assert ("Start docker." in table) == (docker is failing)


def test_a_broken_settings_file_is_one_failed_line_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("cash: /somewhere\n")
    monkeypatch.setenv("LONGCTX_CONFIG", str(file))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "docker", lambda settings: failing("docker"))
    monkeypatch.setattr(doctor, "venv", lambda settings: working("venv"))
    found = doctor.examine()
    assert (found.checks[0].name, found.checks[0].state) == ("settings", "failed")
    assert "cash" in found.checks[0].seen and "Allowed keys" in found.checks[0].next_step
    assert found.usable


def test_no_usable_engine_is_refused() -> None:
    with pytest.raises(EngineUnavailable, match="no job can run"):
        doctor.refuse_unusable(Diagnosis(checks=(), engines=()))
