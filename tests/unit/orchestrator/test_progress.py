"""What a person sees while jobs run."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from rich.console import Console

from longctx.orchestrator import progress
from longctx.orchestrator.contracts.outcome import Event
from longctx.orchestrator.progress import JobView, PlainDisplay, Watcher, duration

ADAPTER: TypeAdapter[Any] = TypeAdapter(Event)


def event(kind: str, at: float = 0.0, **fields: Any) -> Event:
    found: Event = ADAPTER.validate_python({"event": kind, "at": at, **fields})
    return found


def went(done: int, at: float = 0.0, *, cell: str = "c1", tokens: int = 0, phase: str = "respond", total: int = 10) -> Event:
    return event("progress", at, cell=cell, phase=phase, done=done, total=total, tokens=tokens)


def view(total: int = 10, events: Sequence[Event] = ()) -> JobView:
    made = JobView(job="j", total=total, labels={"c1": "full-kv", "c2": "sinks"})
    for one in events:
        made.take(one)
    return made


def test_states_follow_the_events() -> None:
    made = view()
    assert made.text() == "waiting"
    made.take(event("loading"))
    assert made.text() == "loading"
    made.take(event("loaded", seconds=1.0))
    assert made.text() == "0 of 10"
    made.take(went(3))
    assert made.text() == "3 of 10  full-kv"


def test_cells_add_up_and_timing_counts_for_nothing() -> None:
    made = view(events=[went(5), went(2, cell="c2"), went(1, phase="time", total=2)])
    assert made.done == 7
    assert made.text() == "timing  full-kv"


def test_rate_and_time_left_are_of_the_last_half_minute() -> None:
    made = view(events=[went(0, at=100.0), went(1, at=101.0, tokens=500), went(2, at=102.0, tokens=700)])
    assert made.rate == pytest.approx(600)
    assert made.left_s == pytest.approx(8.0)
    assert made.text() == "2 of 10  full-kv  600 tok/s  8 s left"
    made.take(went(3, at=200.0, tokens=10))
    made.take(went(4, at=210.0, tokens=100))
    assert made.rate == pytest.approx(10)
    assert made.left_s == pytest.approx(60)


def test_nothing_is_left_at_the_end() -> None:
    made = view(total=2, events=[went(0, at=0.0), went(2, at=5.0, tokens=5)])
    assert made.left_s is None


HUGE = 10**400


@pytest.mark.parametrize(
    "hostile",
    [
        went(HUGE, at=5.0, tokens=HUGE, total=HUGE),
        went(1, at=1e300, tokens=1),
        went(1, at=-1e300, tokens=1),
        went(1, at=float("inf"), tokens=1),
        went(1, at=float("nan"), tokens=1),
        went(1, at=5.0, cell="\x1b[2Jwiped"),
        event("warning", message="\x1b[2J[red]x"),
    ],
)
def test_what_a_job_says_of_itself_cannot_break_the_display(hostile: Event) -> None:
    made = view(events=[went(0, at=0.0), hostile, hostile, went(1, at=2.0, tokens=5)])
    assert 0 <= made.done <= made.total
    out = io.StringIO()
    for console in (Console(file=out, width=100), Console(file=out, width=100, force_terminal=True, color_system=None)):
        with progress.display(console) as shown:
            shown.show({"j": made})
    assert "\x1b[2J" not in out.getvalue()


def test_warnings_do_not_pile_up() -> None:
    assert len(view(events=[event("warning", message="m")] * 1000).warnings) == progress.MOST_WARNINGS


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (61, "1 min 01 s"), (3599.6, "1 h 00 min"), (7384, "2 h 03 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_plain_lines_tell_what_changed_and_warnings_once() -> None:
    out = io.StringIO()
    shown = PlainDisplay(Console(file=out, width=100))
    made = view()
    shown.show({"j": made})
    assert out.getvalue() == ""
    for one in (event("loading"), event("loaded", seconds=1.0), went(1), went(2), event("warning", message="hot"), went(0, cell="c2")):
        made.take(one)
        shown.show({"j": made})
        shown.show({"j": made})
    made.state = "done"
    shown.show({"j": made})
    assert out.getvalue().splitlines() == [
        "j: loading", "j: 0 of 10", "j: 1 of 10  full-kv", "j: warning: hot", "j: 2 of 10  sinks", "j: done",
    ]  # fmt: skip


def test_plain_lines_come_again_after_a_while_when_something_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    shown = PlainDisplay(Console(file=out, width=100))
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    made = view(events=[went(1)])
    shown.show({"j": made})
    now[0] += 11
    shown.show({"j": made})
    made.take(went(2))
    shown.show({"j": made})
    assert out.getvalue().splitlines() == ["j: 1 of 10  full-kv", "j: 2 of 10  full-kv"]


def test_the_newest_attempt_is_followed(tmp_path: Path) -> None:
    made = view()
    seen: list[Event] = []
    watcher = Watcher({"j": made}, lambda job: sorted(tmp_path.iterdir()), seen.append)
    watcher.look()
    for number, done in (("1", 4), ("2", 1)):
        (tmp_path / number / "out").mkdir(parents=True)
        (tmp_path / number / "out" / "events.jsonl").write_text(went(done).model_dump_json() + "\n")
        watcher.look()
        watcher.look()
        assert made.done == done
    assert len(seen) == 2
