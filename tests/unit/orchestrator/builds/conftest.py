"""A maker on an engine in memory, with builders that only write down what they were asked for."""

from pathlib import Path
from typing import Any

import pytest
from unit.orchestrator.builds.fakes import BASE, FakeApi, Workshop, environment_at

from longctx.orchestrator import environments
from longctx.orchestrator.builds import builder
from longctx.orchestrator.builds.make import Maker
from longctx.orchestrator.builds.recipe import Recipe
from longctx.orchestrator.engines.docker.client import Docker
from longctx.orchestrator.settings import Settings


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    api = FakeApi()
    settings = Settings(cache=tmp_path / "cache", base_cpu=BASE, base_cuda=BASE)
    environment = environment_at(tmp_path / "images" / "small", name="small")
    made = Workshop(api, Maker(docker=Docker(api), settings=settings), environment)
    monkeypatch.setattr(environments, "OWN", tmp_path / "images")

    def build(recipes: list[Recipe], settings: Settings, report: Any) -> None:
        made.built.append(list(recipes))
        for recipe in recipes:
            api.add(recipe.tag, recipe.labels)

    def build_thin(docker: Docker, recipe: Recipe, image: str, code: Path, settings: Settings) -> None:
        made.thin.append((recipe, image, code))
        api.add(recipe.tag, recipe.labels)

    monkeypatch.setattr(builder, "build", build)
    monkeypatch.setattr(builder, "build_thin", build_thin)
    return made
