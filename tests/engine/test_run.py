"""The main job as a person starts it: real processes in real environments, on a tiny model with random weights."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longctx.orchestrator.contracts.result import Summary
from longctx.orchestrator.settings import Settings

pytestmark = pytest.mark.venv

MANIFEST = """
name: probe
models: [{name: tiny, source: "random:tiny-llama", dtype: float32}]
methods:
  - method: full-kv
  - method: streaming-llm
    params: {keep: KEEP}
evals:
  - task: passkey/default
    params: {lengths: {words: WORDS}, depths: [0.1, 0.5, 0.9], repeats: 2}
resources: {device: cpu, attention: sdpa, batch: BATCH}
timing: {per_bucket: PER_BUCKET, new_tokens: 4}
engine: venv
"""


def manifest(
    folder: Path, *, keep: str = "[0.25]", words: str = "[20, 40]", batch: int = 1, per_bucket: int = 1, name: str = "m.yaml"
) -> Path:
    text = MANIFEST.replace("KEEP", keep).replace("WORDS", words).replace("BATCH", str(batch)).replace("PER_BUCKET", str(per_bucket))
    (folder / name).write_text(text)
    return folder / name


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, real_settings: Settings, environment_python: Callable[[str], Path]) -> Start:
    """Start ``longctx`` in an empty folder with the environments that the tests share."""
    environment_python("tf5")
    environment = os.environ | {"LONGCTX_CACHE": str(real_settings.cache), "LONGCTX_RUNS": str(tmp_path / "runs"), "NO_COLOR": "1"}

    def run(*arguments: str | Path) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "longctx.orchestrator.cli", *map(str, arguments)]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return run


def finish(process: "subprocess.Popen[str]", code: int = 0) -> str:
    out, err = process.communicate(timeout=500)
    assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
    return out + err


def answers(runs: Path, name: str = "probe") -> dict[str, list[dict[str, Any]]]:
    """Return every cell's responses without their times, by the cell's folder."""
    found = {}
    for path in sorted((runs / name / "cells").glob("*/responses.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.parent.name] = [{key: value for key, value in row.items() if key != "time"} for row in rows]
    return found


def statuses(out: str) -> list[str]:
    return [cell["status"] for cell in json.loads(out)["cells"]]


def test_a_run_scores_and_a_second_one_reuses(start: Start, tmp_path: Path) -> None:
    path = manifest(tmp_path)
    out = finish(start("run", path))
    assert "streaming-llm{keep: 0.25}" in out
    summary = Summary.model_validate_json((tmp_path / "runs/probe/summary.json").read_bytes())
    assert summary.complete
    rows = {row.label: row.result for row in summary.rows}
    full, kept = rows["full-kv"], rows["streaming-llm{keep: 0.25}"]
    assert full is not None and kept is not None and full.kv is not None and kept.kv is not None
    assert full.counts.scored == kept.counts.scored == 12
    assert full.kv.device == full.kv.full == full.kv.analytic
    assert kept.kv.device == kept.kv.analytic
    assert kept.kv.ratio == pytest.approx(4, rel=0.02)
    assert full.speed.headline is not None and full.speed.headline.decode_tokens_per_s
    assert full.isolation == "partial"
    before = {file: file.read_bytes() for file in (tmp_path / "runs/probe/cells").rglob("*.json*")}
    again = finish(start("run", path))
    assert "Nothing to run" in again
    assert before == {file: file.read_bytes() for file in (tmp_path / "runs/probe/cells").rglob("*.json*")}
    assert set(statuses(finish(start("plan", path, "--json")))) == {"REUSE"}


def test_extending_runs_only_what_is_new(start: Start, tmp_path: Path) -> None:
    finish(start("run", manifest(tmp_path)))
    first = answers(tmp_path / "runs")
    path = manifest(tmp_path, keep="[0.25, 0.5]", words="[20, 40, 60]")
    plan = json.loads(finish(start("plan", path, "--json")))
    assert {(cell["label"], cell["status"], cell["missing"]) for cell in plan["cells"]} == {
        ("full-kv", "EXTEND", 6), ("streaming-llm{keep: 0.25}", "EXTEND", 6), ("streaming-llm{keep: 0.5}", "NEW", 18),
    }  # fmt: skip
    finish(start("run", path))
    second = answers(tmp_path / "runs")
    for cell, rows in first.items():
        assert second[cell][: len(rows)] == rows
        assert len(second[cell]) == 18
    job = sorted((tmp_path / "runs/probe/jobs/kv.tf5--tiny").iterdir())[-1]
    for batches in (job / "in").glob("*.jsonl"):
        assert len(batches.read_text().splitlines()) == (18 if "0.5" in batches.name else 6)


def test_a_sibling_run_is_reused(start: Start, tmp_path: Path) -> None:
    path = manifest(tmp_path)
    finish(start("run", path))
    out = finish(start("run", path, "--name", "other"))
    assert "Nothing to run" in out
    assert answers(tmp_path / "runs", "other") == answers(tmp_path / "runs")


@pytest.mark.parametrize("batch", [1, 4])
def test_killed_anywhere_it_resumes_to_the_same_bytes(start: Start, tmp_path: Path, batch: int) -> None:
    path = manifest(tmp_path, words="[20, 40, 60, 80]", batch=batch, per_bucket=0)
    finish(start("run", path, "--name", "whole"))
    wanted = answers(tmp_path / "runs", "whole")
    (tmp_path / "runs/whole").rename(tmp_path / "elsewhere")
    moments = random.Random(batch)
    for _ in range(10):
        process = start("run", path)
        time.sleep(moments.uniform(0.5, 7))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    finish(start("run", path))
    assert answers(tmp_path / "runs") == wanted
    assert not subprocess.run(["pgrep", "-f", f"worker --plan {tmp_path}"], capture_output=True, check=False).stdout


def test_ctrl_c_keeps_answers_and_says_how_to_resume(start: Start, tmp_path: Path) -> None:
    path = manifest(tmp_path, words="[100, 200, 300, 400, 500]", per_bucket=0)
    process = start("run", path)
    until = time.monotonic() + 120
    while time.monotonic() < until and not list((tmp_path / "runs").glob("probe/jobs/kv*/1/out/*.responses.jsonl")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out = finish(process, 130)
    assert "Resume: longctx run" in out
    kept = answers(tmp_path / "runs")
    assert 0 < sum(map(len, kept.values())) < 60
    finish(start("run", path))
    assert all(len(rows) == 30 for rows in answers(tmp_path / "runs").values())


def test_shards_give_the_same_answers(start: Start, tmp_path: Path) -> None:
    path = manifest(tmp_path, batch=2)
    finish(start("run", path, "--name", "whole"))
    wanted = answers(tmp_path / "runs", "whole")
    (tmp_path / "runs/whole").rename(tmp_path / "elsewhere")
    path.write_text(path.read_text().replace("batch: 2", "batch: 2, shards: 2, parallel: 2"))
    finish(start("run", path))
    assert answers(tmp_path / "runs") == wanted


def test_a_full_disk_is_told_and_loses_nothing(start: Start, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    runs = tmp_path / "runs"
    runs.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(runs)], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        path = manifest(tmp_path, per_bucket=0)
        process = start("run", path)
        out, err = process.communicate(timeout=300)
        assert process.returncode in (8, 10), out + err
        assert "space" in (out + err).lower()
        subprocess.run(["mount", "-o", "remount,size=64m", str(runs)], check=True)
        finish(start("run", path))
        assert all(len(rows) == 12 for rows in answers(runs).values())
    finally:
        subprocess.run(["umount", "-l", str(runs)], check=True)


def test_a_second_process_is_kept_out(start: Start, tmp_path: Path) -> None:
    path = manifest(tmp_path, words="[300, 400]")
    first = start("run", path)
    until = time.monotonic() + 60
    while time.monotonic() < until and not (tmp_path / "runs/probe/.lock").exists():
        time.sleep(0.02)
    assert "in use by another process" in finish(start("run", path), 9)
    finish(first)


def test_try_streams_one_prompt(start: Start, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("The sky is blue. " * 20)
    out = finish(
        start(
            "try",
            "streaming-llm",
            "random:tiny-llama",
            "--prompt",
            "prompt.txt",
            "--set",
            "keep=0.5",
            "--max-new-tokens",
            "8",
            "--engine",
            "venv",
        )
    )
    assert "8 generated" in out
    assert "2.0" in out


def test_an_environment_that_cannot_be_had_stops_only_itself(start: Start, tmp_path: Path) -> None:
    """tf4.40 wants Python 3.11 or 3.12; where uv finds none and may fetch none, its row says so and the rest goes on."""
    path = manifest(tmp_path)
    text = path.read_text().replace("  - method: full-kv\n", "  - method: full-kv\n  - method: full-kv\n    environment: tf4.40\n")
    path.write_text(text)
    process = start("run", path)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, out + err
    summary = Summary.model_validate_json((tmp_path / "runs/probe/summary.json").read_bytes())
    assert {row.environment for row in summary.rows} == {"tf5", "tf4.40"}
