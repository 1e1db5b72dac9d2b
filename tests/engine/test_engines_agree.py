"""One manifest on two engines: the same ids are given, the same texts come out, and each says how far it isolated."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from longctx.orchestrator.contracts.result import Summary
from longctx.orchestrator.settings import Settings

pytestmark = [pytest.mark.docker, pytest.mark.venv]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, real_settings: Settings, environment_python: Callable[[str], Path]) -> Path:
    """Run the smoke manifest on both engines and return the folder of runs."""
    for name in ("tf5", "tf4.40"):
        environment_python(name)
    folder = tmp_path_factory.mktemp("engines")
    environment = os.environ | {"LONGCTX_CACHE": str(real_settings.cache), "LONGCTX_RUNS": str(folder / "runs"), "NO_COLOR": "1"}
    for engine in ("docker", "venv"):
        command = [sys.executable, "-m", "longctx.orchestrator.cli", "run", "smoke", "--engine", engine, "--name", engine, "--fresh"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs"


def answers(run: Path) -> dict[tuple[str, str], tuple[str, str, str]]:
    """Return given ids' hash, text and finish by (cell, request)."""
    found = {}
    for path in (run / "cells").glob("*/responses.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            found[(path.parent.name, row["id"])] = (row["given_sha256"], row["text"], row["finish"])
    return found


def test_ids_and_texts_are_the_same(runs: Path) -> None:
    docker, venv = answers(runs / "docker"), answers(runs / "venv")
    assert len(docker) == 12
    assert docker == venv


def test_each_says_how_far_it_isolated(runs: Path) -> None:
    for engine, isolation in (("docker", "full"), ("venv", "partial")):
        summary = Summary.model_validate_json((runs / engine / "summary.json").read_text())
        results = [row.result for row in summary.rows]
        assert {(one.engine, one.isolation) for one in results if one} == {(engine, isolation)}
        assert summary.complete


def test_nothing_is_left_behind(runs: Path) -> None:
    import docker

    client = docker.from_env()
    try:
        assert client.containers.list(all=True, filters={"label": "longctx.run=docker"}) == []
    finally:
        client.close()
