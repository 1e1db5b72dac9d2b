"""Draws a run's passkey results: one panel a method, depth by length, with what it held. Usage: figure.py RUN OUT.svg [LABEL…]

With labels (as in the table), only these variants, in this order. Standard library only; reads summary.json and the cells'
scores.jsonl, so the picture shows what was measured and nothing else.
"""

import json
import sys
from collections import defaultdict
from html import escape
from pathlib import Path
from typing import Any

CELL, GAP, LEFT, TOP = 46, 3, 64, 84
IN_A_ROW = 5
"""Panels side by side."""
MISSED, HALF, FOUND = (214, 69, 65), (240, 196, 83), (46, 139, 110)


def colour(share: float) -> str:
    """Red for missed, green for found, yellow between."""
    low, high, place = (MISSED, HALF, share * 2) if share < 0.5 else (HALF, FOUND, share * 2 - 1)
    return "#" + "".join(f"{round(a + (b - a) * place):02x}" for a, b in zip(low, high, strict=True))


def grid(run: Path, result: dict[str, Any]) -> dict[tuple[float, int], list[float]]:
    """Return the headline scores by (depth, words)."""
    found: dict[tuple[float, int], list[float]] = defaultdict(list)
    for line in (run / "cells" / result["cell"] / "scores.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["metrics"] is not None:
            found[(row["axes"]["depth"], row["axes"]["words"])].append(row["metrics"][result["metric"]])
    return found


def panel(left: int, top: int, row: dict[str, Any], scores: dict[tuple[float, int], list[float]], first: bool) -> list[str]:
    """Return one method's panel as SVG elements."""
    depths, words = sorted({place[0] for place in scores}), sorted({place[1] for place in scores})
    result = row["result"]
    score, kv = result["scores"][result["metric"]], result["kv"]
    lines = [
        (row["label"], 'font-weight="600"'),
        (f"{row['environment']} · {score['mean'] * 100:.0f} % found, n = {score['n']}", 'fill="#555"'),
        (
            f"KV held {kv['device'] / 2**20:.1f} MiB · {kv['ratio']:.2f}x less"
            if kv["ratio"] > 1.005
            else f"KV held {kv['device'] / 2**20:.1f} MiB · baseline",
            'fill="#555"',
        ),
    ]
    parts = [f'<text x="{left}" y="{top + 24 + 17 * index}" {style}>{escape(text)}</text>' for index, (text, style) in enumerate(lines)]
    for y, depth in enumerate(depths):
        middle = top + TOP + y * (CELL + GAP) + CELL / 2 + 4
        if first:
            parts.append(f'<text x="{left - 8}" y="{middle}" text-anchor="end" fill="#555">{depth:g}</text>')
        for x, length in enumerate(words):
            share = sum(scores[(depth, length)]) / len(scores[(depth, length)])
            corner = left + x * (CELL + GAP)
            parts.append(
                f'<rect x="{corner}" y="{top + TOP + y * (CELL + GAP)}" width="{CELL}" height="{CELL}" rx="4" fill="{colour(share)}"/>'
            )
            parts.append(f'<text x="{corner + CELL / 2}" y="{middle}" text-anchor="middle" fill="#fff">{share * 100:.0f}</text>')
    bottom = top + TOP + len(depths) * (CELL + GAP) + 14
    parts += [
        f'<text x="{left + x * (CELL + GAP) + CELL / 2}" y="{bottom}" text-anchor="middle" fill="#555">{length}</text>'
        for x, length in enumerate(words)
    ]
    return parts


def main() -> None:
    """Read the run, write the picture."""
    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    rows = [row for row in json.loads((run / "summary.json").read_text())["rows"] if row["result"]]
    if labels := sys.argv[3:]:
        rows = sorted((row for row in rows if row["label"] in labels), key=lambda row: labels.index(row["label"]))
    else:
        rows.sort(key=lambda row: (row["result"]["kv"]["ratio"], row["label"], row["environment"]))
    found = [grid(run, row["result"]) for row in rows]
    depths, words = (len({place[axis] for scores in found for place in scores}) for axis in (0, 1))
    wide, high = max(words * (CELL + GAP), 232) + 18, TOP + depths * (CELL + GAP) + 30
    parts = []
    for index, (row, scores) in enumerate(zip(rows, found, strict=True)):
        line, column = divmod(index, IN_A_ROW)
        parts += panel(LEFT + column * wide, line * high, row, scores, column == 0)
    left, height = LEFT + min(len(rows), IN_A_ROW) * wide, ((len(rows) - 1) // IN_A_ROW + 1) * high + 24
    model = rows[0]["result"]["model"]
    parts.append(
        f'<text x="{LEFT}" y="{height - 10}" fill="#555">Passkey found, in percent. '
        f"Down: where the key stands (0 start, 1 end). Across: words of text. Model: {escape(model)}.</text>"
    )
    body = "\n".join(parts)
    out.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left} {height}" font-family="system-ui, sans-serif" font-size="13">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    main()
