"""Runs the checks of ``inside/`` by the Python of each environment: it has torch and transformers, and no pytest."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
MODULES = sorted(f"inside.{path.stem}" for path in (HERE / "inside").glob("test_*.py"))


@pytest.fixture(scope="module", params=["tf5", "tf4.40"])
def interpreter(request: pytest.FixtureRequest, environment_python: Callable[[str], Path]) -> Path:
    """Return an environment's Python. Before the test itself: only then may the real cache be looked into."""
    return environment_python(request.param)


@pytest.mark.venv
def test_inside(interpreter: Path) -> None:
    assert len(MODULES) >= 6
    paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "images", ROOT / "src", HERE))
    done = subprocess.run(
        [str(interpreter), "-m", "unittest", *MODULES],
        env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, timeout=550, check=False,
    )  # fmt: skip
    blocks = [block for block in done.stderr.split("=" * 70) if block.lstrip().startswith(("FAIL", "ERROR"))]
    assert done.returncode == 0, "\n".join(blocks) or done.stderr[-4000:]
    assert "Ran 0 tests" not in done.stderr
