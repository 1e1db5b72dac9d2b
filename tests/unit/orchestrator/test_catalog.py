import importlib.metadata
import os
import sys
from pathlib import Path

import pytest
from unit.orchestrator.manifest.samples import METHODS, write_method, write_samples

from longctx.orchestrator.catalog import PACKAGE, BadParametersError, Catalog, Method, bind, find_catalog, read_method, search_path
from longctx.orchestrator.errors import ManifestError


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return write_samples(tmp_path)[0]


def test_methods_are_found_by_name(catalog: Catalog) -> None:
    assert catalog.names() == ("full-kv", "quant", "sinks")
    assert catalog.get("sinks").spec.title == "Sinks and a window"
    assert catalog.broken() == ()


def test_an_unknown_name_lists_the_methods(catalog: Catalog) -> None:
    with pytest.raises(ManifestError, match="no method is called 'ful-kv'; there are: full-kv, quant, sinks; did you mean 'full-kv'"):
        catalog.get("ful-kv")


def test_nothing_is_read_before_the_first_question(tmp_path: Path) -> None:
    catalog = Catalog([tmp_path / "none"])
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "method.yaml").write_text(METHODS["full_kv"].replace("        ", ""))
    (tmp_path / "none" / "estimate.py").write_text("")
    assert catalog.names() == ("full-kv",)


def test_the_package_path_and_entry_points_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_samples(tmp_path / "one")
    (tmp_path / "two").mkdir()
    folder = write_method(tmp_path / "site" / "outside_package" / "deep", METHODS["full_kv"].replace("full-kv\n", "outside\n"))
    (tmp_path / "site" / "outside_package" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    entries = [importlib.metadata.EntryPoint("outside", "outside_package.deep", "longctx.methods")]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [entry for entry in entries if entry.group == group])
    monkeypatch.setattr("longctx.orchestrator.catalog.PACKAGE", tmp_path / "package")
    write_method(tmp_path / "package" / "methods" / "inside", METHODS["full_kv"].replace("full-kv\n", "inside\n"))
    catalog = find_catalog({"LONGCTX_PATH": os.pathsep.join([str(tmp_path / "one"), "", str(tmp_path / "two")])})
    assert catalog.names() == ("full-kv", "inside", "outside", "quant", "sinks")
    assert catalog.get("outside").folder == folder
    assert "outside_package" not in sys.modules


def test_an_entry_point_without_a_method_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [importlib.metadata.EntryPoint("bad", "json", "longctx.methods")]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: entries)
    with pytest.raises(ManifestError, match=r"the entry point 'bad' of longctx\.methods names json, beside which no method\.yaml lies"):
        find_catalog({})


def test_a_folder_on_the_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"LONGCTX_PATH: .*/none is not a folder"):
        search_path({"LONGCTX_PATH": str(tmp_path / "none")})


def test_a_folder_found_twice_is_one_method(tmp_path: Path) -> None:
    write_method(tmp_path / "methods" / "sinks", METHODS["sinks"])
    path = os.pathsep.join([str(tmp_path), str(tmp_path / "methods" / "..")])
    assert "sinks" in find_catalog({"LONGCTX_PATH": path}).names()


def test_a_clash_names_both_folders(tmp_path: Path) -> None:
    folders = [write_method(tmp_path / name, METHODS["full_kv"]) for name in ("one", "two")]
    with pytest.raises(ManifestError) as caught:
        Catalog(folders).names()
    assert all(str(folder) in str(caught.value) for folder in folders)


def test_a_broken_method_stops_only_itself(tmp_path: Path) -> None:
    good = write_method(tmp_path / "full_kv", METHODS["full_kv"])
    bad = write_method(tmp_path / "my_method", METHODS["sinks"].replace("title:", "titel:"))
    catalog = Catalog([bad, good])
    assert catalog.names() == ("full-kv",)
    ((folder, error),) = catalog.broken()
    assert folder == bad
    assert "method.yaml:2:1: titel: unknown key" in str(error)
    with pytest.raises(ManifestError, match="did you mean 'title'"):
        catalog.get("my-method")


