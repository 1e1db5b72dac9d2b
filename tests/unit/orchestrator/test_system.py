"""Recording the host's own Python."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from unit.orchestrator.builders import HELD, answering, record_system

import longctx
from longctx.orchestrator import environments, system
from longctx.orchestrator.engines.host import pins
from longctx.orchestrator.errors import EnvironmentFailed, UsageError


def test_what_is_recorded() -> None:
    done = record_system(python="/host/python", variables={"LD_LIBRARY_PATH": "/host/lib"})
    found = environments.read_environment(done.folder)
    assert found.spec == done.spec
    assert (found.spec.python, found.spec.torch) == (("3.12",), {"cpu": "2.12.0+cu128", "cuda": "2.12.0+cu128"})
    assert found.spec.imports == environments.load_environment("tf5").imports
    own = found.spec.system
    assert own is not None and own.image is None
    assert (own.like, own.python, own.variables, own.torch_record_sha256) == (
        "tf5", "/host/python", {"LD_LIBRARY_PATH": "/host/lib"}, "b" * 64,
    )  # fmt: skip
    assert pins(found.lock.read_text()) == HELD and "--hash" not in found.lock.read_text()
    assert "3.12.4" in found.spec.summary and "2.12.0+cu128" in found.spec.summary
    assert done.notes == ("recorded from this shell, too: $LD_LIBRARY_PATH",)


def test_a_build_without_cuda_serves_the_cpu_alone() -> None:
    assert record_system(changes={"torch_cuda": None}).spec.torch == {"cpu": "2.12.0+cu128"}


def test_recording_again_replaces_what_was_there() -> None:
    record_system()
    record_system("tf4.40", changes={"packages": {"torch": "2.11.0", "transformers": "4.40.2"}})
    assert (environments.in_force("tf5"), environments.in_force("tf4.40")) == ("tf5", "system")
    assert pins(environments.find_environment("system").lock.read_text()) == {"torch": "2.11.0", "transformers": "4.40.2"}


def test_an_image_and_its_mounts_are_kept() -> None:
    own = record_system(image="nvcr.example/pytorch:1", mounts=("/models",)).spec.system
    assert own is not None and (own.image, own.mounts) == ("nvcr.example/pytorch:1", ("/models",))
    text = yaml.safe_load((environments.own_place() / "system" / "environment.yaml").read_text())
    assert text["system"]["mounts"] == ["/models"] and "in nvcr.example/pytorch:1" in text["summary"]


def test_what_most_models_do_without_may_lack() -> None:
    asked: list[Sequence[str]] = []

    def run(argv: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        asked.append(argv)
        if "sentencepiece" in argv:
            return subprocess.CompletedProcess(argv, 1, json.dumps({"failed": "sentencepiece", "error": "none"}), "")
        return answering()(argv)

    done = system.record("tf5", "/host/python", run=run)
    assert "sentencepiece" not in done.spec.imports and "jinja2" in done.spec.imports
    assert any("sentencepiece does not import" in note for note in done.notes)
    assert sum("torch" in argv for argv in asked) == 1, "torch takes long to import"


def test_what_every_job_imports_must_be_there() -> None:
    def run(argv: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        name = "torch" if "torch" in argv else None
        return subprocess.CompletedProcess(argv, 1, json.dumps({"failed": name, "error": "none"}), "") if name else answering()(argv)

    with pytest.raises(EnvironmentFailed, match=r"/host/python: importing torch fails: none[\s\S]*--python PATH"):
        system.record("tf5", "/host/python", run=run)
    assert environments.recorded() is None, "nothing is written"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"python": "3.8.20"}, r"Python 3\.8\.20; jobs need 3\.9"),
        ({"packages": {"torch": "2.0"}}, "transformers imports, but no installed"),
    ],
)
def test_what_cannot_serve_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(EnvironmentFailed, match=message):
        record_system(changes=changes)
    assert environments.recorded() is None


@pytest.mark.parametrize(
    ("version", "like", "notes"),
    [
        ("5.23.9", "tf5", ()),
        ("5.1.0", "tf5", ("transformers is 5.1.0, methods of tf5 were checked with 5.23.0: some may fail, or answer otherwise",)),
        ("4.51.0", "tf5", (
            "transformers is 4.51.0, methods of tf5 were checked with 5.23.0: some may fail, or answer otherwise; "
            "--like tf4.40 (4.40.2) is nearer",
        )),
    ],
)  # fmt: skip
def test_another_transformers_is_a_note(version: str, like: str, notes: tuple[str, ...]) -> None:
    assert record_system(like, changes={"packages": HELD | {"transformers": version}}).notes == notes


@pytest.mark.parametrize("like", ["tf6", "system"])
def test_it_stands_in_for_an_environment_of_longctx(like: str) -> None:
    record_system()
    with pytest.raises(UsageError, match=r"--like .*[\s\S]*tf4\.40, tf5\.$"):
        record_system(like)


def test_forgetting() -> None:
    assert system.forget() is None
    folder = record_system().folder
    assert system.forget() == folder and not folder.exists() and environments.in_force("tf5") == "tf5"


def test_the_python_is_found_and_a_link_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "python3"
    link.symlink_to(sys.executable)
    assert system.find_python(str(link)) == str(link)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert system.find_python(None) == str(link)
    monkeypatch.chdir(tmp_path)
    assert system.find_python("./python3") == str(link)
    with pytest.raises(UsageError, match="--python nope: there is no such program"):
        system.find_python("nope")
    link.unlink()
    with pytest.raises(UsageError, match="no python3 on"):
        system.find_python(None)


def test_only_what_a_module_system_sets_is_carried() -> None:
    assert system.carried({"LD_LIBRARY_PATH": "/lib", "PYTHONPATH": "", "HF_TOKEN": "secret"}) == {"LD_LIBRARY_PATH": "/lib"}


def test_paths_are_carried_absolute_and_without_longctx_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = Path(longctx.__file__).parent.parent
    assert system.carried({"PYTHONPATH": f"{own}:modules:"}) == {"PYTHONPATH": str(tmp_path / "modules")}
    assert system.carried({"PYTHONPATH": str(own)}) == {}
