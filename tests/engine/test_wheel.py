"""A wheel, installed where nothing else of the project is, runs the quickstart; and the quickstart shows what it promises."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import uv

from longctx.orchestrator.contracts.result import Result, Summary
from longctx.orchestrator.settings import Settings

pytestmark = [pytest.mark.venv, pytest.mark.timeout(1500)]

TOP = Path(__file__).parents[2]


def call(*command: str | Path, cwd: Path, **variables: str) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with the build backend of this environment, so that nothing is fetched for it."""
    out = tmp_path_factory.mktemp("dist")
    call(uv.find_uv_bin(), "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", out, TOP, cwd=out)
    (found,) = out.glob("*.whl")
    return found


def test_everything_lies_under_one_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"longctx"}
    for wanted in (
        "longctx/manifests/quickstart.yaml", "longctx/methods/full_kv/method.yaml", "longctx/images/tf5/requirements.lock",
        "longctx/images/runner/__main__.py", "longctx/evals/passkey/eval.py", "longctx/orchestrator/schemas/job.schema.json",
        "longctx/py.typed",
    ):  # fmt: skip
        assert wanted in names
    assert not [name for name in names if "__pycache__" in name or "_cache/" in name or "/tests/" in name]


def test_it_runs_the_quickstart_in_an_empty_folder(
    wheel: Path, tmp_path: Path, real_settings: Settings, environment_python: Callable[[str], Path]
) -> None:
    for name in ("tf5", "tf4.40"):
        environment_python(name)
    program = uv.find_uv_bin()
    call(program, "venv", "-q", "--python", sys.executable, tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    call(program, "pip", "install", "-q", "--python", python, "--require-hashes", "-r", TOP / "requirements/host.lock", cwd=tmp_path)
    call(program, "pip", "install", "-q", "--python", python, "--no-deps", wheel, cwd=tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    out = call(tmp_path / "venv/bin/longctx", "run", "quickstart", "--engine", "venv", cwd=empty, LONGCTX_CACHE=str(real_settings.cache))
    assert "streaming-llm{keep: 0.25}" in out
    summary = Summary.model_validate_json((empty / "runs/quickstart/summary.json").read_bytes())
    rows: dict[tuple[str, str], Result] = {(row.label, row.environment): row.result for row in summary.rows if row.result}
    assert len(rows) == 4
    for environment in ("tf5", "tf4.40"):
        full = rows[("full-kv", environment)]
        assert full.scores["exact"].mean == 1.0
        assert full.kv is not None
        assert full.kv.device == full.kv.full
    for label, depths in (("streaming-llm{keep: 0.5}", {"0.6", "0.9"}), ("streaming-llm{keep: 0.25}", {"0.9"})):
        kept = rows[(label, "tf5")]
        assert kept.kv is not None
        assert kept.kv.device == kept.kv.analytic
        found = {depth for depth, score in kept.by_axis["depth"].items() if score.mean}
        assert found == depths, f"{label} finds what its window holds and nothing else"
