"""Merging attempts into cells: the bytes do not tell how often a run was interrupted, and what a container wrote is not trusted."""

import json
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from unit.orchestrator.builders import (
    CODE,
    HARDWARE,
    OTHER_CODE,
    Bench,
    cell,
    environment,
    request_sha,
    response,
    sha,
    state,
    timing,
)  # fmt: skip

from longctx.orchestrator import cells
from longctx.orchestrator.contracts.cell import CellState, Source
from longctx.orchestrator.contracts.plan import PlannedCell
from longctx.orchestrator.contracts.response import Response
from longctx.orchestrator.errors import BadRunFolder
from longctx.orchestrator.store import read_document, read_lines, write_document


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def collect(bench: Bench, planned: PlannedCell | None = None, *, dead: bool = False) -> list[str]:
    one = planned or cell()
    return cells.collect(bench.run, {one.cell: one}, dead=dead)


def answers(bench: Bench, planned: PlannedCell | None = None) -> list[Response]:
    return list(read_lines(bench.folder(planned) / "responses.jsonl", Response))


def names(bench: Bench) -> list[str]:
    return [one.id for one in answers(bench)]


def read_state(bench: Bench) -> CellState:
    return read_document(bench.folder() / "cell.json", CellState)


def test_answers_come_in_the_order_of_the_task(bench: Bench) -> None:
    bench.attempt([response("b"), response("a"), response("c")])
    assert collect(bench) == [cell().cell]
    assert names(bench) == ["c", "a", "b"]
    found = read_state(bench)
    assert (found.answered, found.errors, found.codes) == (3, 0, (CODE,))
    assert found.covers_sha256 == cells.covers((name, request_sha(name)) for name in "abc")
    assert [(one.attempt, one.responses, one.isolation, one.engine, one.weights) for one in found.sources] == [
        (1, 3, "partial", "venv", 1000)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_five_interrupted_attempts_give_the_bytes_of_one(tmp_path: Path, seed: int) -> None:
    every = [f"r{number}" for number in range(40)]
    whole, parts = Bench(tmp_path / "whole", every), Bench(tmp_path / "parts", every)
    whole.attempt([response(name, text=name) for name in every])
    collect(whole)
    shuffled = random.Random(seed).sample(every, len(every))
    for number in range(5):
        mine = [response(name, text=name) for name in shuffled[number * 8 : number * 8 + 8]]
        torn = response("r0", text="half").model_dump_json().encode()[:-30]  # killed in mid-line
        parts.attempt([*mine, torn], number=number + 1, outcome=None)
        collect(parts, dead=number % 2 == 0)
    collect(parts, dead=True)
    assert (parts.folder() / "responses.jsonl").read_bytes() == (whole.folder() / "responses.jsonl").read_bytes()
    assert read_state(parts).covers_sha256 == read_state(whole).covers_sha256


def test_a_half_answered_batch_is_merged_as_far_as_it_goes(bench: Bench) -> None:
    bench.attempt([response("a", batch={"id": 0, "size": 3})], outcome="killed")
    collect(bench)
    assert names(bench) == ["a"]
    bench.attempt([response(name, batch={"id": 0, "size": 3}) for name in "cb"], number=2, asked=["c", "b"])
    collect(bench)
    assert names(bench) == ["c", "a", "b"]
    assert read_state(bench).answered == 3


def test_an_attempt_is_taken_once(bench: Bench) -> None:
    bench.attempt([response("a", text="first")])
    assert collect(bench) == [cell().cell]
    assert collect(bench) == []
    assert len(read_state(bench).sources) == 1


def test_an_attempt_that_still_runs_is_read_again(bench: Bench) -> None:
    attempt = bench.attempt([response("a")], outcome=None)
    collect(bench)
    with (attempt / "out" / f"{cell().cell}.responses.jsonl").open("a") as file:
        file.write(response("b").model_dump_json() + "\n")
    collect(bench)
    assert names(bench) == ["a", "b"]
    collect(bench, dead=True)
    assert collect(bench, dead=True) == []


def test_what_was_taken_from_an_attempt_never_comes_back(bench: Bench) -> None:
    """An attempt holds two cells; the plan has one of them, so the other is still to be had. The first must not be merged twice."""
    attempt = bench.attempt([response("a", text="old")])
    document = json.loads((attempt / "job.json").read_text())
    document["cells"].append({**document["cells"][0], "cell": "another"})
    (attempt / "job.json").write_text(json.dumps(document))
    collect(bench)
    cells.set_aside(bench.folder())  # --fresh
    assert collect(bench) == []
    bench.attempt([response("a", text="new")], number=2)
    collect(bench)
    assert [one.text for one in answers(bench)] == ["new"]
    assert cells.merged(attempt) == {cell().cell}


HOSTILE = {
    "not json": b"hello\n",
    "an array": b"[1, 2]\n",
    "nul bytes": b"\0" * 50 + b"\n",
    "bad utf-8": b'{"id": "\xff\xfe"}\n',
    "an unknown key": response("a").model_dump_json().encode()[:-1] + b', "root": true}\n',
    "a path as id": response("a").model_dump_json().replace('"id":"a"', '"id":"../../x"').encode() + b"\n",
    "a wrong type": response("a").model_dump_json().replace('"generated":3', '"generated":-3').encode() + b"\n",
    "a failure without its details": response("a").model_dump_json().replace('"stop"', '"oom"').encode() + b"\n",
    "no newline": response("a").model_dump_json().encode(),
}


@pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE)
def test_lines_that_are_no_answers_are_left_out(bench: Bench, line: bytes) -> None:
    bench.attempt([response("c"), line, *([response("b")] if line.endswith(b"\n") else [])])
    collect(bench)
    assert names(bench) == (["c", "b"] if line.endswith(b"\n") else ["c"])


