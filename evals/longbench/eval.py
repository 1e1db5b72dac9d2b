"""LongBench as an eval: parameters, requests and references. What an answer is worth stands in ``metrics``."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import parameters
from ..base import Average, BuildContext, DataMissing, ParameterError, Reference, Request, Size, Stop
from ..data import command, find, recorded
from ..sources import LONGBENCH
from . import metrics
from .datasets import BUCKETS, TASKS, bucket, dataset_of
from .groups import AVERAGES
from .prompting import segments
from .rows import Row, path_of, read

PROMPTS = "longbench/dataset2prompt.json"
LENGTHS = "longbench/dataset2maxlen.json"
MOST_ROWS = 1_000_000


class LongBench:
    """All sets of LongBench v1 and LongBench-E, by name; ``qasper_e`` is LongBench-E's."""

    name: str = "longbench"
    tasks: tuple[str, ...] = TASKS
    metric: str = "score"
    axes: tuple[str, ...] = ("bucket",)
    summary: str = "questions, summaries, few-shot tasks and code on real long texts (Bai et al., ACL 2024); needs its data"
    no_template: frozenset[str] = frozenset(task for task in TASKS if not dataset_of(task).template)
    averages: tuple[Average, ...] = AVERAGES
    buckets: tuple[str, ...] = BUCKETS

    def bucket(self, length: int) -> str:
        """Return LongBench-E's range of a row's ``length``."""
        return bucket(length)

    def normalise(self, task: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in defaults. Raises ParameterError."""
        parameters.known(params, ("limit", "subset"))
        limit, subset = params.get("limit"), params.get("subset")
        if limit is not None:
            limit = parameters.integer(limit, ("limit",), 1, MOST_ROWS)
        if subset is not None:
            subset = _subset(subset)
            if limit is not None:
                raise ParameterError(("limit",), "stands beside subset, which already says which rows", "one of the two")
        return {"limit": limit, "subset": subset}

    def needs_tokenizer(self, task: str, params: Mapping[str, Any]) -> bool:
        """Never: the texts are as they are."""
        return False

    def reads(self, task: str, params: Mapping[str, Any]) -> tuple[str, ...]:
        """The files below the data folder that ``build`` depends on."""
        return (PROMPTS, LENGTHS, path_of(task))

    def size(self, task: str, params: Mapping[str, Any], data: Path | None) -> Size:
        """What the record of the fetch tells; None before that."""
        if params["subset"] is not None:
            return Size(requests=len(params["subset"]))
        rows = None
        if data is not None and (data / path_of(task)).is_file():
            try:
                rows = recorded(data, LONGBENCH.name).get(path_of(task), {}).get("rows")
            except DataMissing:
                rows = None
        return Size(requests=rows if rows is None or params["limit"] is None else min(rows, params["limit"]))

    def build(self, task: str, params: Mapping[str, Any], context: BuildContext) -> Iterator[tuple[Request, Reference]]:
        """Yield requests in the file's order. Raises DataMissing, and ParameterError for a row of ``subset`` that there is not."""
        dataset = dataset_of(task)
        template = _entry(context.data, PROMPTS, dataset.name, str)
        most = _entry(context.data, LENGTHS, dataset.name, int)
        stop = Stop(tokens_of=("\n",)) if dataset.newline_stops else Stop()
        for row in _wanted(read(task, context.data), params):
            try:
                prompt = segments(template, row.values)
            except (KeyError, IndexError, AttributeError, ValueError) as error:
                message = f"{PROMPTS} asks for what row {row.index} of {path_of(task)} does not have: {error}."
                raise DataMissing(message, command(LONGBENCH.name, context.data)) from error
            request = Request(id=row.id, segments=prompt, max_new_tokens=most, min_new_tokens=1 if dataset.newline_stops else 0, stop=stop)
            yield request, _reference(row)

    def score(self, task: str, reference: Reference, text: str) -> dict[str, float]:
        """Score one answer; README.md says what each metric is."""
        return metrics.score(task, text, reference.answers, reference.classes)

    def code(self) -> tuple[Path, ...]:
        """All modules of this folder, and those that say what the data is."""
        here = Path(__file__).parent
        return tuple(sorted((*here.rglob("*.py"), here.parent / "data.py", here.parent / "sources.py")))


def _reference(row: Row) -> Reference:
    values = row.values
    return Reference(
        id=row.id, answers=tuple(values["answers"]), cluster=row.cluster, length=values["length"],
        classes=tuple(values["all_classes"]) if values["all_classes"] is not None else None,
        axes={"bucket": bucket(values["length"]), "words": values["length"]},
    )  # fmt: skip


def _subset(value: Any) -> list[int | str]:
    if not isinstance(value, list | tuple) or not value:
        raise ParameterError(("subset",), f"{value!r} is not allowed", "a list of rows, each by its number from 0 or by its id")
    for place, item in enumerate(value):
        if not isinstance(item, str):
            parameters.integer(item, ("subset", place), 0, MOST_ROWS)
        if item in value[:place]:
            raise ParameterError(("subset", place), f"{item!r} stands here twice", "each row once")
    return list(value)


def _wanted(rows: Iterator[Row], params: Mapping[str, Any]) -> Iterator[Row]:
    if params["subset"] is None:
        for row in rows:
            if row.index == params["limit"]:
                return
            yield row
        return
    left = set(params["subset"])
    for row in rows:
        if row.index in left or row.id in left:
            if {row.index, row.id} <= left:
                place = params["subset"].index(row.id)
                raise ParameterError(("subset", place), f"{row.id!r} is row {row.index}, which stands here as well", "each row once")
            left -= {row.index, row.id}
            yield row
        if not left:
            return
    missing = next(item for item in params["subset"] if item in left)
    raise ParameterError(
        ("subset", params["subset"].index(missing)), f"there is no row {missing!r}", "numbers and ids of rows that were fetched"
    )


def _entry(data: Path | None, path: str, name: str, kind: type[Any]) -> Any:
    """Return a set's entry of one of the two configuration files."""
    found = find(data, LONGBENCH, path)
    try:
        entry = json.loads(found.read_bytes())[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataMissing(f"{found} has no entry for {name!r} ({type(error).__name__}).", command(LONGBENCH.name, data)) from error
    if not isinstance(entry, kind):
        raise DataMissing(f"{found}: the entry of {name!r} is {entry!r}.", command(LONGBENCH.name, data))
    return entry


EVAL = LongBench()
