"""Longest common subsequences of words, with bits (Hyyrö, Bit-parallel LCS-length computation revisited, 2004).

One row of the usual table of lengths T is an integer: bit j is 0 where T[i][j + 1] = T[i][j] + 1. That is also all that a walk back through
the table needs: where two words differ T[i][j] is the larger of T[i - 1][j] and T[i][j - 1], and the former is larger just where that bit
is 0. So a row costs a few operations on integers of as many bits as there are words, not an operation a cell.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Walk:
    """A walk from the far corner of the table to its edge."""

    xs: tuple[int, ...]
    """Places in x of the common words, the last first."""
    ys: tuple[int, ...]
    """Their places in y."""
    steps: int


def places(words: Sequence[str]) -> dict[str, int]:
    """Return for each word the bits of its places."""
    found: dict[str, int] = {}
    for place, word in enumerate(words):
        found[word] = found.get(word, 0) | 1 << place
    return found


def _rows(x: Sequence[str], where: Mapping[str, int], width: int) -> Iterator[int]:
    full = (1 << width) - 1
    row = full
    for word in x:
        if match := row & where.get(word, 0):
            row = ((row + match) | (row ^ match)) & full
        yield row


def length(x: Sequence[str], y: Sequence[str]) -> int:
    """Return the length of a longest common subsequence."""
    row = (1 << len(y)) - 1
    for row in _rows(x, places(y), len(y)):  # noqa: B007 - the last one counts
        pass
    return len(y) - row.bit_count()


def walk(x: Sequence[str], where: Mapping[str, int], width: int) -> Walk:
    """Read out one longest common subsequence of x and y, of which there may be several: y is given as ``places(y)`` and its length.

    From the end of both: equal words are common and left behind together; else the last word of x is left behind if that of y is the one
    that the length needs (T[i - 1][j] > T[i][j - 1]), and else that of y. ``steps`` counts all until either is used up.
    """
    i, j = len(x), width
    if where.keys().isdisjoint(x):
        return Walk(xs=(), ys=(), steps=j if i else 0)
    rows = tuple(_rows(x, where, width))
    xs: list[int] = []
    ys: list[int] = []
    steps = 0
    while i and j:
        steps += 1
        bit = 1 << (j - 1)
        if where.get(x[i - 1], 0) & bit:
            i, j = i - 1, j - 1
            xs.append(i)
            ys.append(j)
        elif rows[i - 1] & bit:
            j -= 1
        else:
            i -= 1
    return Walk(xs=tuple(xs), ys=tuple(ys), steps=steps)
