"""What there is: methods, models, tasks and their requests."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from unit.orchestrator.builders import record_system
from unit.orchestrator.manifest.samples import write_samples

from longctx.orchestrator import listing
from longctx.orchestrator.catalog import Catalog
from longctx.orchestrator.errors import UsageError
from longctx.orchestrator.settings import Settings


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return write_samples(tmp_path_factory.mktemp("samples"))[0]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache=tmp_path / "cache", data=tmp_path / "data")


def shown(table: object) -> str:
    out = io.StringIO()
    Console(width=200, file=out).print(table)
    return out.getvalue()


def test_methods_a_line_each(catalog: Catalog) -> None:
    lines = shown(listing.methods_table(catalog)).strip().splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["full-kv", "quant", "sinks"]
    assert "tf5, tf4.40" in lines[0]


def test_a_method_s_page_says_everything(catalog: Catalog) -> None:
    page = listing.method_page(catalog.get("sinks"))
    for words in (
        "sinks: Sinks and a window", "Paper: https://arxiv.org/abs/2309.17453", "tf5 (family kv)", "half: {'keep': 0.5}",
        "keep (float, ≥ 0.01, ≤ 1, default 0.25): fraction of the bytes", "variant (str, one of pruned, windowed, default pruned)",
        "Takes: LlamaForCausalLM, MistralForCausalLM", "devices: cpu, cuda",
    ):  # fmt: skip
        assert words in page
    assert "bits (int, one of 2, 4, required): bits a value" in listing.method_page(catalog.get("quant"))
    assert "Paper" not in listing.method_page(catalog.get("quant"))


def test_models_and_whether_they_are_here(settings: Settings) -> None:
    text = shown(listing.models_table(settings))
    assert "smollm2-135m-instruct" in text
    assert " no" in text


def test_an_unknown_model_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"No model is called 'smollm2-135m-instrct'\.\n.*Did you mean 'smollm2-135m-instruct'\?"):
        listing.known_model("smollm2-135m-instrct")
    assert listing.known_model("smollm2-135m-instruct").name == "smollm2-135m-instruct"


def test_settings_on_the_command_line_are_yaml() -> None:
    found = listing.settings_of(["keep=0.25", "n = 3", "flag=true", "lengths={words: [256]}", "text=a=b", "none=null", "empty="])
    assert found == {
        "keep": 0.25, "n": 3, "flag": True, "lengths": {"words": [256]}, "text": "a=b", "none": None, "empty": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pair", "told"), [("keep", "is not name=value"), ("=1", "is not name=value"), ("a=[1", "the value cannot be read")]
)
def test_settings_that_cannot_be_read(pair: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        listing.settings_of([pair])


def test_an_unknown_task_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"No task is called 'passkey/defualt'\.\nKnown: .*Did you mean 'passkey/default'\?"):
        listing.find_eval("passkey/defualt")


def test_prompts_are_written_as_they_would_be_sent(tmp_path: Path, settings: Settings) -> None:
    out = tmp_path / "new" / "requests.jsonl"
    pairs = ("lengths={words: [30]}", "depths=[0.5]", "repeats=2")
    assert listing.write_prompts("passkey/default", pairs, 42, out, settings) == 2
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["w30-d0.5-r0", "w30-d0.5-r1"]
    assert all(row["prompt"].endswith("The pass key is ") and row["max_new_tokens"] == 16 for row in rows)
    again = tmp_path / "again.jsonl"
    listing.write_prompts("passkey/default", pairs, 42, again, settings)
    assert again.read_bytes() == out.read_bytes()
    listing.write_prompts("passkey/default", pairs, 43, again, settings)
    assert again.read_bytes() != out.read_bytes()


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        (("lengths={tokens: [256]}",), "depends on a model's tokenizer"),
        (("length=5",), "passkey/default: length: "),
        (("lengths={words: [1.5]}",), "Allowed: "),
        ((), "lengths: must be given"),
    ],
)
def test_wrong_parameters_are_named_and_nothing_is_written(tmp_path: Path, settings: Settings, pairs: tuple[str, ...], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        listing.write_prompts("passkey/default", pairs, 42, tmp_path / "out.jsonl", settings)
    assert list(tmp_path.iterdir()) == []


def test_a_method_says_where_the_hosts_own_python_serves_it(catalog: Catalog) -> None:
    method = catalog.get("full-kv")
    assert "on this host" not in listing.method_page(method)
    record_system()
    assert "  tf5 (family kv): on this host system\n" in listing.method_page(method)
