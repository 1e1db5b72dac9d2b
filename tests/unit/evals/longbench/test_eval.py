"""Requests and references of LongBench on made-up rows, and its tables."""

import re
from pathlib import Path
from typing import Any

import pytest

from longctx.evals import registry
from longctx.evals.base import BuildContext, DataMissing, ParameterError, ReadsData, Reference, RefusesTemplates, Request, Stop
from longctx.evals.longbench import EVAL
from longctx.evals.longbench.datasets import BENCH2024, BENCH2024_AVERAGE, DATASETS, GROUPS, TASKS, bucket, dataset_of
from longctx.orchestrator.tasks import write_task

from .conftest import WriteRows, row


def build(task: str, data: Path | None, **params: Any) -> list[tuple[Request, Reference]]:
    return list(EVAL.build(task, EVAL.normalise(task, params), BuildContext(seed=1, data=data)))


def ids(task: str, data: Path, **params: Any) -> list[str]:
    return [request.id for request, _ in build(task, data, **params)]


def test_the_tables() -> None:
    assert len(DATASETS) == 21 and len(TASKS) == 34 and len(set(TASKS)) == 34
    assert sum(len(names) for names in GROUPS.values()) == 21 and len(GROUPS) == 6
    assert len(BENCH2024) == 16 and set(BENCH2024) - set(BENCH2024_AVERAGE) == {"passage_count"}
    assert not set(BENCH2024) & {"multifieldqa_zh", "dureader", "vcsum", "lsht", "passage_retrieval_zh"}
    assert dataset_of("qasper_e") is DATASETS["qasper"] and dataset_of("passage_retrieval_en_e").name == "passage_retrieval_en"


def test_no_template_is_laid_around_few_shot_and_code() -> None:
    assert isinstance(EVAL, RefusesTemplates) and isinstance(EVAL, ReadsData)
    plain = {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}
    assert {task for task in EVAL.no_template if not task.endswith("_e")} == plain
    assert {task.removesuffix("_e") for task in EVAL.no_template} == plain and "lcc_e" in EVAL.no_template


@pytest.mark.parametrize(("length", "name"), [(0, "0-4k"), (3999, "0-4k"), (4000, "4-8k"), (7999, "4-8k"), (8000, "8k+"), (10**6, "8k+")])
def test_buckets_end_where_longbench_e_ends_them(length: int, name: str) -> None:
    assert bucket(length) == name


def test_it_is_registered() -> None:
    assert registry.get("longbench") is EVAL
    assert registry.resolve("longbench/repobench-p_e") == (EVAL, "repobench-p_e")


def test_a_request_and_its_reference(write_rows: WriteRows) -> None:
    data = write_rows({"qasper": [row(_id="q1", length=4200, answers=["so", "thus"])]})
    ((request, reference),) = build("qasper", data)
    assert [(one.role, one.text) for one in request.segments] == [
        ("instruction", "Read this.\n\n"), ("context", "Some text."), ("question", "\n\nNow tell.\n\nQ: Why?\n\n"), ("answer_prefix", "A:"),
    ]  # fmt: skip
    assert (request.id, request.max_new_tokens, request.min_new_tokens, request.stop) == ("q1", 12, 0, Stop())
    assert (reference.id, reference.answers, reference.classes, reference.length) == ("q1", ("so", "thus"), None, 4200)
    assert reference.axes == {"bucket": "4-8k", "words": 4200}


def test_samsum_stops_at_a_newline_after_a_token(write_rows: WriteRows) -> None:
    data = write_rows({"samsum": [row()], "samsum_e": [row(_id="e")]})
    for task in ("samsum", "samsum_e"):
        ((request, _),) = build(task, data)
        assert (request.min_new_tokens, request.stop.tokens_of, request.stop.strings, request.max_new_tokens) == (1, ("\n",), (), 9)


def test_classes_come_along(write_rows: WriteRows) -> None:
    data = write_rows({"qasper": [row(all_classes=["A", "B"])]})
    assert build("qasper", data)[0][1].classes == ("A", "B")


def test_longbench_e_asks_with_the_sets_own_prompt_and_other_rows(write_rows: WriteRows) -> None:
    data = write_rows({"lcc": [row(_id="v1")], "lcc_e": [row(_id="e1", context="def f():\n"), row(_id="e2")]})
    assert ids("lcc", data) == ["v1"] and ids("lcc_e", data) == ["e1", "e2"]
    assert "".join(one.text for one in build("lcc_e", data)[0][0].segments) == "Go on. \ndef f():\nNext line:\n"


