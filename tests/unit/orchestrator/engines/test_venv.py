"""Making environments, with a uv that only writes down what it was asked."""

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from unit.orchestrator.builders import record_system

from longctx.orchestrator import engines
from longctx.orchestrator.contracts.manifest import EnvironmentSpec
from longctx.orchestrator.engines.base import ContainerSpec, Mount
from longctx.orchestrator.engines.host import ask, direct
from longctx.orchestrator.engines.venv import MARKER, VenvEngine, build_root
from longctx.orchestrator.engines.venv_env import job_environment
from longctx.orchestrator.environments import find_environment, load_environment
from longctx.orchestrator.errors import EnvironmentFailed, StorageError, UsageError
from longctx.orchestrator.settings import Settings

from .conftest import Bench


def made(bench: Bench) -> Path:
    (folder,) = (path for path in (bench.folder / "cache" / "environments").iterdir() if path.is_dir())
    return folder


def test_the_registry_makes_engines_by_name(tmp_path: Path) -> None:
    engine = engines.make("venv", Settings(cache=tmp_path))
    assert engine.name == "venv" and engine.unavailable() is None
    with pytest.raises(UsageError, match=r"'vnev'[\s\S]*venv"):
        engines.make("vnev", Settings())


def test_it_is_made_once_then_found(bench: Bench) -> None:
    engine, said = bench.engine(), list[str]()
    assert engine.find(bench.environment.spec, "cpu") is None
    locked = engine.prepare(bench.environment.spec, "cpu", said.append)
    calls = bench.calls()
    assert locked.kind == "cpu" and locked.spec_sha256 == bench.environment.sha256 and "pytest" in locked.packages
    assert engine.prepare(bench.environment.spec, "cpu", said.append) == locked == engine.find(bench.environment.spec, "cpu")
    assert bench.calls() == calls, "nothing is asked of uv the second time"
    assert any("Installed" in line for line in said) and made(bench).name.startswith("mine-")


def test_torch_comes_first_and_alone_then_the_hashed_lock(bench: Bench) -> None:
    bench.engine().prepare(bench.environment.spec, "cpu", lambda _: None)
    torch, lock = (call for call in bench.calls() if call.startswith("pip install"))
    assert torch.endswith("--no-deps --torch-backend cpu torch==2.13.0") and "--only-binary :all:" in torch
    assert "--require-hashes --no-deps -r" in lock and lock.endswith("requirements.lock")


def test_a_half_made_one_is_made_again(bench: Bench) -> None:
    bench.fail("requirements.lock")
    engine = bench.engine()
    with pytest.raises(EnvironmentFailed, match=r"packages of .*requirements\.lock could not be installed"):
        engine.prepare(bench.environment.spec, "cpu", lambda _: None)
    (made(bench) / "left").touch()
    assert engine.find(bench.environment.spec, "cpu") is None
    (bench.folder / "fail").unlink()
    engine.prepare(bench.environment.spec, "cpu", lambda _: None)
    assert (made(bench) / MARKER).is_file() and not (made(bench) / "left").exists()


def test_failures_show_what_uv_said_without_passwords(bench: Bench) -> None:
    bench.fail("torch==")
    with pytest.raises(EnvironmentFailed) as caught:
        bench.engine().prepare(bench.environment.spec, "cpu", lambda _: None)
    message = str(caught.value)
    assert "https://***@index.example" in message and "secret" not in message and "`wheelhouse`" in message


def test_an_import_that_fails_is_told(bench: Bench) -> None:
    file = bench.environment.folder / "environment.yaml"
    file.write_text(file.read_text().replace("[json]", "[json, no_such_module]"))
    with pytest.raises(EnvironmentFailed, match="importing no_such_module fails: ModuleNotFoundError"):
        bench.engine().prepare(bench.environment.spec, "cpu", lambda _: None)


