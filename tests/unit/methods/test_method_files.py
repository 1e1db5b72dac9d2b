"""What the host reads of the built-in methods: method.yaml and estimate.py."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from longctx.orchestrator.code import folders
from longctx.orchestrator.contracts.manifest import MethodSpec

METHODS = Path(__file__).parents[3] / "methods"
NAMES = sorted(path.parent.name for path in METHODS.glob("*/method.yaml"))

SMOLLM2 = {
    "model_type": "llama", "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576,
}  # fmt: skip


def spec_of(name: str) -> MethodSpec:
    return MethodSpec.model_validate(yaml.safe_load((METHODS / name / "method.yaml").read_text(encoding="utf-8")))


def estimate_of(name: str) -> Callable[..., int]:
    module_name, _, function = spec_of(name).estimate.partition(":")
    spec = importlib.util.spec_from_file_location(f"estimate_{name}", METHODS / name / f"{module_name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[..., int] = getattr(module, function)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_method_yaml(name: str) -> None:
    spec = spec_of(name)
    assert spec.name.replace("-", "_") == name
    assert summary_sentences(spec.summary) == 2
    for environment in spec.environments:
        found = folders(environment, METHODS / name)
        assert "kv" in found, "the decode loop must be staged too"
        for dotted in filter(None, (environment.entry, environment.policy)):
            module = dotted.partition(":")[0]
            assert (METHODS.parent / (module.replace(".", "/") + ".py")).is_file()


def summary_sentences(text: str) -> int:
    return sum(text.count(mark) for mark in (". ", ".\n")) + text.rstrip().endswith(".")


@pytest.mark.parametrize(
    ("name", "tokens", "params", "expected"),
    [
        ("full_kv", 1195, {}, 27_532_800),
        ("kivi", 1195, {"bits": 2}, 6_762_960),
        ("flexgen", 1195, {}, 1195 * 30 * 3 * 2 * 36),
        ("flexgen", 1195, {"simulated": True}, 27_532_800),
        ("streaming_llm", 1195, {"keep": 0.5}, 13_754_880),
        ("streaming_llm", 1195, {"keep": 0.25}, 6_865_920),
        ("streaming_llm", 1195, {"tokens": 5000}, 27_532_800),
        ("streaming_llm", 3, {"keep": 0.1, "sinks": 4}, 23_040),
    ],
)
def test_estimates(name: str, tokens: int, params: dict[str, Any], expected: int) -> None:
    assert estimate_of(name)(SMOLLM2, tokens, params, 2) == expected


@pytest.mark.parametrize(
    ("extra", "entries"),
    [
        ({"model_type": "mistral", "sliding_window": 8}, 4 * 7),
        ({"model_type": "mistral", "sliding_window": None}, 4 * 20),
        ({"model_type": "gemma2", "sliding_window": 8}, 2 * 7 + 2 * 20),
        ({"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": False}, 4 * 20),
        ({"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": True, "max_window_layers": 3}, 7 + 3 * 20),
        ({"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"] * 2}, 2 * 7 + 2 * 20),
    ],
)
def test_sliding_layers_are_bounded(extra: dict[str, Any], entries: int) -> None:
    config = {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "hidden_size": 999, **extra}
    assert estimate_of("full_kv")(config, 20, {}, 2) == entries * 2 * 2 * 8 * 2
    sliding = (4 * 20 - entries) // (20 - 7)
    streaming = estimate_of("streaming_llm")
    assert streaming(config, 20, {"tokens": 16}, 2) == (sliding * 7 + (4 - sliding) * 16) * 2 * 2 * 8 * 2
    assert streaming(config, 20, {"tokens": 10}, 2) == 4 * 10 * 2 * 2 * 8 * 2
