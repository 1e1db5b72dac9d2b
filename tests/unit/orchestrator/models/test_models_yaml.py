from pathlib import Path

import pytest
import yaml

import longctx
from longctx.orchestrator.contracts.manifest import ModelsFile
from longctx.orchestrator.models import check, resolve
from longctx.orchestrator.models.shapes import SHAPES
from longctx.orchestrator.settings import Settings

TEXT = (Path(longctx.__file__).parent / "manifests" / "models.yaml").read_text(encoding="utf-8")
MODELS = {model.name: model for model in ModelsFile.model_validate(yaml.safe_load(TEXT)).models}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_well_formed(name: str) -> None:
    assert check(MODELS[name]) is None


def test_every_random_shape_is_named_and_resolves(settings: Settings) -> None:
    random = [model for model in MODELS.values() if model.source.startswith("random:")]
    assert {model.source.partition(":")[2] for model in random} == set(SHAPES)
    for model in random:
        assert resolve(model, settings=settings, report=print, fetch=False).special


def test_one_model_with_two_rope_bases() -> None:
    plain, scaled = MODELS["llama3-8b-instruct"], MODELS["llama3-8b-instruct-rope-32x"]
    assert plain.source == scaled.source and plain.rope is None
    assert scaled.rope == {"rope_theta": 500000.0 * 32}


def test_editors_find_the_schema() -> None:
    assert TEXT.splitlines()[0] == "# yaml-language-server: $schema=../orchestrator/schemas/models.schema.json"
