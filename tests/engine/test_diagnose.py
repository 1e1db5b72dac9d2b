"""``longctx doctor`` and ``longctx debug`` as a person starts them."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from longctx.orchestrator.settings import Settings

MANIFEST = """
name: probe
models: [{name: tiny, source: "random:tiny-llama", dtype: float32}]
methods: [{method: full-kv}]
evals:
  - task: passkey/default
    params: {lengths: {words: [20]}, depths: [0.1, 0.9], repeats: 1}
resources: {device: cpu, attention: sdpa}
timing: {per_bucket: 0}
"""
LONGCTX = [sys.executable, "-m", "longctx.orchestrator.cli"]


def longctx(folder: Path, settings: Settings, *arguments: str) -> "subprocess.CompletedProcess[str]":
    variables = os.environ | {"LONGCTX_CACHE": str(settings.cache), "LONGCTX_RUNS": str(folder / "runs"), "NO_COLOR": "1"}
    return subprocess.run([*LONGCTX, *arguments], cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=300)


def finished(folder: Path, settings: Settings, engine: str) -> None:
    (folder / "m.yaml").write_text(MANIFEST)
    ran = longctx(folder, settings, "run", "m.yaml", "--engine", engine)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.docker
def test_doctor_proves_every_line_of_docker_s_isolation_from_inside(tmp_path: Path, real_settings: Settings, tf5_image: None) -> None:
    done = longctx(tmp_path, real_settings, "doctor", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["engines"][0] == "docker"
    checks = {check["name"]: check for check in told["checks"] if check["part"] == "docker"}
    lines = [check for name, check in checks.items() if name.startswith("isolation: ")]
    assert len(lines) == 18
    assert {check["state"] for check in lines} == {"ok"}, lines
    assert checks["users"]["state"] == "ok"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.venv
def test_one_request_again_gives_the_very_answer_and_changes_no_cell(
    tmp_path: Path, real_settings: Settings, environment_python: Callable[[str], Path]
) -> None:
    environment_python("tf5")
    finished(tmp_path, real_settings, "venv")
    cells = {path: path.read_bytes() for path in (tmp_path / "runs/probe/cells").rglob("*") if path.is_file()}
    done = longctx(tmp_path, real_settings, "debug", "probe", "full-kv", "--request", "w20-d0.9-r0")
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout[done.stdout.index("{\n") :])
    [first] = [
        row
        for path in cells
        if path.name == "responses.jsonl"
        for row in map(json.loads, path.read_text().splitlines())
        if row["id"] == "w20-d0.9-r0"
    ]
    assert {key: again[key] for key in ("id", "text", "given_sha256", "kv")} == {
        key: first[key] for key in ("id", "text", "given_sha256", "kv")
    }
    assert {path: path.read_bytes() for path in cells} == cells
    wrong = longctx(tmp_path, real_settings, "debug", "probe", "kivi")
    assert wrong.returncode == 2 and "There are:\n  full-kv.tf5--tiny" in wrong.stderr


@pytest.mark.docker
def test_a_container_that_is_kept_and_a_shell_in_the_same_place(tmp_path: Path, real_settings: Settings, tf5_image: None) -> None:
    finished(tmp_path, real_settings, "docker")
    done = longctx(tmp_path, real_settings, "debug", "probe", "full-kv")
    assert done.returncode == 0 and '"id": "w20-d0.1-r0"' in done.stdout, done.stderr
    remove = done.stderr.splitlines()[-1].split()
    assert remove[:2] == ["docker", "rm"]
    assert subprocess.run(remove, capture_output=True, check=False).returncode == 0
    assert longctx(tmp_path, real_settings, "debug", "probe", "full-kv", "--shell").returncode == 2  # no terminal
    said = _typed(tmp_path, real_settings, "touch /x; id -u; exit 5\n")
    assert "Read-only file system" in said and "The shell ended with 5." in said
    assert "python -s -B -m runner --root /longctx" in said
    remove = said.splitlines()[-1].split()
    assert subprocess.run(remove, capture_output=True, check=False).returncode == 0


def _typed(folder: Path, settings: Settings, text: str) -> str:
    """Start a shell on a terminal of its own, type ``text`` when it asks, and return all that was shown."""
    ours, theirs = pty.openpty()
    variables = os.environ | {"LONGCTX_CACHE": str(settings.cache), "LONGCTX_RUNS": str(folder / "runs"), "TERM": "dumb"}
    command = [*LONGCTX, "debug", "probe", "full-kv", "--shell"]
    with subprocess.Popen(command, cwd=folder, env=variables, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True):
        os.close(theirs)
        said, typed = b"", False
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            said += piece
            if not typed and said.rstrip(b" ").endswith((b"$", b"#")):
                os.write(ours, text.encode())
                typed = True
    os.close(ours)
    return said.decode()
