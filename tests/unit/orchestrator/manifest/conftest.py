from pathlib import Path

import pytest
from unit.orchestrator.manifest.samples import Loader


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("samples")


@pytest.fixture(scope="session")
def _loader(samples: Path) -> Loader:
    return Loader(samples, samples)


@pytest.fixture
def load(_loader: Loader, tmp_path: Path) -> Loader:
    """Loads manifest text; every test has a folder of its own for it."""
    _loader.folder = tmp_path
    return _loader
