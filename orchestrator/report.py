"""The table at the end of a run, summary.json and summary.csv."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .contracts.request import Prompting
from .contracts.result import Aggregate, BucketTime, Interval, Result, Row, Summary
from .store import RunFolder, write, write_document

if TYPE_CHECKING:
    from rich.table import Table

CSV_COLUMNS = (
    "label", "model", "task", "environment", "locked", "status", "reason", "metric", "score", "low", "high", "n", "requests", "oom",
    "too_long", "error", "zeros", "kv_bytes", "kv_analytic", "kv_full", "kv_host", "ratio", "ratio_analytic", "bucket_tokens", "prefill_s",
    "decode_tokens_per_s", "peak_bytes", "weights_bytes", "isolation", "engine", "random_weights", "cell", "config_sha256", "code_sha256",
)  # fmt: skip


def write_summary(run: RunFolder, summary: Summary) -> None:
    """Write ``summary.json`` and ``summary.csv``."""
    write_document(run.summary, summary)
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in summary.rows:
        writer.writerow(_csv(row))
    write(run.path / "summary.csv", text.getvalue())


def _csv(row: Row) -> Mapping[str, object]:
    values: dict[str, object] = {
        "label": row.label, "model": row.model, "task": row.task, "environment": row.environment, "locked": row.locked,
        "status": row.status, "reason": row.reason,
    }  # fmt: skip
    result = row.result
    if result is None:
        return values
    score = headline(result)
    time, kv = result.speed.headline, result.kv
    return values | {
        "metric": result.metric, "score": score.mean, "low": score.low, "high": score.high, "n": score.n, "zeros": score.zeros,
        "requests": result.counts.requests, "oom": result.counts.oom, "too_long": result.counts.too_long, "error": result.counts.error,
        "kv_bytes": kv and kv.device, "kv_analytic": kv and kv.analytic, "kv_full": kv and kv.full, "kv_host": kv and kv.host,
        "ratio": kv and kv.ratio, "ratio_analytic": kv and kv.ratio_analytic, "bucket_tokens": time and time.tokens,
        "prefill_s": time and time.prefill_s, "decode_tokens_per_s": time and time.decode_tokens_per_s, "peak_bytes": time and time.peak,
        "weights_bytes": result.weights, "isolation": result.isolation, "engine": result.engine, "random_weights": result.random_weights,
        "cell": result.cell, "config_sha256": result.config_sha256, "code_sha256": result.code_sha256,
    }  # fmt: skip


def headline(result: Result) -> Interval:
    """Return the headline metric's interval; empty when nothing was scored."""
    return result.scores.get(result.metric, Interval(n=0, mean=None, low=None, high=None))


def size(value: float | None) -> str:
    """Return bytes as a person reads them."""
    if value is None:
        return "–"
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= scale:
            return f"{value / scale:,.1f} {unit}"
    return f"{value:,.0f} B"


def ordered(rows: Sequence[Row]) -> list[Row]:
    """Return rows by model and task, then by measured ratio, full KV first; what did not run comes last."""

    def key(row: Row) -> tuple[str, str, float, str, str]:
        ratio = row.result.kv.ratio if row.result and row.result.kv and row.result.kv.ratio else 1.0
        return row.model, row.task, ratio if row.result else float("inf"), row.label, row.environment

    return sorted(rows, key=key)


def table(summary: Summary) -> "Table":
    """Return the table that ends a run."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    several_models = len({row.model for row in summary.rows}) > 1
    several_tasks = len({row.task for row in summary.rows}) > 1
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for name in (["model"] if several_models else []) + (["task"] if several_tasks else []) + ["method", "environment"]:
        made.add_column(name, no_wrap=name == "method", overflow="fold")
    for name in ("score", "95 % interval", "n", "KV held", "ratio", "prefill", "decode", "peak", "isolation"):
        made.add_column(name, justify="left" if name == "isolation" else "right")
    marked = _marked(summary)
    for row in ordered(summary.rows):
        cells = ([row.model] if several_models else []) + ([row.task] if several_tasks else []) + [row.label, marked[row.environment]]
        made.add_row(*(Text(cell) for cell in cells), *(Text(cell) for cell in _figures(row)))
    return made


def averages(summary: Summary) -> "Table":
    """Return the table of averages over tasks, one row for each variant, model and environment; what lacks a task says so."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = tuple(dict.fromkeys(one.name for one in summary.aggregates))
    groups: dict[tuple[str, str, str, str], dict[str, Aggregate]] = {}
    for one in summary.aggregates:
        groups.setdefault((one.model, one.label, one.environment, one.prompting), {})[one.name] = one
    several_models = len({key[0] for key in groups}) > 1
    several_promptings = any(key[3] for key in groups)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="averages over tasks, in percent", title_justify="left", title_style="")
    for name in (["model"] if several_models else []) + ["method", "environment"] + (["prompting"] if several_promptings else []):
        made.add_column(name, no_wrap=name == "method", overflow="fold")
    for name in names:
        made.add_column(name, justify="right", overflow="fold")
    marked = _marked(summary)
    for (model, label, environment, prompting), found in groups.items():
        cells = ([model] if several_models else []) + [label, marked[environment]] + ([prompting] if several_promptings else [])
        made.add_row(*map(Text, cells), *(Text(_average(found.get(name))) for name in names))
    return made


