from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.orchestrator.errors import ManifestError
from longctx.orchestrator.manifest import source as module
from longctx.orchestrator.manifest.source import parse, read_source


def value(text: str) -> object:
    return parse(f"key: {text}\n", "f.yaml").data["key"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1), ("-3", -3), ("1_000", 1000), ("0x1F", 31), ("010", "010"), ("12:30", "12:30"), ("2024-01-01", "2024-01-01"), ("2x", "2x"),
        ("0.25", 0.25), (".5", 0.5), ("1e-3", 0.001), ("1E5", 1e5), ("1.5e+3", 1500.0), ("1.2.3", "1.2.3"), ("4.40", 4.4), (".inf", ".inf"),
        ("yes", True), ("off", False), ("True", True), ("n", "n"), ("~", None), ("null", None), ("", None), ("'1'", "1"), ('"yes"', "yes"),
        ("!!str 5", "5"), ("a b", "a b"), ("[1, 'x', 2.0]", [1, "x", 2.0]), ("{a: 1}", {"a": 1}), ("é", "é"),
    ],
)  # fmt: skip
def test_scalars_are_what_a_person_means(text: str, expected: object) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


def test_positions_count_from_one_and_fall_back_to_what_is_above() -> None:
    source = parse("a: 1\nb:\n  - x: 2\n    long key:   [p, q]\n", "f.yaml")
    assert source.where(("b", 0, "x")) == "f.yaml:3:8"
    assert source.where(("b", 0, "x"), key=True) == "f.yaml:3:5"
    assert source.where(("b", 0, "long key", 1)) == "f.yaml:4:21"
    assert source.where(("b", 0, "absent", "deeper")) == "f.yaml:3:5"
    assert source.where(("absent",)) == "f.yaml:1:1"


def test_an_alias_is_a_copy_with_a_place_of_its_own() -> None:
    source = parse("a: &x {p: 1}\nb: *x\n", "f.yaml")
    assert source.data == {"a": {"p": 1}, "b": {"p": 1}}
    assert source.where(("b", "p")) == "f.yaml:1:11"


BAD = {
    "empty": ("", "f.yaml:1:1: empty; allowed: a mapping"),
    "only a comment": ("# nothing\n", "f.yaml:1:1: empty"),
    "a list on top": ("- a\n- b\n", "f.yaml:1:1: the top level is a list; allowed: a mapping"),
    "a word on top": ("\nhello\n", "f.yaml:2:1: the top level is a single value"),
    "a key twice": ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: the key 'a' stands twice, first at f.yaml:1:1"),
    "a key twice, nested": ("a:\n  b: 1\n  b: 2\n", "f.yaml:3:3: the key 'b' stands twice, first at f.yaml:2:3"),
    "a number as key": ("a:\n  4: x\n", "f.yaml:2:3: the key '4' is not text"),
    "a boolean as key": ("on: x\n", "f.yaml:1:1: the key 'on' is not text; allowed: text, in quotes"),
    "a list as key": ("[a]: x\n", "f.yaml:1:1: the key a list is not text"),
    "two documents": ("a: 1\n---\nb: 2\n", "f.yaml:2:1: a second document starts here; allowed: one document a file"),
    "a tab as indent": ("a:\n\tb: 1\n", "f.yaml:2:1: a tab indents this line; allowed: spaces"),
    "a tab after spaces": ("a:\n  b: 1\n  \tc: 1\n", "f.yaml:3:3: a tab indents this line; allowed: spaces"),
    "an open bracket": ("a: [1, 2\nb: 3\n", "f.yaml:2:"),
    "an unknown alias": ("a: *x\n", "f.yaml:1:4: not YAML: found undefined alias"),
    "an alias in itself": ("a: &x [*x]\n", "f.yaml:1:"),
    "a tag": ("a: !!python/name:os.system x\n", "f.yaml:1:4: 'x' with the tag 'tag:yaml.org,2002:python/name:os.system' is not read"),
    "a tag on a list": ("a: !!set [x]\n", "f.yaml:1:4: the tag 'tag:yaml.org,2002:set' is not read"),
    "a lying tag": ("a: !!int x\n", "f.yaml:1:4: 'x' with the tag 'tag:yaml.org,2002:int' is not read"),
    "a control character": ("a: é\nb: \x00\n", "f.yaml:2:4: not YAML: "),
    "far too deep": ("a: " + "[" * 5000, "f.yaml:1:"),
    "a bomb": (
        "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)),
        "f.yaml:1:",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("pure", [False, True], ids=["C", "pure"])
def test_bad_yaml_is_located(case: str, pure: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    text, start = BAD[case]
    if pure:
        methods = {
            name: vars(module._Loader)[name] for name in ("descend_resolver", "ascend_resolver", "_depth", "yaml_implicit_resolvers")
        }
        monkeypatch.setattr(module, "_Loader", type("_Loader", (yaml.SafeLoader,), methods))
    with pytest.raises(ManifestError) as caught:
        parse(text, "f.yaml")
    assert str(caught.value).startswith(start)
    assert "allowed: " in str(caught.value) or "not YAML: " in str(caught.value)


def test_not_utf8_is_located(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes("a: 1\nb: é\n".encode("latin-1"))
    with pytest.raises(ManifestError, match=r"f\.yaml:2:4: not UTF-8 text; allowed: files saved as UTF-8"):
        read_source(path)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_source(path).data == {"a": 1}


def test_too_large_a_file_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("a: " + "x" * 2**20)
    with pytest.raises(ManifestError, match="longer than 1 MiB"):
        read_source(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ManifestError, match=str(path)):
            read_source(path)


@given(st.text(alphabet=st.sampled_from("ab1:-?[]{},&*!|>'\"%@#~ \t\n.é\x07"), max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    try:
        source = parse(text, "f.yaml")
    except ManifestError as error:
        assert str(error).startswith("f.yaml:")
    else:
        assert isinstance(source.data, dict)
