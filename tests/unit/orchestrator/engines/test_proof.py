"""The probe started as a job, by an engine that is a plain process."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from longctx.orchestrator.contracts.outcome import Isolation
from longctx.orchestrator.engines import proof
from longctx.orchestrator.engines.base import ContainerSpec, Ended
from longctx.orchestrator.engines.venv import build_root
from longctx.orchestrator.environments import load_environment
from longctx.orchestrator.errors import EngineUnavailable


class Plain:
    """A process that isolates nothing and is done when it is asked."""

    isolation: Isolation = "none"
    isolation_detail: Mapping[str, bool] = {"network_none": False}

    def __init__(self, spec: ContainerSpec, code: int = 0, said: str | None = None) -> None:
        self.spec, self.code, self.said, self.left = spec, code, said, False

    def poll(self) -> Ended | None:
        root = self.spec.scratch / "root"
        root.mkdir(parents=True)
        build_root(root, self.spec)
        if self.said is None:
            arguments = [part.replace("{root}", str(root)) for part in self.spec.argv]
            variables = {"PATH": os.environ["PATH"], "A_SECRET": "x"}
            with self.spec.log.open("w") as log:
                subprocess.run([sys.executable, "-s", "-B", *arguments], stdout=log, env=variables, check=False)
        else:
            self.spec.log.write_text(self.said)
        return Ended(code=self.code)

    def terminate(self) -> None:
        raise AssertionError("nobody asks for this")

    kill = terminate

    def __enter__(self) -> "Plain":
        return self

    def __exit__(self, *_: object) -> None:
        self.left = True


def test_what_the_probe_met_is_read_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    started: list[Plain] = []

    def start(spec: ContainerSpec) -> Plain:
        started.append(Plain(spec))
        return started[-1]

    found = proof.prove(start, load_environment("tf5"), tmp_path / "doctor", limits_processes=False)
    lines = {line.line: line for line in found.lines}
    assert lines["no_other_jobs"][1::2] == (False, "read")
    assert lines["clean_environment"].saw == "here too: A_SECRET"
    assert lines["out_writable"].held is True
    assert (found.user, found.owner) == (os.getuid(), os.getuid())
    assert found.isolation == "none" and found.promised == {"network_none": False}
    assert started[0].left
    assert list((tmp_path / "doctor").iterdir()) == []


def test_forks_are_asked_for_only_where_an_engine_stops_them(tmp_path: Path) -> None:
    asked = []

    def start(spec: ContainerSpec) -> Plain:
        asked.append(json.loads(spec.argv[1]))
        return Plain(spec, said="nothing useful")

    for limits in (True, False):
        with pytest.raises(EngineUnavailable):
            proof.prove(start, load_environment("tf5"), tmp_path, limits_processes=limits)
    assert [one["forks"] for one in asked] == [10_000, 0]
    assert "PATH" not in asked[0]["variables"] and "HOME" not in asked[0]["variables"]


@pytest.mark.parametrize("said", ["", "Segmentation fault\n", "{}\n", '{"lines": [{"line": "x"}]}\n', "[1]\n"])
def test_a_probe_that_says_nothing_useful_is_an_error_with_its_last_words(said: str, tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"ended with code 139, and said: "):
        proof.prove(lambda spec: Plain(spec, code=139, said=said), load_environment("tf5"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_probe_that_hangs_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(Plain):
        def poll(self) -> Ended | None:
            return None

    monkeypatch.setattr(proof, "SECONDS", 0.05)
    hanging: list[Hanging] = []

    def start(spec: ContainerSpec) -> Hanging:
        hanging.append(Hanging(spec))
        return hanging[0]

    with pytest.raises(EngineUnavailable, match="did not end"):
        proof.prove(start, load_environment("tf5"), tmp_path)
    assert hanging[0].left