def test_answers_that_were_not_asked_for_are_left_out(bench: Bench) -> None:
    bench.attempt([response("a"), response("b"), response("invented")], asked=["a"], timings=[timing("a")])
    path = bench.run.job("kv.tf5--tiny") / "1" / "out" / f"{cell().cell}.timing.jsonl"
    path.write_text(path.read_text() + path.read_text().replace('"a"', '"b"'))
    collect(bench)
    assert names(bench) == ["a"]
    assert '"b"' not in (bench.folder() / "timing.jsonl").read_text()


@pytest.mark.parametrize("what", ["link", "link to a folder", "pipe", "unreadable", "closed folder", "out is a link", "out is gone"])
def test_nothing_is_used_of_an_output_with_what_may_not_be_there(bench: Bench, tmp_path: Path, what: str) -> None:
    attempt = bench.attempt([response("a")])
    out = attempt / "out"
    secret = tmp_path / "secret"
    secret.mkdir()
    if what == "link":
        (out / "x").symlink_to("/etc/passwd")
    elif what == "link to a folder":
        (out / "x").symlink_to(secret)
    elif what == "pipe":
        os.mkfifo(out / "x")
    elif what == "unreadable":
        (out / "x").touch(mode=0o000)
    elif what == "closed folder":
        (out / "x").mkdir(mode=0o000)
    else:
        out.rename(attempt / "elsewhere")
        if what == "out is a link":
            out.symlink_to(attempt / "elsewhere")
    assert cells.refuse_hostile(out)
    assert collect(bench) == []
    assert not (bench.folder() / "responses.jsonl").exists()
    assert collect(bench) == [], "it is done with"


def test_too_much_output_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"x" * 100)
    assert cells.refuse_hostile(tmp_path) is None
    monkeypatch.setattr(cells, "OUT_LIMIT", 99)
    assert "more than" in str(cells.refuse_hostile(tmp_path))
    monkeypatch.setattr(cells, "OUT_LIMIT", 1000)
    monkeypatch.setattr(cells, "FILES_LIMIT", 0)
    assert "more than" in str(cells.refuse_hostile(tmp_path))


def test_an_endless_line_is_no_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "LINE_LIMIT", 4096)
    bench.attempt([response("a"), response("b", text="x" * 5000), response("c")])
    collect(bench)
    assert names(bench) == ["c", "a"]


@pytest.mark.parametrize("field", ["config_sha256", "code_sha256"])
def test_an_attempt_of_another_configuration_or_code_waits(bench: Bench, field: str) -> None:
    bench.attempt([response("a")], **{field: OTHER_CODE})
    assert collect(bench) == []
    assert not bench.folder().exists()
    if field == "code_sha256":  # a person takes that code after all
        assert collect(bench, cell(accepted_code=OTHER_CODE)) == [cell().cell]
        assert read_state(bench).codes == (CODE, OTHER_CODE)


def test_a_job_that_is_no_job_is_passed_over(bench: Bench) -> None:
    (bench.attempt([response("a")]) / "job.json").write_text("{}")
    bench.attempt([response("b")], number=2)
    collect(bench)
    assert names(bench) == ["b"]


