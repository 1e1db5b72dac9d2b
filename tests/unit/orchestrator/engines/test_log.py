"""A log is plain text and has an end, whatever a process says."""

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longctx.orchestrator.engines.log import LINE_CAP, LogPump, LogWriter, clean_line


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        (b"\x1b[31mred\x1b[0m text", "red text"),
        (b"\x1b]0;a title\x07after", "after"),
        (b"\x1b]8;;https://a.b\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b"10%\r50%\r100%", "100%"),
        (b"windows line\r", "windows line"),
        (b"bell\x07 back\x08 tab\tkept", "bell back tab\tkept"),
        ("caf\u00e9 \u202egnp.exe".encode(), "caf\u00e9 gnp.exe"),
        (b"\xff\xfe broken", "\ufffd\ufffd broken"),
        (b"\x1b[2J\x1b[H\x1b(Bcleared", "cleared"),
    ],
)
def test_escapes_and_controls_are_removed(raw: bytes, plain: str) -> None:
    assert clean_line(raw) == plain


@given(st.binary(max_size=300))
def test_nothing_that_a_terminal_obeys_is_left(raw: bytes) -> None:
    assert not any(ord(character) < 32 and character != "\t" for line in raw.split(b"\n") for character in clean_line(line))


@given(st.lists(st.sampled_from([b"\x1b[31", b"mred", b"\n", b"a", b"\r", b"\xc3", b"\xa9", b"\x1b"]), max_size=30))
def test_pieces_do_not_matter(pieces: list[bytes]) -> None:
    in_pieces, whole = io.BytesIO(), io.BytesIO()
    for file, parts in ((in_pieces, pieces), (whole, [b"".join(pieces)])):
        writer = LogWriter(file)
        for part in parts:
            writer.feed(part)
        writer.finish()
    assert in_pieces.getvalue() == whole.getvalue()


def test_the_cap_ends_a_log_with_one_notice() -> None:
    file = io.BytesIO()
    writer = LogWriter(file, cap=1000)
    for _ in range(1000):
        writer.feed(b"x" * 99 + b"\n")
    assert file.getvalue().count(b"size cap") == 1 and len(file.getvalue()) < 1200


def test_a_line_without_end_is_not_held_back() -> None:
    file = io.BytesIO()
    LogWriter(file).feed(b"x" * (LINE_CAP + 1))
    assert len(file.getvalue()) > LINE_CAP


def test_a_log_that_cannot_be_written_still_drains(tmp_path: Path) -> None:
    read, write = os.pipe()
    pump = LogPump(os.fdopen(read, "rb"), tmp_path / "absent" / "log")
    pump.start()
    with os.fdopen(write, "wb") as pipe:
        pipe.write(b"x" * 2**20)
    pump.join(10)
    assert not pump.is_alive()
