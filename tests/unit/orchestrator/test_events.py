"""Following events of a process that is not trusted."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from longctx.orchestrator import events
from longctx.orchestrator.contracts.outcome import Loading, Warning_
from longctx.orchestrator.events import Tail, clean


def line(**fields: Any) -> bytes:
    return json.dumps({"schema_version": 1, "at": 1.0, **fields}).encode() + b"\n"


WARNING = line(event="warning", message="one")


def test_events_come_once_each_and_lines_may_arrive_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert list(tail.new()) == [], "there is nothing yet"
    with path.open("wb", buffering=0) as file:
        file.write(line(event="loading") + WARNING[:20])
        assert [type(event) for event in tail.new()] == [Loading]
        assert list(tail.new()) == []
        file.write(WARNING[20:])
        (found,) = tail.new()
    assert isinstance(found, Warning_)
    assert found.message == "one"


def test_lines_that_are_no_events_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(
        b"\n{}\n[]\nnull\n\xff\xfe\n"
        + line(event="unheard-of")
        + line(event="warning", message="m", extra=1)
        + b'{"a":' * 3000
        + b"\n"
        + WARNING
    )
    assert [event.event for event in Tail(path).new()] == ["warning"]


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(WARNING)
    (tmp_path / "events.jsonl").symlink_to(tmp_path / "real")
    assert list(Tail(tmp_path / "events.jsonl").new()) == []


def test_a_pipe_or_a_folder_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    assert list(Tail(tmp_path / "pipe").new()) == []
    assert list(Tail(tmp_path / "folder").new()) == []


def test_an_endless_line_takes_no_memory_and_hides_nothing_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "READ_LIMIT", 1000)
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"x" * 5000 + b"\n" + WARNING)
    tail = Tail(path)
    found = [event for _ in range(10) for event in tail.new()]
    assert [event.event for event in found] == ["warning"]
    assert len(tail._rest) <= 2000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ünï 漢\n\ttab", "plain ünï 漢\n\ttab"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[1;1Hgone", "gone"),
        ("\x1b]0;title\x07x\x1b]8;;http://x\x1b\\y", "xy"),
        ("a\x08\x7fb\rc\x00d", "abcd"),
        ("c1 \x9b31m", "c1 31m"),
        ("\x1b(0lqk", "lqk"),
        ("cut \x1b", "cut "),
    ],
)
def test_escapes_are_stripped(text: str, expected: str) -> None:
    assert clean(text) == expected
