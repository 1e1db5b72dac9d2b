"""Rows as they are read, and the names of their requests."""

import json
import re
import tracemalloc
from pathlib import Path

import pytest

from longctx.evals.base import DataMissing
from longctx.evals.longbench import rows
from longctx.orchestrator.contracts.request import Request

from .conftest import WriteRows, row


def test_ids_are_the_rows_own(write_rows: WriteRows) -> None:
    data = write_rows({"qasper": [row(_id="a1"), row(_id="b2")]})
    assert [(one.id, one.index) for one in rows.read("qasper", data)] == [("a1", 0), ("b2", 1)]


def test_a_second_row_of_one_id_is_named_by_its_place(write_rows: WriteRows) -> None:
    data = write_rows({"qasper": [row(_id="a"), row(_id="b"), row(_id="a"), row(_id="")]})
    assert [one.id for one in rows.read("qasper", data)] == ["a", "b", "row-2", "row-3"]


@pytest.mark.parametrize("own", ["", "a b", "a/b", "../x", "-x", "é", "x" * 200, "a\nb", "\ud800"])
def test_whatever_an_id_is_a_request_may_be_called_so(own: str) -> None:
    name = rows.request_id(own, 7)
    Request.model_validate({"id": name, "segments": [{"role": "context", "text": ""}], "max_new_tokens": 1})


def test_what_is_replaced_makes_no_two_ids_one() -> None:
    assert rows.request_id("a b", 0) != rows.request_id("a/b", 1)
    assert rows.request_id("a b", 0) == rows.request_id("a b", 9)


def test_rows_of_one_text_share_their_cluster(write_rows: WriteRows) -> None:
    data = write_rows({"qasper": [row(_id="1"), row(_id="2", input="How?"), row(_id="3", context="Another.")]})
    first, second, third = (one.cluster for one in rows.read("qasper", data))
    assert first == second != third


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "qasper.jsonl:2: no JSON"),
        ("[1]", "qasper.jsonl:2: list where an object belongs"),
        (json.dumps({key: value for key, value in row().items() if key != "answers"}), "qasper.jsonl:2: the row has no 'answers'"),
        (json.dumps(row(answers="so")), "qasper.jsonl:2: 'answers' is text where texts belongs"),
        (json.dumps(row(answers=["so", 3])), "'answers' is list where texts belongs"),
        (json.dumps(row(context=None)), "'context' is null where text belongs"),
        (json.dumps(row(length=True)), "'length' is bool where int belongs"),
        (json.dumps(row(all_classes={})), "'all_classes' is object where texts or null belongs"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(line: str, says: str, write_rows: WriteRows) -> None:
    data = write_rows({"qasper": [row()]})
    with (data / "longbench/qasper.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataMissing, match=re.escape(says)) as caught:
        list(rows.read("qasper", data))
    assert caught.value.command.startswith("longctx data fetch longbench")


def test_a_missing_set_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"There is no .*qasper.jsonl") as caught:
        next(rows.read("qasper", tmp_path))
    assert caught.value.command == f"longctx data fetch longbench --data {tmp_path}"
    with pytest.raises(DataMissing, match="no data folder is set") as caught:
        next(rows.read("qasper", None))
    assert caught.value.command == "longctx data fetch longbench"


def test_a_set_that_changed_since_it_was_fetched_is_refused(write_rows: WriteRows) -> None:
    data = write_rows({"qasper": [row()]})
    files = {"longbench/qasper.jsonl": {"sha256": "0" * 64, "size": 1, "rows": 1}}
    (data / "lock.json").write_text(json.dumps({"schema_version": 1, "sources": {"longbench": {"files": files}}}))
    with pytest.raises(DataMissing, match=r"was altered: SHA-256 .* but the file that was fetched has 0000"):
        next(rows.read("qasper", data))
    (data / "lock.json").write_text("{")
    with pytest.raises(DataMissing, match=r"lock.json cannot be read"):
        next(rows.read("qasper", data))


def test_memory_is_one_row(write_rows: WriteRows) -> None:
    data = write_rows({"qasper": [row(_id=str(number), context="word " * 20_000) for number in range(60)]})
    tracemalloc.start()
    try:
        assert sum(1 for _ in rows.read("qasper", data)) == 60
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_500_000, "sixty rows of 100 kB are not held together"
