"""Cells that ask for the same prompts share what was read of them."""

import json
from typing import Any

import pytest

from longctx.images.runner.ending import BadJob
from longctx.images.runner.job import Job
from longctx.images.runner.prompts import canonical_sha256, of_cell

LENGTHS = {"a": 4, "b": 5, "c": 6}


def add(root: Any, name: str, groups: tuple[str, ...] = ("a b", "c"), shares: str = "x", **params: Any) -> dict[str, Any]:
    """Add a cell on the prompts of the first one."""
    own: dict[str, Any] = {"params": {"name": name, "shares": shares, **params}}
    if root.cells:
        own |= {key: root.cells[0][key] for key in ("requests", "ids")}
    cell: dict[str, Any] = root.add_cell(LENGTHS, list(groups), **own)
    return cell


def reads(log: str) -> list[str]:
    return [line.partition("read for ")[2] for line in log.splitlines() if line.startswith("read for")]


def prefills(root: Any, number: int) -> dict[str, str]:
    return {name: response["prefill"] for name, response in root.responses(number).items()}


def test_each_batch_is_read_once_for_all(root: Any) -> None:
    for name in ("one", "two", "three"):
        add(root, name)
    root.job()
    ran = root.run()
    assert ran.code == 0, ran.log
    assert reads(ran.log) == ["one two three : a b", "one two three : c"]
    for number in range(3):
        assert prefills(root, number) == dict.fromkeys("abc", "forked")
        assert {response["memory"]["peak"] for response in root.responses(number).values()} == {None}


def test_only_what_shares_the_same_prompts_and_value_joins(root: Any) -> None:
    add(root, "one")
    add(root, "other", shares="y")
    add(root, "two")
    add(root, "alone", shares="")
    root.cells[0]["prompting"] = root.cells[2]["prompting"] = {"question": "seen"}
    root.cells[1]["prompting"] = {"question": "seen"}
    root.job()
    ran = root.run()
    assert reads(ran.log) == ["one two : a b", "one two : c"]
    assert [set(prefills(root, number).values()) for number in range(4)] == [{"forked"}, {"own"}, {"forked"}, {"own"}]


def test_a_cell_joins_only_for_what_it_lacks(root: Any) -> None:
    add(root, "one")
    add(root, "two")
    root.job()
    root.run()
    path = root.out / "cells" / "1" / "responses.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    texts = [response["text"] for response in root.responses(1).values()]
    path.write_text(whole[0])
    first = (root.out / "cells" / "0" / "responses.jsonl").read_text()
    (root.out / "cells" / "0" / "responses.jsonl").write_text("".join(first.splitlines(keepends=True)[:2]))
    ran = root.run()
    assert reads(ran.log) == ["one two : c"], "batch a b is missing in one cell only, c in both"
    assert [response["text"] for response in root.responses(1).values()] == texts
    assert prefills(root, 1) == {"a": "forked", "b": "own", "c": "forked"}
    assert len(root.responses(0)) == 3


def test_other_batches_are_not_shared(root: Any) -> None:
    add(root, "one", ("a b", "c"))
    add(root, "two", ("a", "b c"))
    add(root, "three", ("a", "b", "c"))
    root.job()
    ran = root.run()
    assert reads(ran.log) == ["two three : a"]
    assert all(len(root.responses(number)) == 3 for number in range(3))


@pytest.mark.parametrize(("params", "expected"), [({"tight": True}, ["forked", "own", "own"]), ({"unreadable": True}, ["own"] * 3)])
def test_what_fails_while_shared_is_answered_alone(root: Any, params: dict[str, Any], expected: list[str]) -> None:
    add(root, "one", unreadable=params.get("unreadable", False))
    add(root, "two", **params)
    add(root, "three")
    root.job()
    ran = root.run()
    assert ran.code == 0, ran.log
    assert [set(prefills(root, number).values()) for number in range(3)] == [{value} for value in expected]
    assert all({response["finish"] for response in root.responses(number).values()} == {"length"} for number in range(3))
    assert len([event for event in root.events("warning") if "failed" in event["message"]]) == (2 if "unreadable" in params else 0)


def test_timing_shares_nothing(root: Any) -> None:
    for name in ("one", "two"):
        cell = add(root, name)
        number = len(root.cells) - 1
        buckets = [{"tokens": 8, "warmup": "a", "requests": ["a", "b"]}]
        cell["timing"] = {"buckets": buckets, "new_tokens": 2, "out": f"out/cells/{number}/timing.jsonl"}
    root.job()
    ran = root.run()
    assert len(reads(ran.log)) == 2
    for number in range(2):
        assert [line["time"]["prefill_s"] is not None for line in root.lines(f"out/cells/{number}/timing.jsonl")] == [True, True]


def test_what_is_kept_between_batches_is_dropped_at_the_end_of_a_group_and_of_a_cell(root: Any) -> None:
    for name in ("one", "two"):
        add(root, name, ("a", "b", "c"))
    add(root, "alone", ("a", "b", "c"), shares="y")
    group_requests(root, {"a": "g", "b": "g"})
    root.job()
    ran = root.run()
    assert ran.code == 0, ran.log
    told = [line for line in ran.log.splitlines() if line.split()[0] in ("batch", "forgets")]
    c = "batch c exact None"
    assert told == [
        *["batch a exact None"] * 2, *["batch b exact None"] * 2,  # requests of a group: nothing is dropped between them
        "forgets one", c, "forgets two", c, "forgets one", "forgets two",
        "batch a exact None", "batch b exact None", "forgets alone", c, "forgets alone",
    ]  # fmt: skip


def group_requests(root: Any, groups: dict[str, str]) -> None:
    """Put requests of the first cell, whose files the others use too, into groups."""
    requests, ids = (root.path / root.cells[0][key] for key in ("requests", "ids"))
    lines = [json.loads(line) for line in requests.read_text().splitlines()]
    for line in lines:
        if line["id"] in groups:
            line["group"] = {"id": groups[line["id"]], "shared_segments": 1}
    hashes = {line["id"]: canonical_sha256(line) for line in lines}
    requests.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = [json.loads(line) for line in ids.read_text().splitlines()]
    ids.write_text("".join(json.dumps({**line, "request_sha256": hashes[line["id"]]}) + "\n" for line in given))


def test_unseen_question_starts_where_its_span_does(root: Any) -> None:

    cell = root.add_cell({"a": 9}, ["a"])
    path = root.path / cell["ids"]
    line = json.loads(path.read_text())
    for spans, expected in (
        ([("instruction", 0, 2), ("context", 2, 6), ("question", 6, 8), ("answer_prefix", 8, 9)], 6),
        ([("context", 0, 9)], None),
        ([("question", 0, 3), ("context", 3, 9)], BadJob),
        ([("context", 0, 3), ("question", 3, 5), ("context", 5, 9)], BadJob),
    ):
        line["spans"] = [{"role": role, "start": start, "end": end} for role, start, end in spans]
        path.write_text(json.dumps(line) + "\n")
        job = Job(root.path, {})
        with of_cell(job, {**cell, "prompting": {"question": "seen"}}, {"a"}) as prompts:
            assert prompts.get("a").prompt.unseen_from is None
        with of_cell(job, {**cell, "prompting": {"question": "unseen"}}, {"a"}) as prompts:
            if expected is BadJob:
                with pytest.raises(BadJob, match="before its context ends"):
                    prompts.get("a")
            else:
                assert prompts.get("a").prompt.unseen_from == expected
