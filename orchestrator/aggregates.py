"""Averages over tasks, such as LongBench's six groups: what an eval lists, for each variant, model and environment of a summary.

An average with a task missing is not an average of the others: it has no score, and says what it lacks. One that lacks half of its tasks or
more is left out: nobody asked for it.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..evals import registry
from ..evals.base import Average, Averaged
from .contracts.request import Prompting
from .contracts.result import Aggregate, Result, Row
from .store import plain

_TASK_BOUND = frozenset({"template", "template_kwargs"})
"""Parts of the prompting that differ between the tasks of one average, because an eval says so."""


def of(rows: Iterable[Row]) -> tuple[Aggregate, ...]:
    """Return all averages over these rows, in the order of the rows, of their evals and of the evals' own lists."""
    found: dict[tuple[str, str, str, str], list[Result]] = defaultdict(list)
    for row in rows:
        if row.result is not None:
            found[(row.label, row.model, row.environment, row.result.task.partition("/")[0])].append(row.result)
    made: list[Aggregate] = []
    for (label, model, environment, name), results in found.items():
        averages = _averages(name)
        for prompting, alike in _alike(results) if averages else ():
            made += [
                Aggregate(
                    name=average.name, eval=name, label=label, model=model, environment=environment, prompting=prompting,
                    **_figures(name, average, alike),
                )
                for average in averages
                if 2 * sum(f"{name}/{task}" in alike for task in average.tasks) > len(average.tasks)
            ]  # fmt: skip
    return tuple(made)


def _averages(name: str) -> Sequence[Average]:
    try:
        one = registry.get(name)
    except (LookupError, ImportError):
        return ()  # kept results of an eval that is not here any more
    return one.averages if isinstance(one, Averaged) else ()


def _alike(results: Sequence[Result]) -> Iterator[tuple[str, Mapping[str, Sequence[Result]]]]:
    """Yield results by task, apart by prompting where a task is there twice, each with what tells its prompting from the others."""
    whole = _by_task(results)
    if all(len(several) == 1 for several in whole.values()):
        yield "", whole
        return
    apart: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        apart[_told(result.prompting, [other.prompting for other in results])].append(result)
    for told, part in apart.items():
        yield told, _by_task(part)


def _by_task(results: Iterable[Result]) -> Mapping[str, Sequence[Result]]:
    found: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        found[result.task].append(result)
    return found


def _told(one: Prompting, others: Sequence[Prompting]) -> str:
    mine, all_of_them = plain(one), [plain(other) for other in others]
    return ", ".join(
        f"{key}: {value}" for key, value in mine.items() if key not in _TASK_BOUND and any(other[key] != value for other in all_of_them)
    )


def _figures(name: str, average: Average, results: Mapping[str, Sequence[Result]]) -> dict[str, object]:
    values: list[float] = []
    missing: list[str] = []
    partial: list[str] = []
    for task in (f"{name}/{task}" for task in average.tasks):
        several = results.get(task, ())
        value, why = _value(several[0], average) if len(several) == 1 else (None, f" ({len(several)} results)" if several else "")
        if value is None:
            missing.append(task.partition("/")[2] + why)
        else:
            values.append(value)
            partial += [task] if several[0].partial else []
    return {
        "score": None if missing else round(statistics.fmean(values), 2),
        "tasks": tuple(f"{name}/{task}" for task in average.tasks), "missing": tuple(missing), "partial": tuple(partial),
    }  # fmt: skip


def _value(result: Result, average: Average) -> tuple[float | None, str]:
    """Return a task's value in percent, or None and why there is none."""
    if average.axis is None:
        mean = result.scores[result.metric].mean if result.metric in result.scores else None
        return (None, " (nothing scored)") if mean is None else (round(100 * mean, 2), "")
    places = result.by_axis.get(average.axis, {})
    means = {value: places[value].mean for value in average.values if value in places}
    lacking = [value for value in average.values if means.get(value) is None]
    if lacking:
        return None, f" (no rows of {', '.join(lacking)})"
    return round(statistics.fmean(round(100 * mean, 2) for mean in means.values() if mean is not None), 2), ""
