"""Finding evals: inside, in folders, in packages."""

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from longctx.evals import registry
from longctx.evals.base import BuildContext

OUTSIDE = """
from longctx.evals.passkey.eval import Passkey
from .words import SUMMARY


class Mine(Passkey):
    name = "{name}"
    tasks = ("one", "two")
    summary = SUMMARY


EVAL = Mine()
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LONGCTX_PATH", str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("longctx_evals_"):
            del sys.modules[name]


def put(top: Path, name: str, code: str = OUTSIDE, inner: str | None = None) -> Path:
    folder = top / "evals" / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(code.replace("{name}", inner or name), encoding="utf-8")
    (folder / "words.py").write_text("SUMMARY = 'from outside'\n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _nothing_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGCTX_PATH", raising=False)
    monkeypatch.setattr(registry, "entry_points", lambda group: ())


def test_every_built_in_eval_is_found_and_complete() -> None:
    assert registry.names() == tuple(sorted(registry.BUILT_IN))
    for name in registry.names():
        found = registry.get(name)
        assert found.name == name
        assert found.tasks
        assert all(path.is_file() for path in found.code())
    assert "passkey/default" in registry.tasks()


def test_resolve_takes_a_task_apart() -> None:
    found, task = registry.resolve("passkey/default")
    assert (found.name, task) == ("passkey", "default")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("paskey/default", "no eval is called 'paskey'; did you mean 'passkey'?"),
        ("passkey/defualt", "has no task 'defualt'; did you mean 'default'?"),
        ("passkey", "has no task ''; there are: default"),
        ("zzz/x", "no eval is called 'zzz'; there are: passkey"),
    ],
)
def test_what_is_not_there_comes_with_the_nearest_spelling(task: str, message: str) -> None:
    with pytest.raises(LookupError) as caught:
        registry.resolve(task)
    assert message.split(";", maxsplit=1)[0] in str(caught.value)
    assert message.rsplit("; ", maxsplit=1)[-1].split(":", maxsplit=1)[0] in str(caught.value)


def test_a_folder_outside_with_modules_of_its_own(outside: Path) -> None:
    put(outside, "mine")
    assert "mine" in registry.names()
    assert {"mine/one", "mine/two"} <= set(registry.tasks())
    assert registry.get("mine").summary == "from outside"
    assert registry.get("mine") is registry.get("mine")


def test_names_are_listed_without_importing(outside: Path) -> None:
    put(outside, "mine", "raise RuntimeError('imported')")
    assert "mine" in registry.names()
    with pytest.raises(ImportError, match=r"'mine' in .*evals.mine cannot be loaded: RuntimeError: imported"):
        registry.get("mine")
    assert registry.get("passkey").name == "passkey"


def test_folders_of_one_name_in_two_places_do_not_mix(outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(outside, "mine")
    registry.get("mine")
    other = tmp_path / "other"
    (put(other, "mine") / "words.py").write_text("SUMMARY = 'the other'\n", encoding="utf-8")
    monkeypatch.setenv("LONGCTX_PATH", str(other))
    assert registry.get("mine").summary == "the other"
    monkeypatch.setenv("LONGCTX_PATH", f"{outside}:{other}")
    with pytest.raises(LookupError, match="'mine' exists twice"):
        registry.names()


def test_an_outside_eval_may_not_take_a_name_that_is_taken(outside: Path) -> None:
    put(outside, "passkey")
    with pytest.raises(LookupError, match="'passkey' exists twice: in longctx itself and in"):
        registry.get("passkey")


def test_an_incomplete_or_misnamed_eval_is_refused(outside: Path) -> None:
    put(outside, "half", "class E:\n    name = 'half'\n    tasks = ('a',)\nEVAL = E()\n")
    put(outside, "mine", inner="yours")
    put(outside, "empty", "")
    with pytest.raises(ImportError, match="lacks metric, axes"):
        registry.get("half")
    with pytest.raises(ImportError, match="calls itself 'yours'"):
        registry.get("mine")
    with pytest.raises(ImportError, match="EVAL"):
        registry.get("empty")


def test_an_empty_path_does_not_mean_the_working_folder(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(outside, "mine")
    monkeypatch.chdir(outside)
    monkeypatch.setenv("LONGCTX_PATH", "")
    assert "mine" not in registry.names()


def test_entry_points_of_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    good = EntryPoint("passkey-again", "longctx.evals.passkey:EVAL", "longctx.evals")
    bad = EntryPoint("gone", "no_such_module_anywhere:EVAL", "longctx.evals")
    monkeypatch.setattr(registry, "entry_points", lambda group: (good, bad))
    assert set(registry.names()) >= {"passkey-again", "gone", "passkey"}
    with pytest.raises(ImportError, match="calls itself 'passkey'"):
        registry.get("passkey-again")
    with pytest.raises(ImportError, match="no_such_module_anywhere"):
        registry.get("gone")


def test_the_guides_example_works(outside: Path) -> None:
    guide = (Path(registry.__file__).parent / "README.md").read_text(encoding="utf-8")
    put(outside, "echo", guide.split("```python\n")[1].split("```")[0])
    found, task = registry.resolve("echo/default")
    params = found.normalise(task, {})
    built = list(found.build(task, params, BuildContext(seed=0)))
    assert found.size(task, params, None).requests == len(built) == 2
    assert found.score(task, built[0][1], " tree\n") == {found.metric: 1.0}
