"""What runs is what was hashed."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from longctx.orchestrator import code
from longctx.orchestrator.contracts.manifest import MethodEnvironment
from longctx.orchestrator.errors import ManifestError, StorageError


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small runner and a library of methods; nothing remembered between tests."""
    monkeypatch.setattr(code, "RUNNER", tree(tmp_path / "images" / "runner", {"__main__.py": "run", "job.py": "job"}))
    monkeypatch.setattr(code, "METHODS", tmp_path / "methods")
    tree(tmp_path / "methods" / "kv", {"family.py": "import methods.shared.text", "__init__.py": ""})
    tree(tmp_path / "methods" / "shared", {"text.py": ""})
    tree(tmp_path / "methods" / "sinks", {"policy.py": "from methods import kv", "README.md": "read me", "method.yaml": "name: sinks"})
    forget()


def forget() -> None:
    code._folder_digest.cache_clear()
    code._imported.cache_clear()


def tree(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def environment(entry: str = "methods.kv.family:Family", policy: str | None = "methods.sinks.policy:Policy") -> MethodEnvironment:
    return MethodEnvironment(name="tf5", entry=entry, policy=policy)


def needed(tmp_path: Path) -> dict[str, Path]:
    forget()
    return code.folders(environment(), tmp_path / "methods" / "sinks")


def test_the_folders_that_a_method_needs_and_what_they_import(tmp_path: Path) -> None:
    assert needed(tmp_path) == {name: tmp_path / "methods" / name for name in ("kv", "shared", "sinks")}


@pytest.mark.parametrize(
    "statement",
    [
        "import methods.kv", "import methods.kv.family as f", "from methods import kv", "from methods.kv import family",
        "from methods.kv.family import Family", "from .. import kv", "from ..kv.family import Family",
        "def later():\n    import methods.kv",
    ],
)  # fmt: skip
def test_imports_are_followed_however_they_are_written(tmp_path: Path, statement: str) -> None:
    folder = tree(tmp_path / "methods" / "one", {"policy.py": statement})
    assert set(code.folders(environment("methods.one.policy:P", None), folder)) == {"one", "kv", "shared"}


@pytest.mark.parametrize(
    "statement", ["import torch", "from . import other", "from .part import x", "import methodsx.kv", "import methods"]
)
def test_other_imports_name_no_folder(tmp_path: Path, statement: str) -> None:
    folder = tree(tmp_path / "methods" / "one", {"policy.py": statement, "sub/deep.py": "from ..policy import x\nfrom . import y"})
    assert set(code.folders(environment("methods.one.policy:P", None), folder)) == {"one"}


def test_a_method_of_ones_own_may_lie_anywhere(tmp_path: Path) -> None:
    mine = tree(tmp_path / "home" / "mine", {"policy.py": ""})
    assert code.folders(environment(policy="methods.mine.policy:P"), mine)["mine"] == mine


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("methods.nowhere.family:F", "names a folder that does not exist: nowhere"),
        ("elsewhere.kv.family:F", "must be 'methods.<folder>.<module>:<attribute>'"),
        ("methods.kv:F", "must be"),
    ],
)
def test_an_entry_that_leads_nowhere_is_named(tmp_path: Path, entry: str, told: str) -> None:
    with pytest.raises(ManifestError, match=rf"sinks/method\.yaml: .*{told}"):
        code.folders(environment(entry), tmp_path / "methods" / "sinks")


def test_code_that_cannot_be_parsed_is_named(tmp_path: Path) -> None:
    folder = tree(tmp_path / "methods" / "one", {"policy.py": "def ("})
    with pytest.raises(ManifestError, match=r"policy\.py: invalid syntax"):
        code.folders(environment("methods.one.policy:P", None), folder)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("methods/sinks/policy.py", True), ("methods/sinks/new.py", True), ("methods/kv/family.py", True), ("methods/shared/text.py", True),
        ("images/runner/job.py", True), ("methods/sinks/README.md", False), ("methods/sinks/method.yaml", False),
        ("methods/sinks/estimate.py", False), ("methods/sinks/tests/test_policy.py", False), ("methods/other/policy.py", False),
    ],
)  # fmt: skip
def test_the_hash_covers_what_decides_an_answer(tmp_path: Path, file: str, changes: bool) -> None:
    before = code.code_digest(needed(tmp_path))
    tree(tmp_path, {file: "from methods import kv\nchanged = 1"})
    assert (code.code_digest(needed(tmp_path)) != before) is changes


def test_the_hash_does_not_depend_on_where_the_code_lies(tmp_path: Path) -> None:
    before = code.code_digest(needed(tmp_path))
    (tmp_path / "methods").rename(tmp_path / "moved")
    forget()
    assert code.code_digest({name: tmp_path / "moved" / name for name in ("kv", "shared", "sinks")}) == before


def test_a_file_moved_between_folders_changes_the_hash(tmp_path: Path) -> None:
    folder = tree(tmp_path / "x", {"a/b.py": "1"})
    before = code.code_digest({"x": folder})
    (folder / "a" / "b.py").rename(folder / "ab.py")
    forget()
    assert code.code_digest({"x": folder}) != before


def test_staged_is_what_was_hashed_and_no_more(tmp_path: Path) -> None:
    parts = needed(tmp_path)
    tree(tmp_path / "methods" / "sinks", {"estimate.py": "", "tests/test_it.py": ""})
    staged = code.stage(tmp_path / "cache", parts)
    files = {path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()}
    assert files == {
        "runner/__main__.py", "runner/job.py", "methods/kv/family.py", "methods/kv/__init__.py", "methods/shared/text.py",
        "methods/sinks/policy.py",
    }  # fmt: skip
    assert staged.stat().st_mode & 0o777 == 0o755
    assert code.stage(tmp_path / "cache", parts) == staged
    assert [path.name for path in staged.parent.iterdir()] == [staged.name]


def test_an_edit_leaves_the_staged_copy_alone(tmp_path: Path) -> None:
    first = code.stage(tmp_path / "cache", needed(tmp_path))
    tree(tmp_path / "methods" / "sinks", {"policy.py": "changed"})
    second = code.stage(tmp_path / "cache", needed(tmp_path))
    assert first != second
    assert (first / "methods/sinks/policy.py").read_text() == "from methods import kv"


def test_code_that_changes_while_it_is_copied_is_refused(tmp_path: Path) -> None:
    parts = needed(tmp_path)
    code.code_digest(parts)  # what the plan says
    tree(tmp_path / "methods" / "sinks", {"policy.py": "changed meanwhile"})
    with pytest.raises(ManifestError, match="changed while it was copied"):
        code.stage(tmp_path / "cache", parts)
    assert list((tmp_path / "cache" / "code").iterdir()) == []


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    assert code.union([{"a": tmp_path / "1"}, {"a": tmp_path / "1", "b": tmp_path / "2"}]) == {"a": tmp_path / "1", "b": tmp_path / "2"}
    with pytest.raises(ManifestError, match="Two methods use the folder name 'a'"):
        code.union([{"a": tmp_path / "1"}, {"a": tmp_path / "2"}])


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(code.shutil, "copyfile", full)
    with pytest.raises(StorageError, match="No space left"):
        code.stage(tmp_path / "cache", needed(tmp_path))
    assert list((tmp_path / "cache" / "code").iterdir()) == []
