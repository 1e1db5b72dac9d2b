"""The table that ends a run, and its CSV."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from unit.orchestrator.builders import result, row, summary

from longctx.orchestrator import report
from longctx.orchestrator.contracts.request import Prompting
from longctx.orchestrator.contracts.result import Aggregate, BucketTime, CellBytes, Counts, Interval, Result, Speed, Summary
from longctx.orchestrator.store import RunFolder, read_document


def speed(prefill: float | None = 1.25, decode: float | None = 20.0, tokens: int = 1024, peak: float | None = 3 * 2**30) -> Speed:
    longest = BucketTime(tokens=tokens, n=2, given=tokens - 24, prefill_s=prefill, decode_tokens_per_s=decode, peak=peak)
    return Speed(buckets=(longest.model_copy(update={"tokens": 64, "given": 60.0, "prefill_s": 0.01}), longest))


def kv(ratio: float | None, device: float | None = 2**20) -> CellBytes:
    return CellBytes(at="prefill", device=device, host=None, analytic=device, full=None, ratio=ratio, ratio_analytic=ratio)


def partial(**more: Any) -> Result:
    return result(
        partial=True, counts=Counts(requests=4, answered=4, scored=3, oom=1), kv=kv(4.0),
        scores={"exact": Interval(n=3, mean=1.0, low=0.4385, high=1.0, zeros=0.75)}, **more,
    )  # fmt: skip


NOTHING = result(
    partial=True, counts=Counts(requests=4, answered=4, scored=0, oom=4), kv=None, isolation=None,
    scores={"exact": Interval(n=0, mean=None, low=None, high=None, zeros=0.0)},
)  # fmt: skip
ROWS = [
    row("kivi", status="not_run", environment="tf4", result=None, reason="no Python 3.9 [here]"),
    row("streaming-llm{keep: 0.25}", result=partial(speed=speed())),
    row("full-kv", result=result(speed=speed(prefill=2.0, peak=None), kv=kv(1.0))),
    row("greedy", result=NOTHING),
    row("broken", status="failed", result=None, reason="killed (by signal 9)"),
]


def shown(made: Summary, width: int = 160) -> str:
    out = io.StringIO()
    console = Console(width=width, file=out)
    console.print(report.table(made))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_the_table_in_plain_text() -> None:
    lines = shown(summary(ROWS)).strip("\n").splitlines()
    cells = [[part for part in line.strip().split("  ") if part.strip()] for line in lines]
    found = [[part.strip() for part in line] for line in cells]
    assert found[0] == [
        "method", "environment", "score", "95 % interval", "n", "KV held", "ratio", "prefill", "decode", "peak", "isolation",
    ]  # fmt: skip
    assert found[2:] == [
        ["full-kv", "tf5", "75.0", "25.0 – 100.0", "4", "1.0 MiB", "1.00x", "2.00 s", "20.0 tok/s", "–", "partial"],
        ["greedy", "tf5", "– (zeros: 0.0)", "–", "on 0 of 4", "–", "–", "–", "–", "–", "–"],
        [
            "streaming-llm{keep: 0.25}", "tf5", "100.0 (zeros: 75.0)", "43.9 – 100.0", "on 3 of 4", "1.0 MiB", "4.00x", "1.25 s",
            "20.0 tok/s", "3.0 GiB", "partial",
        ],
        ["broken", "tf5", "failed"],
        ["kivi", "tf4", "not run"],
    ]  # fmt: skip
    assert "\x1b" not in shown(summary(ROWS))


def test_models_and_tasks_have_columns_only_where_there_are_several() -> None:
    header = shown(summary([row(), row(model="other"), row(task="second")])).strip().splitlines()[0]
    assert header.split()[:4] == ["model", "task", "method", "environment"]
    assert shown(summary([row()])).split()[:2] == ["method", "environment"]


def test_rows_are_ordered_by_model_task_and_measured_ratio() -> None:
    rows = [
        row("absent", status="not_run", result=None), row("b", result=result(kv=kv(8.0))), row("a", result=result(kv=kv(2.0))),
        row("full", result=result(kv=kv(None))), row("other", model="a-model", result=result(kv=kv(9.0))),
    ]  # fmt: skip
    assert [one.label for one in report.ordered(rows)] == ["other", "full", "a", "b", "absent"]


def test_random_weights_are_told() -> None:
    assert "75.0 (random weights)" in shown(summary([row(result=result(random_weights=True))]))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0 B"), (1023, "1,023 B"), (1024, "1.0 KiB"), (2**20, "1.0 MiB"), (1536 * 2**20, "1.5 GiB"), (2**44, "16,384.0 GiB")],
)
def test_sizes(value: float | None, text: str) -> None:
    assert report.size(value) == text


def test_the_footnote_names_prompting_that_is_not_the_usual() -> None:
    unusual = Prompting(max_prompt_tokens=3500, truncate="middle", bos="double")
    told = report.footnote(summary([row(), row(result=result(prompting=unusual)), row(result=result(prompting=unusual))]))
    (line,) = [line for line in told.splitlines() if "prompting" in line]
    assert line.endswith("prompting: max_prompt_tokens 3500, truncate middle, bos double")


def test_the_footnote_says_what_the_columns_mean() -> None:
    told = report.footnote(summary([row(result=result(speed=speed())), row(status="not_run", result=None)]))
    assert told.startswith("score: exact, in percent; KV held: ")
    assert "(~1,000 tokens)" in told
    assert "prefill" not in report.footnote(summary([row()]))
    assert report.footnote(summary([])).startswith("KV held")


def test_reasons_stand_below_the_table_whole() -> None:
    told = report.footnote(summary(ROWS)).splitlines()
    assert told[:2] == [
        "broken in tf5 on tiny, passkey-default: failed: killed (by signal 9)",
        "kivi in tf4 on tiny, passkey-default: not run: no Python 3.9 [here]",
    ]
    assert len(told) == 3


def test_summary_files(tmp_path: Path) -> None:
    made = summary(ROWS, complete=False)
    run = RunFolder(tmp_path / "probe")
    report.write_summary(run, made)
    assert read_document(run.summary, Summary) == made
    with (run.path / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == report.CSV_COLUMNS
    by_label = {one["label"]: one for one in rows}
    assert [one["label"] for one in rows] == [one.label for one in ROWS]
    kept = by_label["streaming-llm{keep: 0.25}"]
    assert (kept["score"], kept["n"], kept["requests"], kept["oom"], kept["zeros"]) == ("1.0", "3", "4", "1", "0.75")
    assert (kept["kv_bytes"], kept["ratio"], kept["bucket_tokens"], kept["prefill_s"]) == ("1048576.0", "4.0", "1024", "1.25")
    assert (by_label["kivi"]["status"], by_label["kivi"]["reason"], by_label["kivi"]["score"]) == ("not_run", "no Python 3.9 [here]", "")
    assert (by_label["greedy"]["score"], by_label["greedy"]["kv_bytes"], by_label["greedy"]["prefill_s"]) == ("", "", "")


def test_every_column_is_filled_by_some_row() -> None:
    every: dict[str, object] = {}
    for one in [*ROWS, row(result=result(kv=CellBytes(at="end", device=1, host=1, analytic=1, full=1, ratio=1, ratio_analytic=1)))]:
        every |= {key: value for key, value in report._csv(one).items() if value not in (None, "")}
    assert set(report.CSV_COLUMNS) == set(every)


def test_an_environment_that_is_only_recorded_has_a_star() -> None:
    rows = [row(environment="system", locked=False), row("other"), row("kivi", environment="system", status="not_run", result=None)]
    one = Aggregate(name="average", eval="e", label="full-kv", model="tiny", environment="system", score=50.0, tasks=("e/a",))
    made = summary(rows, aggregates=(one, one.model_copy(update={"environment": "tf5"})))
    assert shown(made).count("system*") == 2 and "tf5*" not in shown(made)
    out = io.StringIO()
    Console(width=160, file=out).print(report.averages(made))
    assert out.getvalue().count("system*") == 1 and "tf5*" not in out.getvalue()
    assert "system*: the host's own packages, recorded, not locked" in report.footnote(made).splitlines()
    assert "recorded" not in report.footnote(summary([row()]))
    assert [report._csv(each)["locked"] for each in rows[:2]] == [False, True]