BAD_SPECS = {
    "a default out of range": ("default: 0.25", "default: 2", "9:32: parameters.keep.default: 2 is out of range; allowed: a number"),
    "a default of another type": ("default: 4,", "default: x,", "first.default: 'x' has the wrong type"),
    "a default and required": ("first: {type: int,", "first: {required: true, type: int,", "first.required: a parameter with a default"),
    "excludes nothing there": ("[tokens]", "[token]", "keep.excludes[0]: 'token' is no other parameter; allowed: variant,"),
    "a preset's name": ("half: {keep:", "half: {kept:", "presets.half.kept: unknown parameter of sinks"),
    "a preset's value": ("half: {keep: 0.5", "half: {keep: 5", "presets.half.keep: 5 is out of range"),
    "a preset against itself": ("half: {keep: 0.5", "half: {keep: 0.5, tokens: 4", "presets.half.tokens: 'keep' and 'tokens' exclude"),
    "an estimate that is not there": ("estimate: estimate:", "estimate: other:", "estimate: other.py does not lie beside method.yaml"),
    "an environment twice": (
        "environments:\n", "environments:\n          - {name: tf5, entry: 'a:b'}\n", "environments[1].name: 'tf5' stands twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SPECS)
def test_a_spec_must_agree_with_itself(case: str, tmp_path: Path) -> None:
    old, new, message = BAD_SPECS[case]
    assert old in METHODS["sinks"]
    with pytest.raises(ManifestError) as caught:
        read_method(write_method(tmp_path / "m", METHODS["sinks"].replace(old, new)))
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'm' / 'method.yaml'}:")


def test_binding_fills_in_and_drops_what_is_excluded(catalog: Catalog) -> None:
    method = catalog.get("sinks")
    assert method.bind() == {"variant": "pruned", "keep": 0.25, "tokens": None, "first": 4, "clone": True}
    assert method.bind(None, {"tokens": 64})["keep"] is None
    assert method.bind("half", {"first": 0})["keep"] == 0.5
    assert method.bind(None, {"tokens": None, "keep": 0.5})["keep"] == 0.5
    assert list(method.bind()) == list(method.spec.parameters)


def test_binding_tells_every_mistake_at_once(catalog: Catalog) -> None:
    with pytest.raises(BadParametersError) as caught:
        bind(catalog.get("sinks").spec, None, {"kept": 1, "first": -1})
    assert [problem.path for problem in caught.value.problems] == [("params", "kept"), ("params", "first")]
    assert "sinks: kept: unknown parameter of sinks; allowed: variant, keep, tokens, first, clone; did you mean 'keep'?" in str(
        caught.value
    )


def test_a_required_parameter_may_be_left_to_the_preset(tmp_path: Path) -> None:
    text = METHODS["quant"].rstrip(" ") + "        presets:\n          small: {bits: 2}\n"
    assert read_method(write_method(tmp_path / "m", text)).bind("small") == {"bits": 2}


def estimate(folder: Path, code: str) -> Method:
    return read_method(write_method(folder / "m", METHODS["full_kv"], code))


def test_the_estimate_is_asked_with_config_and_parameters(catalog: Catalog) -> None:
    assert catalog.get("sinks").estimate({"width": 3}, 100, {"keep": 1.0}, 2) == 600


def test_two_methods_have_estimates_of_their_own(tmp_path: Path) -> None:
    one = read_method(write_method(tmp_path / "one", METHODS["full_kv"], "def kv_bytes(c, t, p, d):\n    return 1\n"))
    two = read_method(write_method(tmp_path / "two", METHODS["full_kv"], "def kv_bytes(c, t, p, d):\n    return 2.4\n"))
    assert (one.estimate({}, 1, {}, 1), two.estimate({}, 1, {}, 1)) == (1, 2)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import torch_that_is_not_there\n", "raised ModuleNotFoundError"),
        ("def other(): pass\n", "has no function 'kv_bytes'"),
        ("def kv_bytes(c, t, p, d):\n    return c['layers']\n", "raised KeyError: 'layers' for 7 tokens"),
        ("def kv_bytes(c, t, p, d):\n    return -1\n", "returned -1; allowed: a number of bytes"),
        ("def kv_bytes(c, t, p, d):\n    return float('nan')\n", "returned nan"),
        ("def kv_bytes(c, t, p, d):\n    return None\n", "returned None"),
    ],
)
def test_an_estimate_that_fails_is_told_with_its_place(code: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        estimate(tmp_path, code).estimate({}, 7, {}, 2)
    assert str(caught.value).startswith(f"{tmp_path / 'm' / 'method.yaml'}:9:11: estimate: ")
    assert message in str(caught.value)


LLAMA = {
    "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 64,
    "max_position_embeddings": 2048, "vocab_size": 512, "intermediate_size": 128,
}  # fmt: skip


def test_every_built_in_method_is_good() -> None:
    files = sorted((PACKAGE / "methods").glob("*/method.yaml"))
    methods = [read_method(path.parent) for path in files]
    assert {"full-kv", "streaming-llm"} <= {method.name for method in methods}
    for method in methods:
        assert method.folder.name == method.name.replace("-", "_")
        for preset in (None, *method.spec.presets):
            params = method.bind(preset)
            # Indices, scores and representatives come beside keys and values, and weigh most beside heads as small as these.
            assert 0 < method.estimate(LLAMA, 1000, params, 2) <= 2 * (2 * 4 * 2 * 8 * 1000 * 2)
