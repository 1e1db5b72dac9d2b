"""Style and types of the whole tree, by the tools' own judgement."""

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "--no-cache", "."), ("ruff", "format", "--no-cache", "--check", "."), ("mypy",)],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_tools_find_nothing(command: tuple[str, ...], tmp_path: Path) -> None:
    if not (TOP / "pyproject.toml").exists():
        pytest.skip("not in a checkout")
    arguments = [*command[1:], "--cache-dir", str(tmp_path)] if command[0] == "mypy" else [*command[1:]]
    done = subprocess.run([sys.executable, "-m", command[0], *arguments], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
