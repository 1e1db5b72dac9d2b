"""Averages over tasks: what is averaged, how it is rounded, and what is said where something is missing."""

import io
import statistics
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console
from unit.orchestrator.builders import result, row, summary

from longctx.evals.longbench.datasets import BENCH2024_AVERAGE
from longctx.orchestrator import aggregates, report
from longctx.orchestrator.contracts.request import Prompting
from longctx.orchestrator.contracts.result import Aggregate, Interval, Row

SIX = ["single-doc", "multi-doc", "summarization", "few-shot", "synthetic", "code"]


def interval(mean: float | None) -> Interval:
    return Interval(n=3, mean=mean, low=mean, high=mean)


def scored(task: str, mean: float | None, label: str = "full-kv", **more: Any) -> Row:
    key = more.pop("task_key", task.replace("/", "-"))
    fields = {"task": task, "task_key": key, "metric": "score", "scores": {"score": interval(mean)}, **more}
    return row(label, task=key, result=result(**fields))


def rows(means: Mapping[str, float | None], **more: Any) -> list[Row]:
    return [scored(f"longbench/{task}", mean, **more) for task, mean in means.items()]


FIFTEEN = {name: 0.1 + 0.041237 * place for place, name in enumerate(BENCH2024_AVERAGE)}


def by_name(found: tuple[Aggregate, ...]) -> dict[str, Aggregate]:
    assert len({one.name for one in found}) == len(found)
    return {one.name: one for one in found}


def test_the_fifteen_sets_make_six_groups_and_their_average() -> None:
    found = by_name(aggregates.of(rows(FIFTEEN)))
    assert list(found) == [*SIX, "LongBench"]
    assert sorted(len(found[name].tasks) for name in SIX) == [1, 2, 3, 3, 3, 3]
    assert {task for name in SIX for task in found[name].tasks} == {f"longbench/{name}" for name in FIFTEEN}
    for one in found.values():
        assert one.score == round(statistics.fmean(round(100 * FIFTEEN[task.partition("/")[2]], 2) for task in one.tasks), 2)
        assert (one.eval, one.label, one.model, one.environment, one.missing, one.partial) == (
            "longbench",
            "full-kv",
            "tiny",
            "tf5",
            (),
            (),
        )


def test_each_task_is_rounded_before_the_mean_is_taken() -> None:
    """As the 2024 benchmark does: 10.004 and 20.004 are 10.00 and 20.00."""
    found = by_name(aggregates.of(rows({"lcc": 0.100049, "repobench-p": 0.200049})))
    assert found["code"].score == 15.0


def test_counting_passages_and_chinese_sets_change_nothing() -> None:
    more = {"passage_count": 1.0, "passage_retrieval_zh": 1.0, "dureader": 1.0, "lsht": 1.0}
    assert aggregates.of(rows(FIFTEEN)) == aggregates.of(rows({**FIFTEEN, **more}))
    assert aggregates.of(rows(more)) == ()


def test_what_lacks_a_task_has_no_score_and_says_so() -> None:
    left = {name: mean for name, mean in FIFTEEN.items() if name != "musique"}
    found = by_name(aggregates.of([*rows(left), row(task="longbench-musique", status="failed", result=None)]))
    for name in ("multi-doc", "LongBench"):
        assert (found[name].score, found[name].missing) == (None, ("musique",))
    assert found["single-doc"].score is not None


def test_a_task_of_which_nothing_was_scored_is_missing() -> None:
    found = by_name(aggregates.of(rows({"lcc": None, "repobench-p": 0.5})))
    assert found["code"].missing == ("lcc (nothing scored)",)


def test_tasks_that_were_answered_in_part_are_named() -> None:
    made = rows({"lcc": 0.5}) + rows({"repobench-p": 0.5}, partial=True)
    assert by_name(aggregates.of(made))["code"].partial == ("longbench/repobench-p",)


def test_who_runs_half_of_the_tasks_asks_for_no_average() -> None:
    assert aggregates.of(rows({"qasper": 0.5})) == ()
    assert aggregates.of(rows({"lcc": 0.5})) == ()
    assert [one.name for one in aggregates.of(rows({"qasper": 0.5, "narrativeqa": 0.5}))] == ["single-doc"]
    assert [one.name for one in aggregates.of(rows({"passage_retrieval_en": 0.5}))] == ["synthetic"]


@pytest.mark.parametrize("task", ["passkey/default", "no-such-eval/default"])
def test_other_evals_have_none(task: str) -> None:
    assert aggregates.of([scored(task, 0.5)]) == ()


