"""``longctx score TASK --responses FILE``: predictions that something else made, scored as their benchmark does.

The file has one JSON object a line, as LongBench's own ``pred.py`` writes them: ``pred`` (text), ``answers`` (texts), ``all_classes``
(texts, or null where a task has no classes) and ``length`` (words of the context, for ranges). What else is in it is passed over. It may
come from anywhere, so nothing in it is believed before it is looked at; all that is wrong is told at once, by line.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..evals import registry
from ..evals.base import Reference, ScoresPredictions
from . import stats
from .errors import DataError, EnvironmentFailed, UsageError
from .manifest.problems import nearest

LONGEST = 100_000
"""Characters of a prediction or an answer: those of LongBench have less than 10,000."""
LONGEST_LINE = 16 * 2**20
"""Bytes."""
MOST_TOLD = 10
"""Wrong lines that one message lists."""
_FORM = "Each line is one JSON object with pred, answers, all_classes and length, as LongBench's pred.py writes them."


@dataclass
class _Scores:
    """In the order of the lines."""

    metrics: dict[str, list[float]] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)


def score_file(task: str, path: Path, *, by_length: bool = False, all_metrics: bool = False) -> dict[str, Any]:
    """Score a file of predictions; returns plain data for JSON: ``task``, ``n``, and ``score`` in percent, rounded to two decimals.

    With ``by_length`` (LongBench's ``--e``; taken for granted for its ``_e`` tasks) ``by_length`` has n and score for each range of
    lengths, the score being null where there is no row, and ``score`` is the mean over the ranges, null if one is empty. With
    ``all_metrics`` ``metrics`` has every metric's n, mean and 95 % interval in percent, over all lines. Raises UsageError for a task that
    is not known, DataError for what is wrong with the file, EnvironmentFailed if a package that the metric needs is not installed.
    """
    one, name = _task(task)
    by_length = by_length or name.endswith("_e")
    scores = _Scores()
    problems: list[str] = []
    for number, line in _lines(path):
        try:
            reference, text = _parsed(line, number, by_length)
            for metric, value in one.score(name, reference, text).items():
                scores.metrics.setdefault(metric, []).append(value)
            scores.lengths.append(reference.length or 0)
        except ImportError as error:
            raise EnvironmentFailed(f"{task} cannot be scored: {error}.") from error
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
            if len(problems) == MOST_TOLD:
                problems.append("Reading stopped there.")
                break
    if problems:
        raise DataError("\n".join(problems), _FORM)
    if not scores.metrics:
        raise DataError(f"{path} has no predictions.", _FORM)
    return _summed(one, task, scores, by_length, all_metrics)


def _summed(one: ScoresPredictions, task: str, scores: _Scores, by_length: bool, all_metrics: bool) -> dict[str, Any]:
    headline = scores.metrics[one.metric]
    total = 0.0
    for value in headline:  # one by one, as upstream: sum() adds up more exactly from Python 3.12 on, and the last digit may tell
        total += value
    made: dict[str, Any] = {"task": task, "n": len(headline), "score": round(100 * total / len(headline), 2)}
    if by_length:
        parts: dict[str, list[float]] = {name: [] for name in one.buckets}
        for value, length in zip(headline, scores.lengths, strict=True):
            parts[one.bucket(length)].append(value)
        # Upstream takes numpy's mean here.
        means = {name: round(float(100 * np.mean(values)), 2) if values else None for name, values in parts.items()}
        known = [mean for mean in means.values() if mean is not None]
        made["score"] = round(math.fsum(known) / len(known), 2) if len(known) == len(means) else None
        made["by_length"] = {name: {"n": len(parts[name]), "score": mean} for name, mean in means.items()}
    if all_metrics:
        made["metrics"] = {metric: _interval(values) for metric, values in scores.metrics.items()}
    return made


def _interval(values: Sequence[float]) -> dict[str, Any]:
    found = stats.interval(values)
    edges = {"mean": found.mean, "low": found.low, "high": found.high}
    return {"n": found.n, **{key: None if value is None else round(100 * value, 2) for key, value in edges.items()}}


def _task(task: str) -> tuple[ScoresPredictions, str]:
    try:
        one, name = registry.resolve(task)
    except LookupError as error:
        raise UsageError(f"{task}: {error}", _meant(task)) from error
    if not isinstance(one, ScoresPredictions):
        raise UsageError(f"{task}: the eval {one.name!r} has no prediction files to score.", "Score a run of it: longctx score RUN")
    return one, name


def _meant(task: str) -> str:
    near = nearest(task, (known.partition("/")[2] for known in registry.tasks())) if "/" not in task else None
    whole = next((known for known in registry.tasks() if near is not None and known.endswith(f"/{near}")), None)
    return f"A task is written eval/task; did you mean {whole!r}?" if whole else "A task is written eval/task, such as longbench/qasper."


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield lines that are not blank, by number from 1; a byte order mark and the ends of lines are taken off."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise DataError(f"{path}:{number}: the line is longer than {LONGEST_LINE:,} bytes.", _FORM)
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if line := line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Name a file of predictions.") from error


def _parsed(line: bytes, number: int, by_length: bool) -> tuple[Reference, str]:
    """Return what one line holds. Raises ValueError that says which key is wrong, and how."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} (column {error.colno})") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply to be a prediction") from error
    if not isinstance(row, dict):
        raise ValueError(f"is {_kind(row)}, not an object")
    answers, classes, length = _texts(row, "answers"), row.get("all_classes"), row.get("length")
    if not answers:
        raise ValueError("answers is empty: there is nothing to score against")
    if classes is not None:
        classes = _texts(row, "all_classes")
    if by_length and (isinstance(length, bool) or not isinstance(length, int)):
        raise ValueError("length is missing" if "length" not in row else f"length is {_kind(length)}, not an integer")
    text = _text(_got(row, "pred"), "pred")
    reference = Reference(id=str(number), answers=answers, cluster=str(number), classes=classes, length=length if by_length else None)
    return reference, text


def _got(row: Mapping[str, Any], key: str) -> Any:
    if key not in row:
        near = nearest(key, row)
        raise ValueError(f"{key} is missing" + (f"; there is {near!r}" if near else ""))
    return row[key]


def _texts(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = _got(row, key)
    if not isinstance(found, list):
        raise ValueError(f"{key} is {_kind(found)}, not a list of texts")
    return tuple(_text(item, f"{key}[{place}]") for place, item in enumerate(found))


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{key} is {_kind(value)}, not a text")
    if len(value) > LONGEST:
        raise ValueError(f"{key} has {len(value):,} characters; more than {LONGEST:,} are not scored")
    return value


def _kind(value: Any) -> str:
    kinds = {
        type(None): "null",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return kinds[type(value)]
