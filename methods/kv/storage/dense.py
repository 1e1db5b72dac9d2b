"""Entries in the model's precision, in one buffer: every token of a layer, or those that a selection left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .. import attention
from .base import Layout, Parts, PromptLayer
from .cursor import Cursor


@dataclass(frozen=True)
class DenseView:
    """The entries of a row up to the queries' own, or of all rows when decoding."""

    keys: Tensor
    values: Tensor
    kernel: str
    single: bool
    starts: tuple[int, ...] = ()
    valid: Tensor | None = None
    """Which entries are any, where some are not."""
    fixed: bool = False
    window: int | None = None

    def attend(self, query: Tensor, scaling: float, softcap: float | None) -> Tensor:
        """Attend from (rows, heads, n, head_dim) to every earlier entry."""
        if self.fixed and self.valid is not None:
            return attention.masked(query, self.keys, self.values, scaling=scaling, softcap=softcap, valid=self.valid)[0]
        attend = {"kernel": self.kernel, "query": query, "keys": self.keys, "values": self.values, "scaling": scaling, "softcap": softcap}
        if self.valid is not None:
            return attention.padded(**attend, starts=self.starts, valid=self.valid)
        return (attention.single if self.single else attention.causal)(**attend)[0]

    def attended(self, query: Tensor, scaling: float, softcap: float | None) -> tuple[Tensor, Tensor]:
        """Attend from the queries of one row's chunk; return the log-sum-exp (1, heads, n) too."""
        return attention.causal(self.kernel, query, self.keys, self.values, scaling=scaling, softcap=softcap)


class DenseStorage:
    """Holds ``entries`` of each row (default: its whole prompt) until decoding starts, then has room for the new tokens too.

    Rows with fewer entries are padded on the left. ``entries`` counts what ``fill`` brings and what is appended behind it.
    """

    def __init__(self, layout: Layout, entries: Sequence[int] | None = None) -> None:
        self._layout = layout
        self._entries = layout.lengths if entries is None else tuple(entries)
        self._buffers: tuple[Tensor, Tensor] | None = None
        self._cursor: Cursor | None = None
        self._row = 0
        self._filled = 0
        self._seen = 0

    def begin(self, row: int) -> None:
        """Start the prompt of a row, read through this storage."""
        self._row, self._filled, self._seen = row, 0, 0
        self._need()

    def fill(self, row: int, prompt: PromptLayer) -> None:
        """Take all entries of a prompt; where there is one row and nothing follows, the tensors themselves."""
        count = prompt.keys.shape[2]
        self._row, self._filled, self._seen = row, 0, prompt.seen
        if prompt.owned and self._layout.rows == 1 and count == self._entries[0]:
            self._buffers, self._filled = (prompt.keys, prompt.values), count
        else:
            self._write(prompt.keys, prompt.values)

    def _need(self) -> tuple[Tensor, Tensor]:
        if self._buffers is None:
            most = max(self._entries)
            self._buffers = self._layout.empty(most), self._layout.empty(most)
        return self._buffers

    def _write(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write behind what the row holds; return what it holds now."""
        buffers = self._need()
        row, start = slice(self._row, self._row + 1), max(self._entries) - self._entries[self._row]
        first, last = start + self._filled, start + self._filled + keys.shape[2]
        if last > max(self._entries):
            raise ValueError(f"row {self._row} gets more entries than the {self._entries[self._row]} that its storage was made for")
        for buffer, new in zip(buffers, (keys, values)):
            buffer[row, :, first:last] = new
        self._filled += keys.shape[2]
        return buffers[0][row, :, start:last], buffers[1][row, :, start:last]

    def append(self, keys: Tensor, values: Tensor) -> DenseView:
        """Write new entries behind the old ones."""
        self._seen += keys.shape[2]
        cursor = self._cursor
        if cursor is None:
            return DenseView(*self._write(keys, values), self._layout.kernel, single=False)
        buffers = self._need()
        cursor.put(((buffers[0], keys), (buffers[1], values)))
        held = cursor.visible(buffers[0]), cursor.visible(buffers[1])
        return DenseView(*held, self._layout.kernel, True, cursor.starts, cursor.valid, cursor.fixed)

    def end(self) -> None:
        """Nothing to drop. Raises ValueError where less came than was claimed: its bytes would be a lie."""
        if self._filled != self._entries[self._row]:
            raise ValueError(f"row {self._row} has {self._filled} entries; its storage was made for {self._entries[self._row]}")

    def reserve(self, new_tokens: int) -> None:
        """Move to buffers with room for ``new_tokens``."""
        self._seen = self._layout.longest
        keys, values = self._need()
        self._buffers = None
        keys = grown(keys, new_tokens, self._layout)
        self._buffers = keys, grown(values, new_tokens, self._layout)
        self._cursor = Cursor(self._layout, self._entries, keys.shape[2])

    def seen(self) -> int:
        """Tokens that went in."""
        return self._seen

    def held(self, row: int) -> float:
        """Entries held for a row, its padding included."""
        return max(self._entries)

    def parts(self) -> Parts:
        """Return keys and values, and once decoding the places."""
        return {"dense": self._buffers or (), "index": self._cursor.tensors() if self._cursor else ()}

    def analytic(self) -> int:
        """Compute rows × the most entries × two vectors a KV head."""
        return self._layout.rows * max(self._entries) * self._layout.entry_bytes()


def grown(old: Tensor, extra: int, layout: Layout) -> Tensor:
    """Return a copy with room for ``extra`` entries behind the old ones."""
    larger = layout.empty(old.shape[2] + extra)
    larger[:, :, : old.shape[2]] = old
    return larger
