"""Scores: failures are null and stay in the denominator, and what cannot be compared is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from unit.orchestrator.builders import (
    KEY,
    TASK,
    Bench,
    cell,
    environment,
    kv,
    model,
    reference,
    request_sha,
    response,
    sha,
    state,
    task,
    timing,
)

from longctx.evals import base
from longctx.orchestrator import scoring
from longctx.orchestrator.contracts.cell import Source
from longctx.orchestrator.contracts.plan import PlannedCell
from longctx.orchestrator.contracts.response import Response
from longctx.orchestrator.contracts.result import Result, Score
from longctx.orchestrator.errors import DataError, ScoreRefused
from longctx.orchestrator.store import read_document, read_lines, write_document, write_lines

EVERY = ["r0", "r1", "r2", "r3"]


class Marks:
    """An eval that gives 1 for the very answer, half marks for its first digit."""

    name = "passkey"
    tasks = ("default",)
    metric = "exact"
    axes = ("words", "style")
    summary = "marks"

    def score(self, task: str, reference: base.Reference, text: str) -> dict[str, float]:
        assert task == "default"
        return {"exact": float(text == reference.answers[0]), "first": float(text[:1] == reference.answers[0][:1]) / 2}

    def code(self) -> tuple[Path, ...]:
        return (Path(__file__),)


@pytest.fixture(autouse=True)
def _eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring.registry, "get", {"passkey": Marks()}.__getitem__)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, EVERY)


def put(bench: Bench, *answers: Response, planned: PlannedCell | None = None, sources: tuple[Source, ...] = ()) -> PlannedCell:
    one = planned or cell()
    write_lines(bench.folder(one) / "responses.jsonl", answers)
    write_document(bench.folder(one) / "cell.json", state(cell=one.cell, sources=sources))
    return one


def score(bench: Bench, *answers: Response, special: bool = False, **more: Any) -> Result:
    one = put(bench, *answers, **more)
    return scoring.score_cell(bench.run, one, task(), model(special=special), 42)


def scores(bench: Bench) -> Mapping[str, Score]:
    return {one.id: one for one in read_lines(bench.folder() / "scores.jsonl", Score)}


def test_all_answered(bench: Bench) -> None:
    found = score(bench, response("r1", "12345"), response("r0", "1"), response("r2", "9"), response("r3", "12345", finish="length"))
    assert found.counts.model_dump() == {"requests": 4, "answered": 4, "scored": 4, "oom": 0, "too_long": 0, "error": 0}
    exact = found.scores["exact"]
    assert (exact.n, exact.mean, exact.zeros, found.partial) == (4, 0.5, 0.5, False)
    assert exact.low is not None and exact.high is not None and exact.low < 0.5 < exact.high
    assert found.scores["first"].mean == pytest.approx(0.375)
    assert list(scores(bench)) == EVERY, "in the order of the task"
    assert scores(bench)["r0"].metrics == {"exact": 0.0, "first": 0.5}
    assert read_document(bench.folder() / "result.json", Result) == found
    assert scoring.whole(found)


@pytest.mark.parametrize("finish", ["oom", "too_long", "error"])
def test_a_failure_scores_null_and_keeps_its_place(bench: Bench, finish: str) -> None:
    found = score(bench, response("r0"), response("r1"), response("r2"), response("r3", finish=finish))
    assert getattr(found.counts, finish) == 1
    assert (found.counts.requests, found.counts.answered, found.counts.scored) == (4, 4, 3)
    assert found.partial
    assert (found.scores["exact"].mean, found.scores["exact"].n, found.scores["exact"].zeros) == (1.0, 3, 0.75)
    assert scores(bench)["r3"].metrics is None
    assert scoring.whole(found) is (finish != "error")


def test_a_missing_answer_is_partial_and_not_whole(bench: Bench) -> None:
    found = score(bench, response("r0"))
    assert (found.counts.requests, found.counts.answered, found.partial) == (4, 1, True)
    assert found.scores["exact"].zeros == 0.25
    assert not scoring.whole(found)


def test_nothing_scored_still_has_its_headline(bench: Bench) -> None:
    found = score(bench, *(response(name, finish="oom") for name in EVERY))
    exact = found.scores["exact"]
    assert (exact.n, exact.mean, exact.low, exact.zeros) == (0, None, None, 0.0)
    assert found.kv is None


def test_an_answer_to_an_older_request_is_none(bench: Bench) -> None:
    found = score(bench, response("r0"), response("r1", request_sha256=request_sha("r1", "other")), response("gone"))
    assert (found.counts.answered, found.counts.scored) == (1, 1)


def test_breakdown_by_axis(bench: Bench) -> None:
    places: list[dict[str, Any]] = [{"words": 1000, "depth": 1}, {"words": 200, "depth": 1}, {"words": 1000, "depth": 1}, {"words": "all"}]
    write_lines(bench.run.references(KEY), (reference(name, axes=axes) for name, axes in zip(EVERY, places, strict=True)))
    found = score(bench, response("r0"), response("r1"), response("r2", "no"), response("r3"))
    assert list(found.by_axis) == ["words"], "an axis that the eval does not name, or that some lack, is left out"
    assert {place: (one.n, one.mean) for place, one in found.by_axis["words"].items()} == {
        "200": (1, 1.0),
        "1000": (2, 0.5),
        "all": (1, 1.0),
    }
    assert list(found.by_axis["words"]) == ["200", "1000", "all"], "numbers as numbers"


def test_clusters_are_drawn_together(bench: Bench) -> None:
    answers = [response("r0"), response("r1"), response("r2", "no"), response("r3", "no")]
    alone = score(bench, *answers).scores["exact"]
    write_lines(bench.run.references(KEY), (reference(name, cluster=name if name == "r0" else "one") for name in EVERY))
    together = score(bench, *answers).scores["exact"]
    assert alone.mean == together.mean
    assert (alone.low, alone.high) != (together.low, together.high)


def test_bytes_and_their_ratio(bench: Bench) -> None:
    found = score(bench, response("r0", kv=kv(100, 400)), response("r1", kv=kv(50, 200)), response("r2", kv=None)).kv
    assert found is not None
    assert (found.device, found.full, found.ratio) == (75, 300, 4.0)
    assert found.ratio_analytic == pytest.approx(600 / 180)
    assert (found.host, found.at) == (None, "prefill")


def test_a_ratio_compares_the_same_requests(bench: Bench) -> None:
    found = score(bench, response("r0", kv=kv(100, 400)), response("r1", kv=kv(None, 4000)), response("r2", kv=kv(900, None))).kv
    assert found is not None
    assert found.ratio == 4.0
    assert (found.device, found.full) == (500, 2200)


def test_no_native_cache_has_no_ratio(bench: Bench) -> None:
    found = score(bench, response("r0", kv=kv(100, None))).kv
    assert found is not None
    assert (found.device, found.full, found.ratio, found.ratio_analytic) == (100, None, None, None)
    assert score(bench, response("r0", kv=kv(0, 400))).kv.ratio is None  # type: ignore[union-attr]


def test_bytes_of_failures_do_not_count(bench: Bench) -> None:
    found = score(bench, response("r0", kv=kv(100)), response("r1", finish="oom", kv=kv(10**9))).kv
    assert found is not None
    assert found.device == 100


def source(**more: Any) -> Source:
    fields: dict[str, Any] = {
        "run": "r", "job": "j", "attempt": 1, "engine": "venv", "isolation": "full", "responses": 1, "environment": environment(), **more,
    }  # fmt: skip
    return Source.model_validate(fields)


def test_isolation_is_the_weakest_of_all_attempts(bench: Bench) -> None:
    weak, later = source(isolation="partial", weights=5), source(attempt=2, engine="docker", environment=None)
    found = score(bench, response("r0"), sources=(weak, later))
    assert (found.isolation, found.engine, found.weights) == ("partial", "docker", 5)
    assert found.environment_seen["cpu"] == environment().cpu
    nothing = score(bench, response("r0"))
    assert (nothing.isolation, nothing.engine, nothing.environment_seen) == (None, None, {})


def test_random_weights_are_marked(bench: Bench) -> None:
    assert score(bench, response("r0"), special=True).random_weights
    assert not score(bench, response("r0")).random_weights


def test_scores_are_the_same_whenever_they_are_made(bench: Bench) -> None:
    answers = [response("r0"), response("r1", "no"), response("r2"), response("r3", finish="oom")]
    score(bench, *answers)
    first = [(bench.folder() / name).read_bytes() for name in ("scores.jsonl", "result.json")]
    score(bench, *reversed(answers))
    assert (bench.folder() / "scores.jsonl").read_bytes() == first[0]
    score(bench, *answers)
    assert (bench.folder() / "result.json").read_bytes() == first[1]


def test_times_are_medians_by_bucket(tmp_path: Path) -> None:
    rows = [timing("a", 16, 1.0), timing("b", 16, 2.0), timing("c", 16, 100.0), timing("d", 64, 4.0, memory={"weights": 1, "peak": None})]
    rows.append(timing("e", 64, generated=1, time={"prefill_s": None, "decode_s": None}))
    path = tmp_path / "timing.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    short, long = scoring.buckets(path, "abcde")
    assert (short.tokens, short.n, short.prefill_s, short.decode_tokens_per_s, short.peak) == (16, 3, 0.5, 2.0, 50)
    assert (long.tokens, long.n, long.prefill_s, long.decode_tokens_per_s, long.peak) == (64, 2, 0.5, 1.0, 50)
    assert scoring.buckets(tmp_path / "none", "abcde") == ()


def test_times_of_requests_that_a_sibling_run_had_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "timing.jsonl"
    path.write_text("".join(json.dumps(timing(name, 16, seconds)) + "\n" for name, seconds in (("a", 1.0), ("b", 9.0))))
    assert [bucket.n for bucket in scoring.buckets(path, {"a"})] == [1]


def test_mixed_prompts_are_refused_with_both_cells_named(bench: Bench) -> None:
    one = put(bench, response("r0"), response("r1"))
    other = put(bench, response("r0"), response("r1", given_sha256=sha("other")), planned=cell(cell="another"))
    with pytest.raises(ScoreRefused) as caught:
        scoring.refuse_mixed(bench.run, [one, other])
    told = str(caught.value)
    assert "Request r1 of" in told
    assert one.cell in told
    assert "another" in told
    assert "--fresh" in told


@pytest.mark.parametrize(
    "difference",
    [{"fed_sha256": sha("compressed")}, {"request_sha256": request_sha("r1", "older"), "given_sha256": sha("older")}],
    ids=["what was fed may differ", "an older version of the request"],
)
def test_what_may_differ_is_not_refused(bench: Bench, difference: dict[str, str]) -> None:
    one = put(bench, response("r1"))
    other = put(bench, response("r1", **difference), planned=cell(cell="another"))
    scoring.refuse_mixed(bench.run, [one, other])


def test_other_models_tasks_and_promptings_are_given_other_tokens(bench: Bench) -> None:
    others = [
        cell(cell="a", model="other"), cell(cell="b", task="other"), cell(cell="c", prompting={"bos": "none"}),
    ]  # fmt: skip
    planned = [put(bench, response("r1", given_sha256=sha(one.cell)), planned=one) for one in (cell(), *others)]
    scoring.refuse_mixed(bench.run, planned)
    scoring.refuse_mixed(bench.run, [cell(cell="without answers")])


def test_an_eval_that_is_gone_is_named() -> None:
    with pytest.raises(DataError, match=r"gone/task cannot be scored: .*\nSet LONGCTX_PATH"):
        scoring.eval_now("gone/task")
    assert len(scoring.eval_now(TASK)) == 64


def test_files_are_joined_side_by_side_only_where_they_stand_in_one_order(tmp_path: Path) -> None:
    for name, rows in {"ids": "abc", "references": "abc", "some": "ac", "turned": "ca", "more": "abcd"}.items():
        lines = [{"id": row, "request_sha256": row, "ids": []} for row in rows]
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))

    def fits(references: str, responses: str) -> bool:
        return scoring._side_by_side(tmp_path / "ids", tmp_path / references, tmp_path / responses)

    assert fits("references", "some")
    assert fits("references", "references")
    assert not fits("references", "turned")
    assert not fits("references", "more")
    assert not fits("turned", "some")
