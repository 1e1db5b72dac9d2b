"""Against the real data: each prompt is upstream's template.format(row), and stays what it was."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from longctx.evals.base import BuildContext, Reference, Request
from longctx.evals.data import file_sha256
from longctx.evals.longbench import EVAL
from longctx.evals.longbench.datasets import BUCKETS, DATASETS
from longctx.evals.sources import LONGBENCH

GOLDEN = Path(__file__).parents[3] / "golden" / "longbench" / "prompts.json"
FIRST = 20

pytestmark = pytest.mark.data


def pairs(task: str, data: Path, **params: Any) -> list[tuple[Request, Reference]]:
    return list(EVAL.build(task, EVAL.normalise(task, params), BuildContext(seed=42, data=data)))


def prompt(request: Request) -> str:
    return "".join(segment.text for segment in request.segments)


def upstream(data: Path, name: str) -> Any:
    return json.loads((data / "longbench" / f"{name}.json").read_bytes())


@pytest.mark.parametrize("task", DATASETS)
def test_prompts_are_upstreams(task: str, real: Path) -> None:
    template, most = upstream(real, "dataset2prompt")[task], upstream(real, "dataset2maxlen")[task]
    built = pairs(task, real, limit=FIRST)
    with (real / "longbench" / f"{task}.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(FIRST), strict=False)]
    assert len(built) == len(rows) >= 4
    for (request, reference), row in zip(built, rows, strict=True):
        assert prompt(request) == template.format(**row), request.id
        assert [one.text for one in request.segments if one.role == "context"] == [row["context"]]
        assert request.max_new_tokens == most
        assert reference.answers == tuple(row["answers"]) and reference.length == row["length"]
        assert reference.classes == (tuple(row["all_classes"]) if row["all_classes"] else None)
        assert (reference.classes is not None) == (task in ("trec", "lsht"))
        assert reference.axes["bucket"] in BUCKETS
    assert len({request.id for request, _ in built}) == len(built)
    assert {(request.min_new_tokens, request.stop.tokens_of) for request, _ in built} == {(1, ("\n",)) if task == "samsum" else (0, ())}


@pytest.mark.parametrize("task", DATASETS)
def test_segments_are_where_the_template_has_them(task: str, real: Path) -> None:
    ((request, _),) = pairs(task, real, limit=1)
    roles = [segment.role for segment in request.segments]
    assert roles[:2] == ["instruction", "context"]
    assert roles[2:] == [role for role in ("question", "answer_prefix") if role in roles]
    text = {segment.role: segment.text for segment in request.segments}
    template = upstream(real, "dataset2prompt")[task]
    assert text["instruction"] == template.partition("{context}")[0]
    tail = template.rpartition("}")[2]
    lines = [line for line in tail.splitlines(keepends=True) if line.strip()]
    assert text.get("answer_prefix") == (lines[-1] if lines else None)
    assert ("answer_prefix" in text) == (task not in {"trec", "triviaqa", "samsum", "lsht"}), "their rows end in the prefix themselves"


def test_prompts_stay_what_they_were(real: Path) -> None:
    """Rows that are known by their id: those of another origin are compared as far as they are the same rows."""
    golden = json.loads(GOLDEN.read_bytes())
    assert set(golden) == set(DATASETS)
    compared = 0
    for task, hashes in golden.items():
        for request, _ in pairs(task, real, limit=FIRST):
            if request.id in hashes:
                assert hashlib.sha256(prompt(request).encode()).hexdigest() == hashes[request.id], f"{task}: {request.id}"
                compared += 1
    assert compared >= 9, "three rows of each of the three sets whose ids are the hub's own"


def test_the_pinned_files_are_the_pinned_ones(real: Path) -> None:
    for file in LONGBENCH.pinned:
        assert file_sha256(real / file.path) == file.sha256
