"""Every fatal error: a code of its own, and the words on the command line agree."""

import re

import pytest

from longctx.orchestrator import errors
from longctx.orchestrator.cli import EXIT_CODES
from longctx.orchestrator.errors import FATAL, LongctxError


def test_every_error_is_listed() -> None:
    defined = {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, LongctxError)}
    assert set(FATAL) == defined


def test_codes_are_distinct_and_allowed() -> None:
    codes = [one.exit_code for one in FATAL]
    assert len(set(codes)) == len(codes)
    assert all(0 < code < 126 or code == 130 for code in codes), "125 to 128 mean something to shells"


def test_the_help_documents_every_code() -> None:
    documented = {int(code) for code in re.findall(r"(?:^|· |: |\n)(\d+) ", EXIT_CODES)}
    assert documented == {0, 141, *(one.exit_code for one in FATAL)}


@pytest.mark.parametrize("one", FATAL)
def test_a_message_ends_with_the_next_step(one: type[LongctxError]) -> None:
    assert str(one("What happened.", "Do this.")) == "What happened.\nDo this."
    assert str(one("What happened.")) == "What happened."
    assert one.meaning
    assert one.__doc__
