"""A plan for a person: one line a cell, then what it comes to."""

from collections import Counter
from typing import TYPE_CHECKING

from .contracts.plan import Plan
from .report import size

if TYPE_CHECKING:
    from rich.table import Table

MOST_ROWS = 200


def plan_table(plan: Plan) -> "Table":
    """Return the cells as a table; of a large plan the first ones."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("method", "environment", "model", "task", "status", "why", "missing", "longest prompt", "KV there"):
        made.add_column(name, justify="right" if name in ("missing", "longest prompt", "KV there") else "left")
    for cell in plan.cells[:MOST_ROWS]:
        wanted = "?" if cell.missing is None or cell.requests is None else f"{cell.missing} of {cell.requests}"
        longest = cell.estimate.longest
        row = (
            cell.label, cell.environment, cell.model, cell.task, cell.status, cell.reason, wanted,
            f"{longest:,} tokens" if longest is not None else "–", size(cell.estimate.kv_bytes),
        )  # fmt: skip
        made.add_row(*map(Text, row))
    return made


def plan_words(plan: Plan) -> str:
    """Return what the plan comes to, in words."""
    statuses = Counter(cell.status for cell in plan.cells)
    parts = [f"{len(plan.cells)} cells ({', '.join(f'{count} {status}' for status, count in sorted(statuses.items()))})"]
    if len(plan.cells) > MOST_ROWS:
        parts[0] += f", the first {MOST_ROWS} shown (--json has all)"
    parts.append(f"{len(plan.jobs)} jobs" if plan.jobs else "nothing to run")
    lines = ["; ".join(parts) + f"; engine {plan.engine}, device {plan.device}."]
    lines += [f"{one.variant} on {one.model}, {one.task}: {one.kind.replace('_', ' ')}: {one.reason}" for one in plan.absent[:20]]
    lines += [f"{task.task}: {task.note}" for task in plan.tasks if task.note]
    lines += [f"{task.task}: fetch its data first: {task.fetch}" for task in plan.tasks if task.fetch]
    return "\n".join(lines)
