"""Methods, models and an eval for tests of manifests: small, and independent of what the package itself offers."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longctx.evals.base import ParameterError, Size
from longctx.orchestrator.catalog import Catalog
from longctx.orchestrator.manifest.load import load_manifest
from longctx.orchestrator.manifest.selected import LoadedManifest

METHODS = {
    "full_kv": """\
        name: full-kv
        title: Full KV cache
        paper: null
        summary: Keeps everything. Gives up nothing.
        environments:
          - {name: tf5, family: kv, entry: 'methods.kv.family:Family', policy: 'methods.full_kv.policy:Policy'}
          - {name: tf4.40, family: full-kv-native, entry: 'methods.full_kv.native:Family'}
        accepts: ['*']
        estimate: estimate:kv_bytes
        """,
    "sinks": """\
        name: sinks
        title: Sinks and a window
        paper: https://arxiv.org/abs/2309.17453
        summary: Keeps the first and the last tokens. Gives up the middle.
        environments:
          - {name: tf5, family: kv, entry: 'methods.kv.family:Family', policy: 'methods.sinks.policy:Policy'}
        parameters:
          variant: {type: str, default: pruned, choices: [pruned, windowed], meaning: when the middle goes}
          keep: {type: float, default: 0.25, minimum: 0.01, maximum: 1, excludes: [tokens], meaning: fraction of the bytes}
          tokens: {type: int, minimum: 1, meaning: entries held}
          first: {type: int, default: 4, minimum: 0, meaning: first tokens kept}
          clone: {type: bool, default: true, meaning: free what is dropped}
        presets:
          half: {keep: 0.5}
        accepts: [LlamaForCausalLM, MistralForCausalLM]
        estimate: estimate:kv_bytes
        """,
    "quant": """\
        name: quant
        title: Quantised entries
        paper: null
        summary: Keeps codes. Gives up precision.
        environments:
          - {name: tf5, entry: 'methods.quant.family:Family'}
        parameters:
          bits: {type: int, required: true, choices: [2, 4], meaning: bits a value}
        accepts: ['*']
        devices: [cuda]
        extends_window: true
        estimate: estimate:kv_bytes
        """,
}
ESTIMATE = "def kv_bytes(config, tokens, params, dtype_bytes):\n    return config['width'] * tokens * dtype_bytes\n"
MODELS = """\
models:
  - {name: tiny, source: 'random:tiny-llama', dtype: float32}
  - {name: tiny-gemma, source: 'random:tiny-gemma2', window: 512}
"""


class Needle:
    """An eval with one parameter worth checking."""

    name = "needle"
    tasks = ("default", "deep")
    metric = "found"
    axes = ()
    summary = "finds a needle"

    def normalise(self, task: str, params: Mapping[str, Any]) -> dict[str, Any]:
        for key in params:
            if key not in ("words", "style"):
                raise ParameterError((key,), f"unknown parameter {key!r}", "", ("words", "style"))
        words = params.get("words", 100)
        if not isinstance(words, int) or not 10 <= words <= 10_000:
            raise ParameterError(("words",), f"{words!r} is not allowed", "a whole number from 10 to 10,000")
        if params.get("style", "noise") not in ("noise", "essay"):
            raise ParameterError(("style",), f"{params['style']!r} is not known", "", ("noise", "essay"))
        return {"words": words, "style": params.get("style", "noise")}

    def size(self, task: str, params: Mapping[str, Any], data: Path | None) -> Size:
        return Size(requests=3, least_tokens=params["words"], max_new_tokens=20)


class Registry:
    def names(self) -> tuple[str, ...]:
        return ("needle",)

    def get(self, name: str) -> Any:
        return {"needle": Needle()}[name]


def write_method(folder: Path, text: str, estimate: str = ESTIMATE) -> Path:
    folder.mkdir(parents=True)
    (folder / "method.yaml").write_text(textwrap.dedent(text))
    (folder / "estimate.py").write_text(estimate)
    return folder


def write_samples(root: Path) -> tuple[Catalog, Path]:
    """Write the methods and models.yaml below ``root``; return their catalog and the models file."""
    folders = [write_method(root / "methods" / name, text) for name, text in METHODS.items()]
    (root / "models.yaml").write_text(MODELS)
    return Catalog(folders), root / "models.yaml"


class Loader:
    """Loads manifest text as a file ``m.yaml`` of a folder of its own."""

    def __init__(self, samples: Path, folder: Path) -> None:
        self.catalog, self.models = write_samples(samples)
        self.folder = folder

    def __call__(self, text: str, **options: Any) -> LoadedManifest:
        path = self.folder / "m.yaml"
        path.write_text(textwrap.dedent(text))
        options = {"evals": Registry(), "model_files": [self.models], **options}
        return load_manifest(path, self.catalog, **options)