def test_answers_of_older_code_are_set_aside_whole(bench: Bench) -> None:
    bench.attempt([response("a", text="old")], code_sha256=OTHER_CODE)
    collect(bench, cell(code_sha256=OTHER_CODE))
    before = (bench.folder() / "responses.jsonl").read_bytes()
    bench.attempt([response("b", text="new")], number=2)
    collect(bench)
    assert names(bench) == ["b"]
    aside = bench.run.path / "aside" / f"{bench.folder().name}.1"
    assert (aside / "responses.jsonl").read_bytes() == before
    assert read_document(aside / "cell.json", CellState).codes == (OTHER_CODE,)


def test_setting_aside_twice_loses_nothing(bench: Bench) -> None:
    for number in (1, 2):
        bench.attempt([response("a", text=str(number))], number=number)
        collect(bench)
        cells.set_aside(bench.folder())
    texts = [path.read_text() for path in sorted((bench.run.path / "aside").glob("*/responses.jsonl"))]
    assert ['"text":"1"' in text for text in texts] == [True, False]


def test_an_error_is_replaced_by_the_next_answer(bench: Bench) -> None:
    bench.attempt([response("a", finish="error"), response("b")])
    collect(bench)
    assert (read_state(bench).errors, read_state(bench).answered) == (1, 2)
    bench.attempt([response("a", text="now"), response("b", text="changed")], number=2)
    collect(bench)
    assert {one.id: one.text for one in answers(bench)} == {"a": "now", "b": "12345"}, "an answer stays, an error does not"
    assert read_state(bench).errors == 0


def test_an_answer_is_not_replaced_by_an_error(bench: Bench) -> None:
    bench.attempt([response("a")])
    bench.attempt([response("a", finish="error")], number=2)
    collect(bench)
    assert [one.finish for one in answers(bench)] == ["stop"]


def test_the_version_of_the_request_that_is_wanted_wins(bench: Bench) -> None:
    old = response("a", text="to the old request", request_sha256=request_sha("a", "other words"))
    bench.attempt([response("a")])
    collect(bench)
    bench.attempt([old], number=2)
    collect(bench)
    assert answers(bench)[0].text == "12345", "what answers the request as it stands now stays"
    bench.build(bench.names, text="other words")
    bench.attempt([old], number=3)
    collect(bench)
    assert answers(bench)[0].text == "to the old request"


def test_answers_that_the_task_lost_are_kept_at_the_end(bench: Bench) -> None:
    bench.attempt([response(name) for name in "abc"])
    collect(bench)
    bench.build(["c"])
    bench.attempt([response("c")], number=2)
    collect(bench)
    assert names(bench) == ["c", "a", "b"]


def test_forgetting_errors_keeps_the_rest(bench: Bench) -> None:
    bench.attempt([response("c"), response("a", finish="error"), response("b")])
    collect(bench)
    cells.drop_errors(bench.folder())
    assert names(bench) == ["c", "b"]
    found = read_state(bench)
    assert (found.answered, found.errors) == (2, 0)
    assert found.covers_sha256 == cells.covers((name, request_sha(name)) for name in "cb")