def _average(one: Aggregate | None) -> str:
    if one is None:
        return "–"
    if one.score is None:
        return f"missing: {', '.join(one.missing)}"
    return f"{one.score:.2f}" + (f" (not all answered: {', '.join(one.partial)})" if one.partial else "")


def _figures(row: Row) -> Sequence[str]:
    result = row.result
    if result is None:
        return (row.status.replace("_", " "),)  # the reason, which may be long, stands below the table
    score = headline(result)
    time = result.speed.headline
    counts = result.counts
    n = f"on {counts.scored} of {counts.requests}" if result.partial else str(score.n)
    mean = "–" if score.mean is None else f"{score.mean * 100:.1f}"
    if result.partial and score.zeros is not None:
        mean += f" (zeros: {score.zeros * 100:.1f})"
    interval = "–" if score.low is None or score.high is None else f"{score.low * 100:.1f} – {score.high * 100:.1f}"
    kv = result.kv
    return (
        mean + (" (random weights)" if result.random_weights else ""), interval, n, size(kv.device if kv else None),
        f"{kv.ratio:.2f}x" if kv and kv.ratio else "–", f"{time.prefill_s:.2f} s" if time and time.prefill_s is not None else "–",
        f"{time.decode_tokens_per_s:.1f} tok/s" if time and time.decode_tokens_per_s else "–", size(time.peak if time else None),
        result.isolation or "–",
    )  # fmt: skip


def footnote(summary: Summary) -> str:
    """Return why rows have no figures, a line each, and what the columns mean, in the run's own figures."""
    reasons = [
        f"{row.label} in {row.environment} on {row.model}, {row.task}: {row.status.replace('_', ' ')}: {row.reason}"
        for row in ordered(summary.rows)
        if row.result is None and row.reason
    ]
    times: list[BucketTime] = [row.result.speed.headline for row in summary.rows if row.result and row.result.speed.headline]
    metric = next((row.result.metric for row in summary.rows if row.result), None)
    parts = []
    if metric:
        parts.append(f"score: {metric}, in percent")
    parts.append("KV held: bytes measured a request, ratio: full KV ÷ held")
    if times:
        longest = max(time.given for time in times)
        parts.append(
            "prefill, decode and peak (above the weights): medians of a pass of their own at batch 1, "
            f"longest bucket (~{longest:,.0f} tokens)"
        )
    recorded = [f"{mark}: the host's own packages, recorded, not locked" for name, mark in _marked(summary).items() if mark != name]
    return "\n".join([*reasons, *_promptings(summary), *recorded, "; ".join(parts) + "."])


def _marked(summary: Summary) -> Mapping[str, str]:
    """Return how tables call each environment: with a star where its packages are only recorded."""
    unlocked = {row.environment for row in summary.rows if not row.locked}
    names = dict.fromkeys(row.environment for row in summary.rows)
    return {name: f"{name}*" if name in unlocked else name for name in names}


def _promptings(summary: Summary) -> Sequence[str]:
    """Return a line for each task whose prompts are made in another than the usual way: the score is one of that way, too."""
    usual = Prompting()
    lines = []
    for row in ordered(summary.rows):
        if row.result is not None and row.result.prompting != usual:
            own = row.result.prompting
            differs = [f"{name} {getattr(own, name)}" for name in Prompting.model_fields if getattr(own, name) != getattr(usual, name)]
            lines.append(f"{row.task} on {row.model}: prompting: {', '.join(differs)}")
    return tuple(dict.fromkeys(lines))