def test_limit_and_subset(write_rows: WriteRows) -> None:
    data = write_rows({"qasper": [row(_id=f"r{number}") for number in range(6)]})
    assert ids("qasper", data, limit=2) == ["r0", "r1"]
    assert ids("qasper", data, limit=99) == [f"r{number}" for number in range(6)]
    assert ids("qasper", data, subset=["r4", 1, 3]) == ["r1", "r3", "r4"], "in the file's order"
    whole = {request.id: request for request, _ in build("qasper", data)}
    assert all(whole[request.id] == request for request, _ in build("qasper", data, subset=[5, 0]))


def test_an_id_that_occurs_twice_is_the_same_whatever_is_selected(write_rows: WriteRows) -> None:
    data = write_rows({"qasper": [row(_id="a"), row(_id="b"), row(_id="a")]})
    assert ids("qasper", data, subset=[2]) == ["row-2"] == ids("qasper", data, subset=["row-2"])


@pytest.mark.parametrize(
    ("params", "path", "says"),
    [
        ({"limt": 3}, ("limt",), "unknown parameter"),
        ({"limit": 0}, ("limit",), "0 is not allowed"),
        ({"limit": 2.5}, ("limit",), "2.5 is not allowed"),
        ({"subset": []}, ("subset",), "is not allowed"),
        ({"subset": "r1"}, ("subset",), "is not allowed"),
        ({"subset": [1, 1]}, ("subset", 1), "stands here twice"),
        ({"subset": [True]}, ("subset", 0), "True is not allowed"),
        ({"subset": [-1]}, ("subset", 0), "-1 is not allowed"),
        ({"subset": [0], "limit": 1}, ("limit",), "stands beside subset"),
    ],
)
def test_wrong_parameters(params: dict[str, Any], path: tuple[str | int, ...], says: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(says)) as caught:
        EVAL.normalise("qasper", params)
    assert caught.value.path == path


def test_a_row_that_there_is_not_is_named(write_rows: WriteRows) -> None:
    data = write_rows({"qasper": [row(_id="r0"), row(_id="r1")]})
    with pytest.raises(ParameterError, match="there is no row 'r9'") as caught:
        ids("qasper", data, subset=["r1", "r9"])
    assert caught.value.path == ("subset", 1)
    with pytest.raises(ParameterError, match="there is no row 99") as caught:
        ids("qasper", data, subset=["r1", 99, 0])
    assert caught.value.path == ("subset", 1), "where the person wrote it"
    with pytest.raises(ParameterError, match="'r1' is row 1, which stands here as well"):
        ids("qasper", data, subset=["r1", 1])


def test_altered_prompts_are_refused(write_rows: WriteRows) -> None:
    data = write_rows({"qasper": [row()]})
    (data / "longbench/dataset2prompt.json").write_text('{"qasper": "{context}"}')
    with pytest.raises(DataMissing, match=r"dataset2prompt.json was altered: .* its pinned checksum has") as caught:
        build("qasper", data)
    assert caught.value.command == f"longctx data fetch longbench --data {data}"


@pytest.mark.parametrize(
    ("templates", "says"),
    [({}, "no entry for 'qasper'"), ({"qasper": 3}, "the entry of 'qasper' is 3"), ({"qasper": "{title}{context}"}, "asks for what row 0")],
)
def test_prompts_that_do_not_fit_are_named(templates: dict[str, Any], says: str, write_rows: WriteRows) -> None:
    data = write_rows({"qasper": [row()]}, templates)
    with pytest.raises(DataMissing, match=says):
        build("qasper", data)


def test_size_is_what_is_known(write_rows: WriteRows, tmp_path: Path) -> None:
    size = EVAL.size("qasper", EVAL.normalise("qasper", {}), None)
    assert (size.requests, size.least_tokens) == (None, None)
    assert EVAL.size("qasper", EVAL.normalise("qasper", {"subset": [3, 4]}), None).requests == 2
    data = write_rows({"qasper": [row()]})
    assert EVAL.size("qasper", EVAL.normalise("qasper", {}), data).requests is None, "not recorded"
    (data / "lock.json").write_text('{"sources": {"longbench": {"files": {"longbench/qasper.jsonl": {"rows": 200}}}}}')
    assert EVAL.size("qasper", EVAL.normalise("qasper", {}), data).requests == 200
    assert EVAL.size("qasper", EVAL.normalise("qasper", {"limit": 20}), data).requests == 20


def test_requests_fit_their_contract(write_rows: WriteRows, tmp_path: Path) -> None:
    data = write_rows({"samsum": [row(_id=f"a {number}", context="x {input} {") for number in range(5)]})
    params = EVAL.normalise("samsum", {})
    assert write_task(EVAL, "samsum", params, BuildContext(seed=1, data=data), tmp_path / "out", "task") == 5


def test_everything_that_decides_is_in_its_code() -> None:
    names = {path.name for path in EVAL.code()}
    assert {"eval.py", "rows.py", "prompting.py", "datasets.py", "data.py", "sources.py"} <= names
