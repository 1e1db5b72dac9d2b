"""The other files that people write: method.yaml, environment.yaml, models.yaml go through the same checks."""

from pathlib import Path

import pytest

from longctx.orchestrator.contracts.manifest import EnvironmentSpec, Manifest, MethodSpec, ModelsFile
from longctx.orchestrator.errors import ManifestError
from longctx.orchestrator.manifest.source import parse
from longctx.orchestrator.manifest.validate import validate

ENVIRONMENT = "name: tf5\nsummary: s\npython: ['3.11']\ntorch: {cpu: 2.13.0}\nimports: [torch]\n"
METHOD = """\
name: m
title: M
paper: null
summary: s
environments: [{name: tf5, entry: 'a.b:C'}]
accepts: ['*']
estimate: estimate:f
"""


@pytest.mark.parametrize(
    ("model", "text", "start"),
    [
        (EnvironmentSpec, ENVIRONMENT.replace("'3.11'", "3.10"), "f.yaml:3:10: python[0]: is a number; allowed: text"),
        (
            EnvironmentSpec,
            ENVIRONMENT.replace("cpu:", "gpu:"),
            "f.yaml:4:9: torch.gpu: unknown key; allowed: cpu, cuda; did you mean 'cpu'?",
        ),
        (
            EnvironmentSpec,
            ENVIRONMENT.replace("python: ['3.11']\n", ""),
            "f.yaml:1:1: python: is missing; allowed: acceptable minor versions",
        ),
        (
            MethodSpec,
            METHOD.replace("a.b:C", "a.b.C"),
            "f.yaml:5:35: environments[0].entry: 'a.b.C' has the wrong form; allowed: module:attribute",
        ),
        (
            MethodSpec,
            METHOD.replace("estimate:f", "estimate.py"),
            "f.yaml:7:11: estimate: 'estimate.py' has the wrong form; allowed: file:function",
        ),
        (MethodSpec, METHOD + "devices: [gpu]\n", "f.yaml:8:11: devices[0]: 'gpu' is not known; allowed: cpu, cuda"),
        (MethodSpec, METHOD + "batch: 1\n", "f.yaml:8:8: batch: is a whole number; allowed: true or false"),
        (
            MethodSpec,
            METHOD + "parameters:\n  keep: {type: real, meaning: m}\n",
            "f.yaml:9:16: parameters.keep.type: 'real' is not known; allowed: int, float, bool, str",
        ),
        (
            MethodSpec,
            METHOD + "parameters:\n  keep: {type: int, meaning: m, minimun: 4}\n",
            "f.yaml:9:33: parameters.keep.minimun: unknown key; allowed: type, default, meaning, minimum, maximum,",
        ),
        (
            ModelsFile,
            "models:\n  - {name: a, source: 'ftp:x'}\n",
            "f.yaml:2:23: models[0].source: 'ftp:x' has the wrong form; allowed: hf:repository@revision",
        ),
        (
            ModelsFile,
            "models:\n  - {name: a, source: 'hf:x/y', window: 0}\n",
            "f.yaml:2:41: models[0].window: 0 is out of range; allowed: at least 1",
        ),
    ],
)
def test_each_is_located(model: type[Manifest], text: str, start: str) -> None:
    with pytest.raises(ManifestError) as caught:
        validate(model, parse(text, "f.yaml"))
    assert str(caught.value).startswith(start)


def test_good_files_pass() -> None:
    assert validate(EnvironmentSpec, parse(ENVIRONMENT, "f.yaml")).torch == {"cpu": "2.13.0"}
    assert validate(MethodSpec, parse(METHOD, "f.yaml")).devices == ("cpu", "cuda")


def test_the_committed_environments_are_good() -> None:
    from longctx.orchestrator.catalog import PACKAGE
    from longctx.orchestrator.manifest.source import read_source

    files: list[Path] = sorted((PACKAGE / "images").glob("**/environment.yaml"))
    assert files
    for path in files:
        assert validate(EnvironmentSpec, read_source(path)).imports
