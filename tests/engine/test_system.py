"""The host's own Python instead of an environment of longctx: recorded, used unchanged, refused once it changed, forgotten."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longctx.orchestrator.contracts.plan import Lock
from longctx.orchestrator.contracts.result import Summary

pytestmark = pytest.mark.venv

MANIFEST = """
name: probe
models: [{name: tiny, source: "random:tiny-llama", dtype: float32}]
methods:
  - method: full-kv
  - {method: streaming-llm, environment: tf5, params: {keep: 0.25}}
evals:
  - task: passkey/default
    params: {lengths: {words: [20]}, depths: [0.1, 0.9], repeats: 1}
resources: {device: cpu, attention: sdpa, threads: 1}
timing: {per_bucket: 1, new_tokens: 4}
"""

Longctx = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def longctx(tmp_path: Path) -> Longctx:
    """Run ``longctx`` on a host without any environment: settings and cache of its own, both empty, and no way to fetch."""
    (tmp_path / "config.yaml").write_text("offline: true\n")
    (tmp_path / "m.yaml").write_text(MANIFEST)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith(("LONGCTX_", "UV_"))}
    environment |= {
        "LONGCTX_CONFIG": str(tmp_path / "config.yaml"), "LONGCTX_CACHE": str(tmp_path / "cache"), "LONGCTX_RUNS": str(tmp_path / "runs"),
        "NO_COLOR": "1", "COLUMNS": "300",
    }  # fmt: skip

    def run(*arguments: str | Path, **variables: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "longctx.orchestrator.cli", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment | variables, capture_output=True, text=True, check=False, timeout=500)

    return run


def done(ran: "subprocess.CompletedProcess[str]") -> str:
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def cells(longctx: Longctx) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(done(longctx("plan", "m.yaml", "--json")))["cells"]
    return found


def test_methods_run_in_a_python_that_longctx_did_not_make(
    longctx: Longctx, tmp_path: Path, environment_python: Callable[[str], Path]
) -> None:
    python = environment_python("tf5")
    modules = tmp_path / "modules"
    install(modules, "six-of-one", "1.0")
    recorded = done(longctx("config", "system", "--python", python, PYTHONPATH=str(modules)))
    assert "transformers 5.23.0" in recorded and "recorded from this shell, too: $PYTHONPATH" in recorded
    out = done(longctx("run", "m.yaml", "--engine", "venv"))
    assert "system*: the host's own packages, recorded, not locked" in out and "making it" not in out
    assert not (tmp_path / "cache" / "environments").exists(), "nothing is installed"
    runs = tmp_path / "runs" / "probe"
    summary = Summary.model_validate_json((runs / "summary.json").read_bytes())
    assert summary.complete
    assert [(row.label, row.environment, row.locked) for row in summary.rows] == [
        ("full-kv", "system", False), ("streaming-llm{keep: 0.25}", "system", False),
    ]  # fmt: skip
    assert all(row.result and row.result.counts.scored == 2 and row.result.speed.headline for row in summary.rows)
    (locked,) = Lock.model_validate_json((runs / "lock.json").read_bytes()).environments
    assert (locked.name, locked.engine, locked.locked) == ("system", "venv", False)
    assert locked.packages.items() >= {"transformers": "5.23.0", "six-of-one": "1.0"}.items()
    assert locked.torch_record_sha256 is not None
    assert {(cell["environment"], cell["status"]) for cell in cells(longctx)} == {("system", "REUSE")}

    shutil.rmtree(modules)
    install(modules, "six-of-one", "2.0")
    assert "Nothing to run" in done(longctx("run", "m.yaml")), "what was answered before stays true"
    (tmp_path / "m.yaml").write_text(MANIFEST.replace("words: [20]", "words: [20, 30]"))
    drifted = longctx("run", "m.yaml")
    assert drifted.returncode == 6
    assert "Environment system changed since it was recorded: six-of-one 1.0, now 2.0." in drifted.stderr
    assert f"longctx config system --like tf5 --python {python}" in drifted.stderr

    done(longctx("config", "system", "--remove"))
    assert {(cell["environment"], cell["status"]) for cell in cells(longctx)} == {("tf5", "NEW")}


def install(place: Path, name: str, version: str) -> None:
    """Put a package of that version there, as far as its metadata goes."""
    info = place / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
