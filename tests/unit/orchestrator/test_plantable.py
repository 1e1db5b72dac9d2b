"""A plan for a person."""

import io

from rich.console import Console
from unit.orchestrator.builders import cell, plan, task

from longctx.orchestrator import plantable
from longctx.orchestrator.contracts.plan import Absent, Estimate, Plan


def shown(made: Plan) -> list[str]:
    out = io.StringIO()
    Console(width=200, file=out).print(plantable.plan_table(made))
    return out.getvalue().strip().splitlines()[2:]


def test_a_line_a_cell_with_status_reason_and_estimate() -> None:
    estimate = Estimate(prompt_tokens=9000, longest=4096, kv_bytes=3 * 2**20, kv_full_bytes=2**22)
    (line,) = shown(plan([cell(estimate=estimate, status="EXTEND", reason="1 of 3 answered [x]", missing=2)]))
    assert [part.strip() for part in line.split("  ") if part.strip()] == [
        "full-kv", "tf5", "tiny", "passkey-default", "EXTEND", "1 of 3 answered [x]", "2 of 3", "4,096 tokens", "3.0 MiB",
    ]  # fmt: skip


def test_what_is_not_known_yet_is_marked() -> None:
    (line,) = shown(plan([cell(requests=None, missing=None)]))
    assert line.split()[-3:] == ["?", "–", "–"]


def test_a_large_plan_shows_its_start_and_counts_the_rest() -> None:
    made = plan([cell(cell=f"c{number}", status="REUSE" if number % 2 else "NEW") for number in range(300)])
    assert len(shown(made)) == plantable.MOST_ROWS
    assert plantable.plan_words(made).startswith(
        "300 cells (150 NEW, 150 REUSE), the first 200 shown (--json has all); nothing to run; engine venv"
    )


def test_words_name_what_does_not_run_and_what_must_be_fetched() -> None:
    absent = Absent(variant="kivi", model="tiny", task="t", environment="tf4", kind="not_applicable", reason="takes Llama, not Gemma")
    words = plantable.plan_words(plan(absent=(absent,), tasks=(task(fetch="longctx data longbench"),)))
    assert "kivi on tiny, t: not applicable: takes Llama, not Gemma" in words
    assert "passkey/default: fetch its data first: longctx data longbench" in words
