"""Looking at the disk before a plan: what counts as answered, timed and scored, here and in sibling runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from unit.orchestrator.builders import CODE, HARDWARE, KEY, OTHER_CODE, Bench, cell, response, result, task, timing

from longctx.orchestrator import cells, devices, inspection, taskstore
from longctx.orchestrator.contracts.manifest import TimingOptions
from longctx.orchestrator.contracts.request import Prompting
from longctx.orchestrator.errors import BadRunFolder
from longctx.orchestrator.plan import Identity, OnDisk, TaskFacts
from longctx.orchestrator.store import RunFolder, file_digest, link_or_copy, write_document


class _Named:
    """As much of a manifest's cell as inspection looks at: its model's name and its eval's prompting."""

    name = "tiny"
    prompting = Prompting()

    @property
    def model(self) -> "_Named":
        return self

    @property
    def eval(self) -> "_Named":
        return self


@pytest.fixture(autouse=True)
def _hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "hardware", lambda kind: HARDWARE)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def facts(bench: Bench, *, built: bool = True) -> TaskFacts:
    """The task as it stands in the bench, kept as a cache would keep it."""
    if not built:
        return TaskFacts(planned=task(), covers=None)
    folder = bench.path / "kept"
    link_or_copy(bench.run.requests(KEY), taskstore.requests(folder))
    pairs = list(taskstore.pairs(folder))
    planned = task(requests=len(pairs))
    return TaskFacts(planned=planned, covers=cells.covers(pairs), references_sha256=file_digest(bench.run.references(KEY)), folder=folder)


def identity(known: TaskFacts, **more: Any) -> Identity:
    named: Any = _Named()
    fields: dict[str, Any] = {"cell": named, "name": cell().cell, "config_sha256": "c" * 64, "code_sha256": CODE, "task": known, **more}
    return Identity(**fields)


def look(bench: Bench, run: RunFolder | None = None, per_bucket: int = 0, **more: Any) -> list[OnDisk]:
    one = identity(more.pop("known", None) or facts(bench), **more)
    return list(
        inspection.inspect(run or bench.run, [one], "cpu", TimingOptions(per_bucket=per_bucket, new_tokens=5)).cells.get(
            one.config_sha256, ()
        )
    )


def collect(bench: Bench) -> None:
    cells.collect(bench.run, {cell().cell: cell()}, dead=True)


def test_an_empty_place_holds_nothing(tmp_path: Path, bench: Bench) -> None:
    assert look(bench) == []
    assert look(bench, RunFolder(tmp_path / "nowhere" / "run")) == []


def test_a_whole_cell(bench: Bench) -> None:
    bench.attempt([response(name) for name in "abc"])
    collect(bench)
    (found,) = look(bench)
    assert found == OnDisk(run="probe", own=True, codes=(CODE,), answered=3, timed=True, errors=0, scored=False)


def test_only_answers_to_the_requests_as_they_stand_count(bench: Bench) -> None:
    bench.attempt([response(name) for name in "ab"] + [response("c", finish="error")])
    collect(bench)
    bench.build(["a", "new", "c"])
    (found,) = look(bench)
    assert (found.answered, found.errors) == (2, 1)
    bench.build(["a", "new", "c"], text="other words")
    assert look(bench)[0].answered == 0


def test_a_task_that_is_not_built_counts_what_is_there(bench: Bench) -> None:
    bench.attempt([response("a")])
    collect(bench)
    assert look(bench, known=facts(bench, built=False))[0].answered == 1


def test_a_state_that_promises_less_than_is_there_is_looked_behind(bench: Bench) -> None:
    """Killed while errors were being forgotten: the errors are still there, and the plan must know."""
    bench.attempt([response("a"), response("b"), response("c", finish="error")])
    collect(bench)
    path = bench.folder() / "cell.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "answered": 2, "errors": 0, "covers_sha256": "0" * 64}))
    (found,) = look(bench)
    assert (found.answered, found.errors) == (3, 1)


