"""What a person sees while jobs run: a line a job, loading / n of m, tokens a second, time left. Plain lines where there is no terminal."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .contracts.outcome import Event
from .events import Tail, clean

if TYPE_CHECKING:
    from rich.console import Console

RATE_WINDOW_SECONDS = 30.0
PLAIN_EVERY_SECONDS = 10.0
"""How often a plain line tells how far a job is, if it got any further."""
MOST_WARNINGS = 200
"""Shown of one job; its log has all."""
MOST_TOKENS = 2**40
"""Believed of one event."""


@dataclass
class JobView:
    """What is known of one job from the events of its newest attempt."""

    job: str
    total: int
    """Answers wanted of all its cells; the timing pass comes on top."""
    labels: Mapping[str, str]
    state: str = "waiting"
    done: int = 0
    cell: str = ""
    phase: str = ""
    rate: float | None = None
    left_s: float | None = None
    warnings: list[str] = field(default_factory=list)
    _done_by_cell: dict[str, int] = field(default_factory=dict)
    _recent: deque[tuple[float, int, int]] = field(default_factory=deque)

    def take(self, event: Event) -> None:
        """Take one event into account."""
        if event.event == "loading":
            self.state = "loading"
        elif event.event == "loaded":
            self.state = "running"
        elif event.event == "warning":
            if len(self.warnings) < MOST_WARNINGS:
                self.warnings.append(clean(event.message))
        elif event.event == "progress":
            self.state, self.phase = "running", event.phase
            if event.cell not in self.labels:
                return  # no cell of this job: whatever wrote that is not to be believed
            self.cell = self.labels[event.cell]
            if event.phase != "time":
                self._done_by_cell[event.cell] = event.done
                self.done = min(sum(self._done_by_cell.values()), self.total)
            self._measure(event.at, min(event.tokens, MOST_TOKENS))

    def _measure(self, at: float, tokens: int) -> None:
        self._recent.append((at, tokens, self.done))
        while self._recent[-1][0] - self._recent[0][0] > RATE_WINDOW_SECONDS:
            self._recent.popleft()
        span = at - self._recent[0][0]
        if span > 0.5:
            self.rate = sum(entry[1] for entry in self._recent if entry[0] > self._recent[0][0]) / span
            answered = self.done - self._recent[0][2]
            self.left_s = (self.total - self.done) * span / answered if answered and self.total > self.done else None

    def text(self) -> str:
        """Return the line that a person reads."""
        if self.state == "running":
            doing = "timing" if self.phase == "time" else f"{self.done} of {self.total}"
            parts = [doing, self.cell]
            if self.rate:
                parts.append(f"{self.rate:,.0f} tok/s")
            if self.left_s is not None and self.phase != "time":
                parts.append(f"{duration(self.left_s)} left")
            return "  ".join(part for part in parts if part)
        return self.state


def duration(seconds: float) -> str:
    """Return seconds as a person says them."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


class Watcher:
    """Follows the newest attempt of each job."""

    def __init__(
        self, views: Mapping[str, JobView], attempts: Callable[[str], list[Path]], on_event: Callable[[Event], None] | None = None
    ) -> None:
        self.views = views
        self._on_event = on_event
        self._attempts = attempts
        self._tails: dict[str, tuple[Path, Tail]] = {}
        self._before = {job: set(attempts(job)) for job in views}
        """Attempts of an earlier time, which tell nothing of this one."""

    def look(self) -> None:
        """Read what is new."""
        for job, view in self.views.items():
            attempts = [attempt for attempt in self._attempts(job) if attempt not in self._before[job]]
            if not attempts:
                continue
            newest = attempts[-1]
            if job not in self._tails or self._tails[job][0] != newest:
                self._tails[job] = (newest, Tail(newest / "out" / "events.jsonl"))
            for event in self._tails[job][1].new():
                view.take(event)
                if self._on_event is not None:
                    self._on_event(event)


class Display(Protocol):
    """Shows job views; asked again and again."""

    def show(self, views: Mapping[str, JobView]) -> None:
        """Show how all jobs stand now."""


class PlainDisplay:
    """One line a change of state, and one every ten seconds; for logs and pipes."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._said: dict[str, tuple[str, int, float]] = {}
        self._warned: dict[str, int] = {}

    def show(self, views: Mapping[str, JobView]) -> None:
        """Print what is worth a line."""
        now = time.monotonic()
        for job, view in views.items():
            kind, done, at = self._said.get(job, ("waiting  ", 0, 0.0))
            new = f"{view.state} {view.cell} {view.phase}"
            if new != kind or (view.done != done and now - at > PLAIN_EVERY_SECONDS):
                self._said[job] = (new, view.done, now)
                if view.state != "waiting":
                    self._console.print(f"{job}: {view.text()}", markup=False, highlight=False)
            for message in view.warnings[self._warned.get(job, 0) :]:
                self._console.print(f"{job}: warning: {message}", markup=False, highlight=False)
            self._warned[job] = len(view.warnings)


class LiveDisplay:
    """A bar a job on a terminal."""

    def __init__(self, console: "Console") -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.fields[job]}"), BarColumn(bar_width=24), TextColumn("{task.fields[line]}"), console=console, transient=True
        )
        self._rows: dict[str, object] = {}
        self._warned: dict[str, int] = {}

    def __enter__(self) -> "LiveDisplay":
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the screen as it was."""
        self._progress.stop()

    def show(self, views: Mapping[str, JobView]) -> None:
        """Draw."""
        from rich.markup import escape
        from rich.progress import TaskID

        for job, view in views.items():
            if job not in self._rows:
                self._rows[job] = self._progress.add_task("", total=max(view.total, 1), job=escape(job), line="")
            row = TaskID(int(str(self._rows[job])))
            self._progress.update(row, completed=view.done, line=escape(view.text()))
            for message in view.warnings[self._warned.get(job, 0) :]:
                self._progress.console.print(f"{job}: warning: {message}", markup=False, highlight=False)
            self._warned[job] = len(view.warnings)


@contextmanager
def display(console: "Console") -> Iterator[Display]:
    """Yield the display that fits the console."""
    if console.is_terminal:
        with LiveDisplay(console) as live:
            yield live
    else:
        yield PlainDisplay(console)
