"""A family's image holds all of its methods, whichever a manifest names."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from longctx.orchestrator import code
from longctx.orchestrator.catalog import Catalog, Method
from longctx.orchestrator.families import members, whole

METHOD = """\
name: {name}
title: One
paper: null
summary: It does one thing. It gives up another.
environments:
  - {{name: tf5, family: {family}, entry: "methods.{folder}.policy:Family"}}
accepts: ["*"]
estimate: estimate:estimate
"""


@pytest.fixture(autouse=True)
def _own_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "METHODS", tmp_path / "methods")
    code._folder_digest.cache_clear()
    code._imported.cache_clear()
    folder = tmp_path / "methods" / "shared"
    folder.mkdir(parents=True)
    (folder / "text.py").touch()


def method(tmp_path: Path, name: str, text: str = "", *, family: str = "kv", under: str = "methods") -> Path:
    folder = tmp_path / under / name
    folder.mkdir(parents=True)
    (folder / "policy.py").write_text(text)
    (folder / "estimate.py").touch()
    (folder / "method.yaml").write_text(METHOD.format(name=name, folder=name, family=family))
    return folder


def found(folders: Mapping[str, Path], own: Mapping[str, Path] | None = None, family: str = "kv") -> dict[str, Path]:
    return whole(members(Catalog(folders.values()), "tf5").get(family, ()), "tf5", own or {})


def test_methods_by_family(tmp_path: Path) -> None:
    catalog = Catalog([method(tmp_path, "b"), method(tmp_path, "a"), method(tmp_path, "c", family="other")])

    def names(methods: tuple[Method, ...]) -> list[str]:
        return [one.name for one in methods]

    assert {family: names(methods) for family, methods in members(catalog, "tf5").items()} == {"kv": ["a", "b"], "other": ["c"]}
    assert members(catalog, "tf4.40") == {}


def test_a_method_that_names_no_family_is_one_of_its_own(tmp_path: Path) -> None:
    folder = method(tmp_path, "alone")
    file = folder / "method.yaml"
    file.write_text(file.read_text().replace("family: kv, ", ""))
    assert list(members(Catalog([folder]), "tf5")) == ["alone"]


def test_all_of_the_family_whatever_is_asked_for(tmp_path: Path) -> None:
    folders = {name: method(tmp_path, name, "import methods.shared.text") for name in ("a", "b")}
    folders["c"] = method(tmp_path, "c", family="other")
    everything = {"a": folders["a"], "b": folders["b"], "shared": tmp_path / "methods" / "shared"}
    assert found(folders) == everything
    assert found(folders, {"b": folders["b"]}) == everything


def test_a_folder_of_ones_own_wins(tmp_path: Path) -> None:
    folders = {"a": method(tmp_path, "a")}
    mine = method(tmp_path, "a", under="mine")
    assert found(folders, {"a": mine}) == {"a": mine}


def test_code_that_cannot_be_read_stops_only_itself(tmp_path: Path) -> None:
    folders = {"a": method(tmp_path, "a"), "broken": method(tmp_path, "broken", "def (")}
    assert found(folders) == {"a": folders["a"]}