def test_variants_models_and_environments_are_apart() -> None:
    code = {"lcc": 0.2, "repobench-p": 0.4}
    others = [one.model_copy(update={"environment": "tf4.40"}) for one in rows({"lcc": 0.6, "repobench-p": 0.8})]
    found = aggregates.of([*rows(code), *rows(code, label="h2o"), *others])
    assert [(one.label, one.environment, one.score) for one in found] == [
        ("full-kv", "tf5", 30.0), ("h2o", "tf5", 30.0), ("full-kv", "tf4.40", 70.0),
    ]  # fmt: skip


def test_one_task_with_two_promptings_makes_two_averages() -> None:
    """A template is none for few-shot tasks whatever was asked: that alone does not take tasks apart."""
    unseen = Prompting(question="unseen")
    made = rows({"trec": 0.1, "triviaqa": 0.2}) + rows({"samsum": 0.3}, prompting=Prompting(template="model"))
    made += [one for name in ("trec", "triviaqa", "samsum") for one in rows({name: 0.5}, prompting=unseen, task_key=f"unseen-{name}")]
    found = [one for one in aggregates.of(made) if one.name == "few-shot"]
    assert [(one.prompting, one.score) for one in found] == [("question: seen", 20.0), ("question: unseen", 50.0)]


def test_one_task_twice_with_the_same_prompting_cannot_be_averaged() -> None:
    found = by_name(aggregates.of([*rows({"lcc": 0.2, "repobench-p": 0.4}), *rows({"lcc": 0.6}, task_key="lcc-again")]))
    assert (found["code"].score, found["code"].missing) == (None, ("lcc (2 results)",))


def ranges(*means: float | None) -> dict[str, dict[str, Interval]]:
    names = ("0-4k", "4-8k", "8k+")
    return {"bucket": {name: interval(mean) for name, mean in zip(names, means, strict=False)}}


def test_longbench_e_is_the_mean_over_ranges_of_length() -> None:
    from longctx.evals.registry import get

    tasks = [task for task in get("longbench").tasks if task.endswith("_e")]
    assert len(tasks) == 13
    made = [scored(f"longbench/{task}", 0.9, by_axis=ranges(0.1, 0.2, 0.6 + 0.001 * place)) for place, task in enumerate(tasks)]
    (found,) = aggregates.of(made)
    each = [round((10 + 20 + 60 + 0.1 * place) / 3, 2) for place in range(13)]
    assert (found.name, found.score) == ("LongBench-E", round(statistics.fmean(each), 2))
    (lacking,) = aggregates.of([*made[1:], scored(f"longbench/{tasks[0]}", 0.9, by_axis=ranges(0.1, None))])
    assert (lacking.score, lacking.missing) == (None, (f"{tasks[0]} (no rows of 4-8k, 8k+)",))


def shown(made: list[Row]) -> list[list[str]]:
    out = io.StringIO()
    Console(width=200, file=out).print(report.averages(summary(made, aggregates=aggregates.of(made))))
    lines = [line for line in out.getvalue().splitlines() if line.strip()]
    return [[part.strip() for part in line.split("  ") if part.strip()] for line in lines]


def test_the_table_has_a_row_a_variant_and_a_column_an_average() -> None:
    code = {"lcc": 0.2, "repobench-p": 0.4}
    first = rows(code | {"passage_retrieval_en": 0.123456, "trec": 0.5, "samsum": 0.5})
    lines = shown([*first, *rows({"passage_retrieval_en": 1.0}, label="h2o[x]")])
    assert lines[0] == ["averages over tasks, in percent"]
    assert lines[1] == ["method", "environment", "few-shot", "synthetic", "code"]
    assert lines[3:] == [["full-kv", "tf5", "missing: triviaqa", "12.35", "30.00"], ["h2o[x]", "tf5", "–", "100.00", "–"]]


def test_the_table_names_models_promptings_and_what_was_not_answered() -> None:
    code = {"lcc": 0.2, "repobench-p": 0.4}
    unseen = [one for name in code for one in rows({name: 0.5}, prompting=Prompting(question="unseen"), task_key=f"u-{name}", partial=True)]
    other = [one.model_copy(update={"model": "other"}) for one in rows(code)]
    lines = shown([*rows(code), *unseen, *other])
    assert lines[1] == ["model", "method", "environment", "prompting", "code"]
    assert [line[-1] for line in lines[3:]] == ["30.00", "50.00 (not all answered: longbench/lcc, longbench/repobench-p)", "30.00"]
