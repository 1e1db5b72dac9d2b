"""What the model tests share: settings in a folder of their own, and a small GGUF file."""

from pathlib import Path
from typing import Any

import pytest

from longctx.orchestrator.contracts.manifest import ModelSpec
from longctx.orchestrator.settings import Settings

from .tiny_gguf import random_weights, write_gguf


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache=tmp_path / "cache")


def spec(source: str, **more: Any) -> ModelSpec:
    return ModelSpec(name="a-model", source=source, **more)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    """A whole tiny model as float32 GGUF."""
    return write_gguf(tmp_path / "tiny.gguf", random_weights())