def test_times_must_be_complete_and_of_this_hardware(bench: Bench) -> None:
    bench.attempt([response(name) for name in "abc"], timings=[timing("c")])
    collect(bench)
    assert look(bench, per_bucket=1)[0].timed
    assert not look(bench, per_bucket=2)[0].timed
    assert look(bench, per_bucket=0)[0].timed


def test_times_of_other_hardware_do_not_count(bench: Bench) -> None:
    bench.attempt([response(name) for name in "abc"], timings=[timing("c")], cpu="Another")
    collect(bench)
    assert not look(bench, per_bucket=1)[0].timed
    assert look(bench, per_bucket=0)[0].timed


def test_times_cannot_be_judged_before_the_task_is_tokenised(bench: Bench, tmp_path: Path) -> None:
    bench.attempt([response(name) for name in "abc"], timings=[timing("c")])
    collect(bench)
    fresh = RunFolder(bench.run.path.with_name("fresh"))
    assert not look(bench, fresh, per_bucket=1)[0].timed
    assert look(bench, fresh, per_bucket=0)[0].timed, "no timing pass is wanted"


@pytest.mark.parametrize("other", [None, "eval_sha256", "references_sha256", "responses_sha256", "not json", "no answers"])
def test_scores_count_only_for_this_eval_these_references_and_these_answers(bench: Bench, other: str | None) -> None:
    bench.attempt([response(name) for name in "abc"])
    collect(bench)
    known = facts(bench)
    folder = bench.folder()
    fields = {
        "eval_sha256": known.planned.eval_sha256, "references_sha256": str(known.references_sha256),
        "responses_sha256": file_digest(folder / "responses.jsonl"),
    }  # fmt: skip
    write_document(folder / "result.json", result(**(fields | ({other: "0" * 64} if other in fields else {}))))
    if other == "not json":
        (folder / "result.json").write_text("{")
    if other == "no answers":
        (folder / "responses.jsonl").unlink()
    assert look(bench, known=known)[0].scored is (other is None)


def test_siblings_are_looked_at_and_damaged_ones_passed_over(bench: Bench) -> None:
    bench.attempt([response("a")])
    collect(bench)
    (bench.run.path.parent / "a file").touch()
    damaged = bench.run.path.parent / "damaged" / "cells" / bench.folder().name
    damaged.mkdir(parents=True)
    (damaged / "cell.json").write_text("{}")
    (found,) = look(bench, RunFolder(bench.run.path.with_name("mine")))
    assert (found.run, found.own, found.answered) == ("probe", False, 1)
    with pytest.raises(BadRunFolder, match=r"cell\.json: cell: Field required"):
        look(bench, RunFolder(bench.run.path.with_name("damaged")))


def test_a_cell_under_another_name_is_taken_over_even_from_the_same_run(bench: Bench) -> None:
    """Its model was renamed: the configuration is the same, the folder is not."""
    bench.attempt([response("a")])
    collect(bench)
    (found,) = look(bench, name="full-kv.tf5--renamed--passkey-default--cccccccccc")
    assert (found.own, found.run) == (False, "probe")


def test_another_configuration_is_another_cell(bench: Bench) -> None:
    bench.attempt([response("a")])
    collect(bench)
    assert look(bench, config_sha256="c" * 10 + "d" * 54) == [], "only the first ten digits agree"
    assert look(bench, config_sha256="d" * 64) == []


def test_codes_are_told(bench: Bench) -> None:
    bench.attempt([response("a")], code_sha256=OTHER_CODE)
    cells.collect(bench.run, {cell().cell: cell(code_sha256=OTHER_CODE)})
    assert look(bench)[0].codes == (OTHER_CODE,)


def test_lengths_of_prompts(bench: Bench) -> None:
    seen = inspection.inspect(bench.run, [identity(facts(bench))], "cpu", TimingOptions(per_bucket=0))
    assert seen.lengths == {f"tiny/{KEY}.ids": (10, 30)}
