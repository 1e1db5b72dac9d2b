"""Four bits in name only, as the 2024 benchmark ran FlexGen: a full cache whose entries are rounded to what the codes could say."""

from __future__ import annotations

import math

from methods.kv.storage.base import Layout, Parts, PromptLayer
from methods.kv.storage.dense import DenseStorage, DenseView
from torch import Tensor


class SimulatedStorage:
    """A dense storage whose entries are rounded as they come, prompt and new tokens alike.

    An entry's rounding depends on that entry alone, so rounding it once is rounding the whole cache anew at every step.
    """

    def __init__(self, layout: Layout, bits: int, group: int) -> None:
        self._dense = DenseStorage(layout)
        self._levels = 2**bits - 1
        self._group = math.gcd(group, layout.shape.head_dim)

    def begin(self, row: int) -> None:
        """Start the prompt of a row."""
        self._dense.begin(row)

    def fill(self, row: int, prompt: PromptLayer) -> None:
        """Raise TypeError: the prompt, too, attends to rounded entries."""
        raise TypeError("a simulated quantisation reads its prompt by itself; its policy must not say shares_prefill")

    def append(self, keys: Tensor, values: Tensor) -> DenseView:
        """Round and append."""
        return self._dense.append(rounded(keys, self._levels, self._group), rounded(values, self._levels, self._group))

    def end(self) -> None:
        """End the row."""
        self._dense.end()

    def reserve(self, new_tokens: int) -> None:
        """Make room for new tokens."""
        self._dense.reserve(new_tokens)

    def seen(self) -> int:
        """Tokens that went in."""
        return self._dense.seen()

    def held(self, row: int) -> float:
        """Entries held for a row."""
        return self._dense.held(row)

    def parts(self) -> Parts:
        """Return the dense storage's tensors: nothing is packed."""
        return self._dense.parts()

    def analytic(self) -> int:
        """Compute the dense storage's bytes."""
        return self._dense.analytic()


def rounded(states: Tensor, levels: int, group: int) -> Tensor:
    """Round (…, head_dim) to ``levels`` + 1 values a group, in the dtype given. A group of one value becomes NaN, as 0 / 0 did in 2024."""
    grouped = states.unflatten(-1, (-1, group))
    least, most = grouped.aminmax(dim=-1, keepdim=True)
    scale = (most - least) / levels
    return (((grouped - least) / scale).relu().round() * scale + least).flatten(-2)