def test_the_state_never_promises_more_than_is_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two writes of ``drop_errors``: the state must already say that answers are missing."""
    bench.attempt([response(name) for name in "ca"] + [response("b", finish="error")])
    collect(bench)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cells, "writing", killed)
        cells.drop_errors(bench.folder())
    assert read_state(bench).covers_sha256 != cells.covers((name, request_sha(name)) for name in "abc")


def test_killed_between_answers_and_state_the_attempt_gives_them_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.attempt([response("a")])

    def killed(path: Path, document: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cells, "write_document", killed)
        collect(bench)
    assert (bench.folder() / "responses.jsonl").exists()
    collect(bench)
    assert names(bench) == ["a"]
    assert read_state(bench).answered == 1


def test_answers_without_a_state_are_not_taken_for_those_of_new_code(bench: Bench) -> None:
    bench.folder().mkdir(parents=True)
    (bench.folder() / "responses.jsonl").write_text(response("a").model_dump_json() + "\n")
    cells.tidy(bench.folder())
    assert not bench.folder().exists()
    assert (bench.run.path / "aside" / f"{bench.folder().name}.1" / "responses.jsonl").exists()


def test_accepting_code_is_recorded(bench: Bench) -> None:
    bench.attempt([response("a")])
    collect(bench)
    cells.accept(bench.folder(), OTHER_CODE)
    assert read_state(bench).codes == (CODE, OTHER_CODE)
    bench.attempt([response("b")], number=2, code_sha256=OTHER_CODE)
    collect(bench, cell(code_sha256=OTHER_CODE, accepted_code=CODE))
    assert names(bench) == ["a", "b"]
    assert read_state(bench).codes == (CODE, OTHER_CODE)


def test_adopting_takes_answers_times_and_state_and_sets_aside_what_was_there(bench: Bench, tmp_path: Path) -> None:
    bench.attempt([response("a")], timings=[timing("a")])
    collect(bench)
    other = Bench(tmp_path / "other")
    other.attempt([response("b")], code_sha256=OTHER_CODE)
    collect(other, cell(code_sha256=OTHER_CODE))
    cells.adopt(bench.folder(), other.folder())
    for name in ("responses.jsonl", "timing.jsonl", "cell.json"):
        assert (other.folder() / name).read_bytes() == (bench.folder() / name).read_bytes()
    assert (other.run.path / "aside" / f"{other.folder().name}.1").is_dir()
    other.attempt([response("c")], number=2)
    collect(other)
    assert names(other) == ["c", "a"]
    assert names(bench) == ["a"], "the run that it came from is as it was"


def test_adopting_what_is_gone_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadRunFolder, match=r"holds no cell\.json"):
        cells.adopt(tmp_path / "gone", tmp_path / "here")


def test_times_are_merged_by_request(bench: Bench) -> None:
    bench.attempt([], timings=[timing("a"), timing("b")])
    collect(bench)
    bench.attempt([response("a")], number=2, timings=[timing("a", decode_s=9.0)])
    collect(bench)
    text = (bench.folder() / "timing.jsonl").read_text().splitlines()
    assert ['"decode_s":9.0' in line for line in text] == [True, False]


@pytest.mark.parametrize(
    ("cpu", "gpus", "here", "same"),
    [
        (HARDWARE, (), HARDWARE, True),
        ("Another", (), HARDWARE, False),
        (None, (), HARDWARE, True),
        (HARDWARE, ("A100",), "A100", True),
        (HARDWARE, ("A100", "A100"), "A100", True),
        (HARDWARE, ("A100",), "H100", False),
        (HARDWARE, ("A100",), "A100 + T4", True),
    ],
)
def test_times_count_only_on_hardware_like_this(cpu: str | None, gpus: Sequence[str], here: str, same: bool) -> None:
    assert cells.same_hardware(environment(cpu, gpus), here) is same


def test_times_of_other_hardware_are_kept_apart(bench: Bench) -> None:
    bench.attempt([response("a")], timings=[timing("a")], cpu="Another")
    collect(bench)
    cells.set_aside_timing(bench.folder(), "Another")
    assert (bench.folder() / "timing.jsonl").exists()
    cells.set_aside_timing(bench.folder(), HARDWARE)
    assert not (bench.folder() / "timing.jsonl").exists()
    assert [path.name for path in bench.folder().glob("timing.*.jsonl")]
    assert [one.timings for one in read_state(bench).sources] == [0]
    assert names(bench) == ["a"]


def test_a_cell_without_hardware_takes_any(tmp_path: Path) -> None:
    source = Source(run="r", job="j", attempt=1, engine="venv", isolation="none", responses=1, timings=1, environment=None)
    write_document(tmp_path / "cell.json", state(sources=(source,)))
    (tmp_path / "timing.jsonl").write_text("")
    cells.set_aside_timing(tmp_path, HARDWARE)
    assert (tmp_path / "timing.jsonl").exists()


def test_covers_depends_on_the_set() -> None:
    one, two = ("a", sha("1")), ("b", sha("2"))
    assert cells.covers([one, two]) == cells.covers([two, one]) != cells.covers([one])
    assert cells.covers([("a", "b\nc")]) != cells.covers([("a", "b"), ("c", "")])


def test_reading_what_is_answered(bench: Bench) -> None:
    assert cells.answered(bench.folder() / "responses.jsonl") == ({}, frozenset())
    bench.attempt([response("a"), response("b", finish="error"), response("c", finish="oom")])
    collect(bench)
    found = cells.answered(bench.folder() / "responses.jsonl")
    assert found.pairs == {name: request_sha(name) for name in "abc"}
    assert found.errors == {"b"}
