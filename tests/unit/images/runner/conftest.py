"""A staged job for every test, and the oldest Python that the runner supports."""

import shutil
import subprocess
from pathlib import Path

import pytest
from unit.images.runner.staging import Root, staged

MANAGED = sorted((Path.home() / ".pyenv" / "versions").glob("3.9.*/bin/python"))
"""Found while the home is still the caller's."""


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """An empty root with staged code."""
    return staged(tmp_path / "root")


@pytest.fixture
def python39() -> str:
    """The oldest Python that the runner supports."""
    for candidate in [shutil.which("python3.9"), *map(str, MANAGED)]:
        # A version manager's stand-in may be on PATH without the version behind it.
        if candidate and subprocess.run([candidate, "-c", ""], check=False, capture_output=True).returncode == 0:
            return candidate
    pytest.skip("no Python 3.9 here")
