"""Data from the folder to the plan: tasks are built again when a file changes, and the command line says what is missing."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from unit.orchestrator.manifest.samples import METHODS, write_method

from longctx.evals import registry
from longctx.evals.base import BuildContext, Reference, Request, Segment, Size
from longctx.evals.data import command, find, rows
from longctx.orchestrator import taskstore
from longctx.orchestrator.catalog import Catalog
from longctx.orchestrator.cli import app
from longctx.orchestrator.cli import commands as _commands  # noqa: F401 - registers every command
from longctx.orchestrator.contracts.request import Prompting
from longctx.orchestrator.data import fetch
from longctx.orchestrator.errors import DataError
from longctx.orchestrator.manifest.load import load_manifest
from longctx.orchestrator.manifest.selected import SelectedEval
from longctx.orchestrator.settings import Settings

from .conftest import SETS, TEXTS, lines, row


class Texts:
    """Asks the rows of ``texts/one.jsonl``; ``plain`` is never laid into a chat template."""

    name = "texts"
    tasks = ("chatty", "plain")
    metric = "exact"
    axes = ()
    summary = "texts"
    no_template = frozenset({"plain"})

    def normalise(self, task: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return dict(params)

    def needs_tokenizer(self, task: str, params: Mapping[str, Any]) -> bool:
        return False

    def reads(self, task: str, params: Mapping[str, Any]) -> tuple[str, ...]:
        return ("texts/one.jsonl",)

    def size(self, task: str, params: Mapping[str, Any], data: Path | None) -> Size:
        return Size(requests=None)

    def build(self, task: str, params: Mapping[str, Any], context: BuildContext) -> Any:
        for one in rows(find(context.data, TEXTS, "texts/one.jsonl"), TEXTS.fields, command("texts", context.data)):
            yield (
                Request(id=one["_id"], segments=(Segment(role="context", text=one["text"]),), max_new_tokens=3),
                Reference(id=one["_id"], answers=(), cluster="c"),
            )

    def score(self, task: str, reference: Reference, text: str) -> dict[str, float]:
        return {"exact": 0.0}

    def code(self) -> tuple[Path, ...]:
        return (Path(__file__),)


@pytest.fixture(autouse=True)
def texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_loaders", lambda: {"texts": Texts})


def selected(task: str = "texts/plain") -> SelectedEval:
    return SelectedEval(key="k", task=task, params={}, prompting=Prompting(), path=("evals", 0))


def facts(settings: Settings, count: Any = None) -> taskstore.TaskFacts:
    return taskstore.facts(selected(), settings, 42, model=None, locked=None, build=True, count=count)


def silent(line: str) -> None:
    pass


def test_a_task_is_built_again_when_its_data_changes(settings: Settings, folder: Path) -> None:
    fetch("texts", settings, silent, origin=folder)
    first = facts(settings)
    assert first.planned.requests == 2 and first.planned.fetch is None
    assert facts(settings).folder == first.folder
    (folder / "texts/one.jsonl").write_bytes(lines(row(7), row(8), row(9)))
    fetch("texts", settings, silent, origin=folder)
    second = facts(settings)
    assert second.planned.requests == 3 and second.covers != first.covers


def test_missing_and_altered_data_names_its_command(settings: Settings, folder: Path) -> None:
    missing = facts(settings)
    assert (missing.covers, missing.planned.requests) == (None, None)
    assert missing.planned.fetch == f"longctx data fetch texts --data {settings.data}"
    fetch("texts", settings, silent, origin=folder)
    assert facts(settings).planned.fetch is None
    assert settings.data is not None
    (settings.data / "texts/one.jsonl").write_bytes(SETS["two"])
    assert facts(settings).planned.fetch is not None, "what was built from the right file does not hide it"
    with pytest.raises(DataError, match=r"one\.jsonl was altered") as caught:
        facts(settings, count=lambda _: None)
    assert f"longctx data fetch texts --data {settings.data}" in caught.value.next_step


def test_a_chat_template_gives_way_and_the_plan_says_so(tmp_path: Path) -> None:
    method = write_method(tmp_path / "full_kv", METHODS["full_kv"])
    (tmp_path / "m.yaml").write_text(
        "name: t\nmodels: [{name: tiny, source: 'random:tiny-llama'}]\nmethods: [{method: full-kv}]\n"
        "defaults: {prompting: {template: chat, template_kwargs: {a: 1}, max_prompt_tokens: 9, truncate: middle}}\n"
        "evals: [{task: texts/chatty}, {task: texts/plain}]\n"
    )
    chatty, plain = load_manifest(tmp_path / "m.yaml", Catalog([method])).evals
    assert (chatty.prompting.template, chatty.note) == ("chat", None)
    assert (plain.prompting.template, plain.prompting.template_kwargs, plain.prompting.max_prompt_tokens) == ("none", {}, 9)
    assert plain.note is not None and "template none" in plain.note


# The command line


def call(*arguments: str, **variables: str) -> tuple[int, str, str]:
    done = CliRunner(env={"COLUMNS": "200", **variables}).invoke(app, list(arguments))
    return done.exit_code, done.stdout, done.stderr


def test_fetch_list_and_verify(folder: Path, tmp_path: Path) -> None:
    data = str(tmp_path / "here")
    code, out, _ = call("data", "fetch", "texts", "pages", "--from", str(folder), "--data", data)
    assert code == 0 and f"texts: 3 files, 0.0 MiB, 3 rows in 2 sets, in {data}" in out and "pages: 2 files" in out
    code, out, _ = call("data", "list", "--json", LONGCTX_DATA=data)
    assert code == 0 and [one["files"] for one in json.loads(out)] == [3, 2]
    assert "3 of 3 files" in call("data", "list", "--data", data)[1]
    assert "texts/config.json" in call("data", "list", "texts", "--data", data)[1]
    assert call("data", "verify", "--data", data)[:2] == (0, "texts: 3 files, 3 right\npages: 2 files, 2 right\n")
    Path(data, "texts/one.jsonl").write_text("x")
    code, out, said = call("data", "verify", "texts", "--json", "--data", data)
    assert code == 5 and [one["state"] for one in json.loads(out)["texts"]] == ["right", "altered", "right"]
    assert f"longctx data fetch texts --data {data} --from {folder}" in said


def test_requests_take_their_data_from_where_they_are_told(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    code, _, said = call("requests", "texts/plain", "--out", str(out), "--data", str(tmp_path / "none"))
    assert code == 5 and f"longctx data fetch texts --data {tmp_path / 'none'}" in said and not out.exists()
    assert call("requests", "texts/plain", "--out", str(out), "--data", str(folder))[0] == 0
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["r0", "r1"]
    out.unlink()
    assert call("requests", "texts/plain", "--out", str(out), LONGCTX_DATA=str(folder))[0] == 0 and out.exists()
