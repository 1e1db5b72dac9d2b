"""Tasks kept in the cache: built once for what decides them, found again, placed into runs."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from unit.orchestrator.builders import model

from longctx.evals import base, registry
from longctx.orchestrator import cells, taskstore
from longctx.orchestrator.contracts.plan import LockedFile
from longctx.orchestrator.contracts.request import Prompting
from longctx.orchestrator.errors import DataError
from longctx.orchestrator.manifest.selected import SelectedEval
from longctx.orchestrator.settings import Settings
from longctx.orchestrator.store import RunFolder, file_digest


class Needles:
    """An eval that counts how often it builds, and may miss its data."""

    name = "needle"
    tasks = ("default",)
    metric = "found"
    axes = ()
    summary = "needles"

    def __init__(self) -> None:
        self.built = 0
        self.missing = False
        self.by_tokens = False
        self.source = Path(__file__)

    def needs_tokenizer(self, task: str, params: Mapping[str, Any]) -> bool:
        return self.by_tokens

    def size(self, task: str, params: Mapping[str, Any], data: Path | None) -> base.Size:
        return base.Size(requests=None if self.missing else params["n"])

    def build(self, task: str, params: Mapping[str, Any], context: base.BuildContext) -> Iterator[tuple[base.Request, base.Reference]]:
        if self.missing:
            raise base.DataMissing("the needles are not here", "longctx data fetch needle")
        self.built += 1
        for number in range(params["n"]):
            text = f"{context.seed} {number}"
            if context.count is not None:
                text += f" {list(context.count([text]))}"
            segments = (base.Segment(role="context", text=text),)
            yield (
                base.Request(id=f"r{number}", segments=segments, max_new_tokens=5),
                base.Reference(id=f"r{number}", answers=("x",), cluster="c"),
            )

    def code(self) -> tuple[Path, ...]:
        return (self.source,)


@pytest.fixture
def needles(monkeypatch: pytest.MonkeyPatch) -> Needles:
    made = Needles()
    monkeypatch.setattr(registry, "get", {"needle": made}.__getitem__)
    return made


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache=tmp_path / "cache", data=tmp_path / "data")


def selected(n: int = 3) -> SelectedEval:
    return SelectedEval(key="needle-default", task="needle/default", params={"n": n}, prompting=Prompting(), path=("evals", 0))


def facts(settings: Settings, one: SelectedEval | None = None, seed: int = 42, **more: Any) -> Any:
    options: dict[str, Any] = {"model": None, "locked": None, "build": True, "count": None, **more}
    return taskstore.facts(one or selected(), settings, seed, **options)


def test_a_task_is_built_once(needles: Needles, settings: Settings) -> None:
    first = facts(settings)
    assert facts(settings) == first
    assert needles.built == 1
    assert (first.planned.requests, first.planned.key) == (3, "needle-default")
    assert first.covers == cells.covers(taskstore.pairs(first.folder))
    assert first.references_sha256 == file_digest(taskstore.references(first.folder))


def test_without_building_only_what_is_known_is_told(needles: Needles, settings: Settings) -> None:
    found = facts(settings, build=False)
    assert (found.covers, found.folder, found.planned.requests, needles.built) == (None, None, 3, 0)
    facts(settings)
    assert facts(settings, build=False).covers is not None


def test_what_decides_the_requests_makes_another_place(needles: Needles, settings: Settings, tmp_path: Path) -> None:
    places = {facts(settings).folder, facts(settings, seed=7).folder, facts(settings, selected(4)).folder}
    needles.source = tmp_path / "other.py"
    needles.source.write_text("other code")
    places.add(facts(settings).folder)
    assert len(places) == needles.built == 4


def test_a_half_made_task_is_made_again(needles: Needles, settings: Settings) -> None:
    folder = facts(settings).folder
    (folder / "index.json").unlink()
    taskstore.references(folder).unlink()
    assert facts(settings).references_sha256 == file_digest(taskstore.references(folder))
    assert needles.built == 2


def test_missing_data_is_named_in_a_plan_and_refused_in_a_run(needles: Needles, settings: Settings) -> None:
    needles.missing = True
    found = facts(settings)
    assert (found.planned.requests, found.planned.fetch, found.covers) == (None, "longctx data fetch needle", None)
    with pytest.raises(DataError, match=r"the needles are not here\n.*longctx data fetch needle"):
        facts(settings, count=lambda locked: None)


def lend(locked: object) -> Any:
    import contextlib

    return contextlib.nullcontext(lambda texts: [len(text) for text in texts])


def test_lengths_in_tokens_give_every_model_requests_of_its_own(needles: Needles, settings: Settings) -> None:
    needles.by_tokens = True
    assert taskstore.needs_tokenizer(selected())
    tokenizers = [
        model(name, files=(LockedFile(path="tokenizer.json", size=1, sha256=mark * 64),)) for name, mark in (("a", "1"), ("b", "2"))
    ]
    found = [facts(settings, model=one.name, locked=one, count=lend) for one in tokenizers]
    assert [one.planned.key for one in found] == ["needle-default.a", "needle-default.b"]
    assert found[0].folder != found[1].folder
    same = facts(settings, model="c", locked=tokenizers[0], count=lend)
    assert same.folder == found[0].folder, "the tokenizer decides, not the name"
    unknown = facts(settings, model="d", locked=None, count=lend)
    assert (unknown.covers, unknown.planned.requests) == (None, 3)
    alone = facts(settings, selected(5), model="a", locked=tokenizers[0])
    assert (alone.covers, alone.planned.requests) == (None, 5), "a plan lends no tokenizer"


def test_a_task_is_placed_into_a_run(needles: Needles, settings: Settings, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    found = facts(settings)
    taskstore.place(found, run)
    assert [json.loads(line)["id"] for line in run.requests("needle-default").read_text().splitlines()] == ["r0", "r1", "r2"]
    assert run.references("needle-default").exists()
    longer = facts(settings, selected(4))
    taskstore.place(longer, run)
    assert len(run.requests("needle-default").read_text().splitlines()) == 4
    assert len(list(taskstore.pairs(found.folder))) == 3, "the kept one is as it was"
    taskstore.place(facts(settings, selected(9), build=False), RunFolder(tmp_path / "other"))
    assert not (tmp_path / "other").exists()
