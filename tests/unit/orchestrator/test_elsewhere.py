"""Predictions made elsewhere: what their file may look like, what is refused, and the figures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longctx.evals.longbench import metrics
from longctx.orchestrator.cli import main
from longctx.orchestrator.elsewhere import LONGEST, LONGEST_LINE, score_file
from longctx.orchestrator.errors import DataError, UsageError

GOOD = {"pred": " Galicia", "answers": ["Galicia", "Ozalj"], "all_classes": None, "length": 4696}

Made = Callable[..., Path]


@pytest.fixture
def file(tmp_path: Path) -> Made:
    """Writes lines: objects as JSON, bytes as they are."""

    def make(*rows: dict[str, Any] | bytes, end: bytes = b"\n") -> Path:
        path = tmp_path / "qasper.jsonl"
        path.write_bytes(end.join([row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]) + end)
        return path

    return make


def row(pred: str, *answers: str, **more: Any) -> dict[str, Any]:
    return {"pred": pred, "answers": list(answers), "all_classes": None, "length": 1, **more}


def test_the_score_is_a_percentage_of_two_decimals(file: Made) -> None:
    found = score_file("longbench/qasper", file(GOOD, row("cat", "dog"), row("cat dog", "dog")))
    assert found == {"task": "longbench/qasper", "n": 3, "score": 55.56}


@pytest.mark.parametrize("task", ["longbench/qasper", "longbench/qasper_e"])
def test_ranges_of_length_have_a_score_each_and_a_mean(file: Made, task: str) -> None:
    lengths = {3999: "cat", 0: "dog", 4000: "cat dog", 7999: "dog", 8000: "dog cat bird"}
    found = score_file(task, file(*(row(pred, "dog", length=length) for length, pred in lengths.items())), by_length=task[-2:] != "_e")
    assert found["by_length"] == {"0-4k": {"n": 2, "score": 50.0}, "4-8k": {"n": 2, "score": 83.33}, "8k+": {"n": 1, "score": 50.0}}
    assert (found["n"], found["score"]) == (5, 61.11)


def test_an_empty_range_has_no_score_and_so_has_the_mean(file: Made) -> None:
    found = score_file("longbench/qasper", file(row("dog", "dog", length=9000)), by_length=True)
    assert found["score"] is None
    assert found["by_length"] == {"0-4k": {"n": 0, "score": None}, "4-8k": {"n": 0, "score": None}, "8k+": {"n": 1, "score": 100.0}}


def test_all_metrics_come_with_intervals(file: Made) -> None:
    found = score_file("longbench/lcc", file(row("x = 1", "x = 1"), row("y = 1", "x = 1"), row("", "x = 1")), all_metrics=True)
    assert found["score"] == found["metrics"]["score"]["mean"] == 60.0
    assert list(found["metrics"]) == ["score", "indel"]
    assert all(one["low"] < one["mean"] < one["high"] and one["n"] == 3 for one in found["metrics"].values())


@pytest.mark.parametrize(
    "rows",
    [
        [b"\xef\xbb\xbf" + json.dumps(GOOD).encode()],
        [json.dumps(GOOD).encode() + b"\r"],
        [b"", b"  \r", json.dumps(GOOD).encode(), b""],
        [json.dumps(GOOD | {"token_length": 3, "dataset": [1]}).encode()],
        [json.dumps({"pred": "Galicia", "answers": ["Galicia"]}).encode()],
        [json.dumps(row("Galicia\u2028\u0085", "Galicia"), ensure_ascii=False).encode()],
        [b'{"pred": "Galicia \\ud800", "answers": ["Galicia \\ud800"]}'],
    ],
    ids=["byte order mark", "carriage return", "blank lines", "more keys", "fewer keys", "line separators", "half a surrogate"],
)
def test_odd_but_readable(file: Made, rows: list[bytes]) -> None:
    assert score_file("longbench/qasper", file(*rows)) == {"task": "longbench/qasper", "n": 1, "score": 100.0}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", r"is not JSON: .* \(column 2\)"),
        (b"pred,answers", r"is not JSON: Expecting value \(column 1\)"),
        (json.dumps(GOOD).encode("utf-16"), r"is not UTF-8 text \(byte 0\)"),
        (b'{"pred": "\xff"}', r"is not UTF-8 text \(byte 10\)"),
        (b"[" * 200_000, "is nested too deeply"),
        (b"[1]", "is a list, not an object"),
        (b"null", "is null, not an object"),
        (b'"pred"', "is a text, not an object"),
        (b'{"pred": ' + b"1" * 5000 + b"}", "Exceeds the limit"),
        (b"{}", ":3: answers is missing\n"),
        (b'{"answer": ["a"], "pred": "a"}', "answers is missing; there is 'answer'"),
        (b'{"answers": ["a"], "prediction": "a"}', "pred is missing"),
        (b'{"answers": "a", "pred": "a"}', "answers is a text, not a list of texts"),
        (b'{"answers": [], "pred": "a"}', "answers is empty"),
        (b'{"answers": ["a", 3], "pred": "a"}', r"answers\[1\] is a number, not a text"),
        (b'{"answers": ["a"], "pred": null}', "pred is null, not a text"),
        (b'{"answers": ["a"], "pred": true}', "pred is true or false, not a text"),
        (b'{"answers": ["a"], "pred": "a", "all_classes": {}}', "all_classes is an object, not a list of texts"),
        (json.dumps(row("a" * (LONGEST + 1), "a")).encode(), "pred has 100,001 characters; more than 100,000 are not scored"),
    ],
)
def test_each_wrong_line_is_named(file: Made, line: bytes, said: str) -> None:
    path = file(GOOD, b"", line, GOOD)
    with pytest.raises(DataError, match=said) as caught:
        score_file("longbench/qasper", path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert str(caught.value).endswith("as LongBench's pred.py writes them.")


@pytest.mark.parametrize(("value", "said"), [("5", "a text"), (5.5, "a number"), (True, "true or false"), (None, "null")])
def test_length_matters_for_ranges_only(file: Made, value: object, said: str) -> None:
    path = file(GOOD | {"length": value})
    assert score_file("longbench/qasper", path)["n"] == 1
    with pytest.raises(DataError, match=f":1: length is {said}, not an integer"):
        score_file("longbench/qasper", path, by_length=True)


def test_length_may_not_be_missing_for_ranges(file: Made) -> None:
    with pytest.raises(DataError, match=":1: length is missing"):
        score_file("longbench/qasper", file({"pred": "a", "answers": ["a"]}), by_length=True)


def test_what_a_metric_needs_is_said_with_the_line(file: Made) -> None:
    with pytest.raises(DataError, match=":1: this task needs the list of all classes"):
        score_file("longbench/trec", file(GOOD))
    with pytest.raises(DataError, match=":2: the answer 'five' names no paragraph"):
        score_file("longbench/passage_retrieval_en", file(row("5", "Paragraph 5"), row("5", "five")))


def test_many_wrong_lines_are_told_at_once_but_not_all(file: Made) -> None:
    with pytest.raises(DataError) as caught:
        score_file("longbench/qasper", file(*[b"{}"] * 30))
    assert str(caught.value).count("answers is missing") == 10
    assert "Reading stopped there." in str(caught.value)


def test_a_line_without_end_is_not_read_to_its_end(file: Made) -> None:
    with pytest.raises(DataError, match=":2: the line is longer than"):
        score_file("longbench/qasper", file(GOOD, b"x" * (LONGEST_LINE + 10)))


@pytest.mark.parametrize("content", [b"", b"\n\r\n", b"\xef\xbb\xbf"])
def test_an_empty_file_has_no_score(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty"
    path.write_bytes(content)
    with pytest.raises(DataError, match="has no predictions"):
        score_file("longbench/qasper", path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(DataError, match="cannot be read: "):
            score_file("longbench/qasper", path)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("longbench/qaspr", "no task 'qaspr'; did you mean 'qasper'"),
        ("longbnch/qasper", "did you mean 'longbench'"),
        ("qaspr", "did you mean 'longbench/qasper'"),
        ("nothing-like-it", "such as longbench/qasper"),
        ("passkey/default", "the eval 'passkey' has no prediction files to score"),
    ],
)
def test_a_task_that_is_not_known_names_the_nearest(file: Made, task: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        score_file(task, file(GOOD))


def command(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["score", *map(str, arguments)])
    return ended.value.code, *capsys.readouterr()


def test_the_command_prints_json_and_nothing_else(file: Made, capsys: pytest.CaptureFixture[str]) -> None:
    path = file(GOOD)
    code, out, err = command(capsys, "longbench/qasper", "--responses", path)
    assert (code, out, err) == (0, '{"task": "longbench/qasper", "n": 1, "score": 100.0}\n', "")
    code, out, _ = command(capsys, "longbench/qasper", "--responses", path, "--e", "--all-metrics")
    assert (code, list(json.loads(out))) == (0, ["task", "n", "score", "by_length", "metrics"])


def test_the_command_fails_with_a_message_and_a_code(file: Made, capsys: pytest.CaptureFixture[str]) -> None:
    path = file(b"{}")
    code, out, err = command(capsys, "longbench/qasper", "--responses", path)
    assert (code, out) == (5, "")
    assert err.startswith(f"longctx: {path}:1: answers is missing\n")
    code, _, err = command(capsys, "longbench/qaspr", "--responses", path)
    assert code == 2 and "did you mean 'qasper'" in err
    code, _, err = command(capsys, "some-run", "--e")
    assert code == 2 and "--responses FILE" in err


@pytest.mark.parametrize("count", [1200, 2200])
def test_long_sentences_score_the_same_here_and_from_the_command_line(file: Made, capsys: pytest.CaptureFixture[str], count: int) -> None:
    words = [f"w{number}" for number in range(count)]
    pairs = [(" ".join(words), " ".join(words)), (" ".join(words[: count // 2]), " ".join(words[count // 2 :])), ("w0", " ".join(words))]
    pairs += [(" ".join(words[:989]), " ".join(words)), (" ".join(words), words[-1])]
    here = [metrics.score("gov_report", pred, [answer], None)["score"] for pred, answer in pairs]
    for (pred, answer), expected in zip(pairs, here, strict=True):
        code, out, _ = command(capsys, "longbench/gov_report", "--responses", file(row(pred, answer)))
        assert (code, json.loads(out)["score"]) == (0, round(100 * expected, 2))
    assert [value > 0 for value in here] == [False, False, False, False, True]
