"""The committed schemas, and the golden examples that show what each document looks like."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from longctx.orchestrator import schema
from longctx.orchestrator.catalog import PACKAGE
from longctx.orchestrator.errors import UsageError
from longctx.orchestrator.manifest.source import read_source

GOLDEN = Path(__file__).parents[2] / "golden"


def documents(name: str) -> list[tuple[str, str]]:
    """Return the golden examples of a document as text, one by one, each with its place."""
    lines = GOLDEN / f"{name}.jsonl"
    if lines.exists():
        return [(f"{lines.name}:{number}", line) for number, line in enumerate(lines.read_text(encoding="utf-8").splitlines(), 1)]
    whole = GOLDEN / f"{name}.json"
    return [(whole.name, whole.read_text(encoding="utf-8"))]


ALL = [pytest.param(name, text, id=place) for name in schema.DOCUMENTS for place, text in documents(name)]


@functools.cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema.generate(name))


@pytest.mark.parametrize("name", schema.DOCUMENTS)
def test_the_committed_schema_is_the_contract(name: str) -> None:
    path = schema.file_of(name)
    assert path.exists(), "run `longctx schema --write`"
    assert path.read_text(encoding="utf-8") == schema.text_of(name), "the contract changed: run `longctx schema --write`"
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text(encoding="utf-8")))


def test_every_schema_has_a_document_and_a_golden_example() -> None:
    assert {path.name for path in schema.FOLDER.glob("*.json")} == {f"{name}.schema.json" for name in schema.DOCUMENTS}
    assert {path.stem for path in GOLDEN.glob("*.json*")} == set(schema.DOCUMENTS)


def test_writing_removes_what_is_stale(tmp_path: Path) -> None:
    (tmp_path / "old.schema.json").write_text("{}")
    files = schema.write_all(tmp_path)
    assert set(tmp_path.iterdir()) == set(files)
    assert all(path.read_bytes() == schema.file_of(path.name.removesuffix(".schema.json")).read_bytes() for path in files)


def test_an_unknown_document_is_named() -> None:
    with pytest.raises(UsageError, match="no document is called 'manifst'; did you mean 'manifest'"):
        schema.generate("manifst")


@pytest.mark.parametrize(("name", "text"), ALL)
def test_golden_examples_pass_both_ways_and_come_back_byte_for_byte(name: str, text: str) -> None:
    adapter = schema.adapter(name)
    document = adapter.validate_json(text)
    validator(name).validate(json.loads(text))
    written = adapter.dump_json(document, indent=1 if "\n" in text else None).decode()
    assert written + ("\n" if "\n" in text else "") == text


def broken(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield copies of a document, each with one thing wrong at one place: an unknown key, or a value of another kind."""
    if isinstance(value, dict):
        yield "an unknown key", {**value, "no such key": 1}
        for key, inner in value.items():
            for what, other in broken(inner):
                yield f"{key}: {what}", {**value, key: other}
    elif isinstance(value, list):
        yield "no list", {"not": "a list"}
        for index, inner in enumerate(value[:2]):
            for what, other in broken(inner):
                yield f"{index}: {what}", [*value[:index], other, *value[index + 1 :]]
    else:
        yield "a list", [[value]]


FREE = {"params", "rope", "config", "environment_seen", "gpus", "template_kwargs", "axes", "metrics", "presets", "isolation_detail"}
"""Keys below which any key, or any plain value, may stand."""


@pytest.mark.parametrize(("name", "text"), ALL)
def test_a_golden_example_with_one_thing_wrong_is_refused_by_both(name: str, text: str) -> None:
    adapter, schema_validator = schema.adapter(name), validator(name)
    tried: set[tuple[str, ...]] = set()
    for what, document in broken(json.loads(text)):
        place = tuple(part for part in what.split(": ") if not part.isdigit())
        if set(place[:-1]) & FREE or place in tried:
            continue
        with pytest.raises(ValidationError):
            adapter.validate_json(json.dumps(document))
        assert not schema_validator.is_valid(document), what
        tried.add(place)
    assert len(tried) > 3


@pytest.mark.parametrize("path", sorted((PACKAGE / "manifests").glob("*.yaml")), ids=lambda path: path.name)
def test_committed_manifests_fit_the_schema_that_their_first_line_names(path: Path) -> None:
    header = path.read_text(encoding="utf-8").splitlines()[0]
    start = "# yaml-language-server: $schema="
    assert header.startswith(start)
    named = (path.resolve().parent / header.removeprefix(start)).resolve()
    assert named.parent == schema.FOLDER.resolve()
    jsonschema.Draft202012Validator(json.loads(named.read_text(encoding="utf-8"))).validate(read_source(path).data)


@pytest.mark.parametrize("name", ["quickstart", "smoke"])
def test_the_first_manifests_load_and_expand(name: str) -> None:
    from longctx.orchestrator.catalog import find_catalog
    from longctx.orchestrator.manifest.expand import expand
    from longctx.orchestrator.manifest.load import load_manifest

    loaded = load_manifest(PACKAGE / "manifests" / f"{name}.yaml", find_catalog({}))
    found = expand(loaded, lambda model: "LlamaForCausalLM", "cpu")
    assert {(cell.variant.method.name, cell.variant.environment.name) for cell in found.cells} == {
        ("full-kv", "tf5"), ("full-kv", "tf4.40"), ("streaming-llm", "tf5"),
    }  # fmt: skip
    assert found.absent == ()