def test_a_device_it_is_not_made_for(bench: Bench) -> None:
    with pytest.raises(EnvironmentFailed, match=r"not made for cuda[\s\S]*cpu"):
        bench.engine().prepare(bench.environment.spec, "cuda", lambda _: None)


def test_the_first_python_that_is_installed_is_taken(bench: Bench) -> None:
    bench.pythons("3.91")
    bench.engine().prepare(bench.environment.spec, "cpu", lambda _: None)
    assert [call.split()[-1] for call in bench.calls() if call.startswith("python find")] == ["3.90", "3.91"]


def test_no_python_says_which_would_do(bench: Bench) -> None:
    bench.pythons()
    with pytest.raises(EnvironmentFailed, match=r"Python 3\.90 or 3\.91; none is installed, and fetching 3\.90 failed") as caught:
        bench.engine().prepare(bench.environment.spec, "cpu", lambda _: None)
    assert "uv python install 3.90" in str(caught.value)


def test_offline_fetches_no_python(bench: Bench) -> None:
    bench.pythons()
    with pytest.raises(EnvironmentFailed, match="`offline` is set"):
        bench.engine(offline=True).prepare(bench.environment.spec, "cpu", lambda _: None)
    assert not any(call.startswith("python install") for call in bench.calls())


def test_two_makers_at_once_make_one(bench: Bench) -> None:
    bench.slow()
    said: list[str] = []
    results: list[object] = []

    def work() -> None:
        results.append(bench.engine().prepare(bench.environment.spec, "cpu", said.append))

    makers = [threading.Thread(target=work) for _ in range(2)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert len(results) == 2 and results[0] == results[1]
    assert sum(call.startswith("venv ") for call in bench.calls()) == 1
    assert sum("another process is making it" in line for line in said) == 1


def test_a_removed_python_means_it_is_made_again(bench: Bench) -> None:
    engine = bench.engine()
    engine.prepare(bench.environment.spec, "cpu", lambda _: None)
    link = made(bench) / "bin" / "python"
    link.unlink()
    link.symlink_to(bench.folder / "gone")
    assert engine.find(bench.environment.spec, "cpu") is None
    assert engine.prepare(bench.environment.spec, "cpu", lambda _: None)


def test_a_changed_lock_is_another_environment(bench: Bench) -> None:
    engine = bench.engine()
    engine.prepare(bench.environment.spec, "cpu", lambda _: None)
    (bench.environment.folder / "requirements.lock").write_text("six==1.16.0\n")
    assert engine.find(bench.environment.spec, "cpu") is None


def test_starting_what_is_not_made(bench: Bench) -> None:
    with pytest.raises(EnvironmentFailed, match="not made for cpu yet"):
        bench.engine().start(spec(bench))


def test_a_cache_that_cannot_be_written(bench: Bench) -> None:
    (bench.folder / "cache").write_text("a file")
    with pytest.raises(StorageError, match="cache"):
        bench.engine().prepare(bench.environment.spec, "cpu", lambda _: None)


def spec(bench: Bench, *mounts: Mount) -> ContainerSpec:
    return ContainerSpec(
        run="run", job="job", attempt=1, environment=bench.environment.spec, device="cpu", family=None, argv=("-m", "runner"),
        mounts=mounts, scratch=bench.folder / "scratch", log=bench.folder / "log",
    )  # fmt: skip


def test_the_root_is_made_of_links(bench: Bench) -> None:
    source = bench.folder / "config.json"
    source.write_text("{}")
    root = bench.folder / "root"
    root.mkdir()
    build_root(root, spec(bench, Mount(source=source, target="model/config.json"), Mount(source=bench.folder, target="out")))
    assert (root / "model/config.json").readlink() == source and (root / "out").is_symlink() and not (root / "model").is_symlink()


@pytest.mark.parametrize("target", ["/etc/x", "../x", "a/../../x", "", "out/x"])
def test_mounts_stay_below_the_root(bench: Bench, target: str) -> None:
    root = bench.folder / "root"
    root.mkdir()
    with pytest.raises(EnvironmentFailed, match=r"below the root|overlap"):
        build_root(root, spec(bench, Mount(source=bench.folder, target="out"), Mount(source=bench.folder, target=target)))
    assert not (bench.folder / "x").exists()


def test_a_missing_source_is_named(bench: Bench) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        build_root(bench.folder, spec(bench, Mount(source=bench.folder / "absent", target="a")))
    assert caught.value.filename == str(bench.folder / "absent") and os.strerror(2) != caught.value.strerror


def recorded_here(**more: Any) -> EnvironmentSpec:
    """Record the Python that runs this test, as if it held torch: what it says is what is recorded."""
    held = ask(direct({}), sys.executable)
    changes = {"python": held.python, "packages": {"torch": "2", "transformers": "5", **held.packages}, "torch_record_sha256": None}
    spec = record_system(python=sys.executable, changes=changes, **more).spec
    lock = find_environment("system").lock
    lock.write_text("".join(f"{name}=={version}\n" for name, version in held.packages.items()))
    return spec


def test_a_recorded_one_is_used_as_it_is_until_it_changes(tmp_path: Path) -> None:
    spec = recorded_here()
    engine = engines.make("venv", Settings(cache=tmp_path / "cache"))
    locked = engine.prepare(spec, "cpu", lambda _: None)
    assert not locked.locked and locked == engine.find(spec, "cpu") and "pytest" in locked.packages
    assert isinstance(engine, VenvEngine) and engine.python(spec, "cpu") == Path(sys.executable)
    assert not (tmp_path / "cache").exists(), "nothing is made"
    lock = find_environment("system").lock
    lock.write_text(lock.read_text().replace(f"pytest=={locked.packages['pytest']}", "pytest==1.0"))
    assert engine.find(spec, "cpu") is None
    with pytest.raises(EnvironmentFailed, match=r"changed since it was recorded: pytest 1\.0, now "):
        engine.prepare(spec, "cpu", lambda _: None)


def test_one_recorded_from_an_image_is_refused(tmp_path: Path) -> None:
    spec = record_system(image="some/image:1").spec
    with pytest.raises(EnvironmentFailed, match=r"image some/image:1, which the venv engine cannot start[\s\S]*--engine docker"):
        engines.make("venv", Settings(cache=tmp_path)).prepare(spec, "cpu", lambda _: None)


@pytest.mark.parametrize("error", [FileNotFoundError, ImportError])
def test_a_recorded_one_needs_no_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def missing() -> str:
        raise error

    monkeypatch.setattr("uv.find_uv_bin", missing)
    engine = engines.make("venv", Settings(cache=tmp_path))
    assert "uv is missing" in (engine.unavailable() or "")
    record_system()
    assert engine.unavailable() is None
    with pytest.raises(EnvironmentFailed, match=r"Environment tf4\.40 cannot be made: uv is missing"):  # its cells alone are not run
        engine.prepare(load_environment("tf4.40"), "cpu", lambda _: None)


def test_a_job_gets_the_variables_that_were_recorded(tmp_path: Path) -> None:
    own = record_system(variables={"PYTHONPATH": "/apps/lib", "LD_LIBRARY_PATH": "/apps/lib64"}).spec
    for spec, path, library in ((own, "/root/code:/apps/lib", "/apps/lib64"), (load_environment("tf5"), "/root/code", None)):
        job = ContainerSpec(
            run="r", job="j", attempt=1, environment=spec, device="cpu", family=None, argv=(), mounts=(), scratch=tmp_path, log=tmp_path
        )
        found = job_environment(job, Path("/bin/python"), Path("/root"), home=tmp_path, temporary=tmp_path)
        assert (found["PYTHONPATH"], found.get("LD_LIBRARY_PATH")) == (path, library)
