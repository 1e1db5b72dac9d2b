"""StreamingLLM, variant ``windowed``: sinks and a window, from the first prompt token on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from methods.kv.budget import budget_of, known
from methods.kv.observe import Observer
from methods.kv.storage.base import Layout, Storage
from methods.kv.storage.window import Window, WindowStorage

VARIANTS = ("windowed",)


@dataclass(frozen=True)
class Windowed:
    """A budget of entries a layer: the first ``sinks`` tokens of the prompt and, in the rest, the latest ones.

    ``keep`` is the budget as a share of the prompt's tokens, ``tokens`` as a number; one of them is given.
    """

    sinks: int
    chunk: int
    keep: float | None
    tokens: int | None
    rotated: bool = False
    batch: bool = False
    extends_window: bool = True
    shares_prefill: bool = False

    def split(self, prompt_tokens: int) -> tuple[int, int]:
        """Return ``(sinks, window)``. At least the token itself is in the window, however small the budget."""
        total = self.tokens if self.tokens is not None else int((self.keep or 0.0) * prompt_tokens)
        total = max(1, total)
        sinks = min(self.sinks, total - 1)
        return sinks, total - sinks

    def windows(self, layout: Layout) -> list[Window]:
        """Return what each layer sees. A layer whose own sliding window is no larger than the budget's keeps to its own, without sinks."""
        sinks, local = self.split(layout.longest)
        return [
            Window(local=own, kept=own - 1, own=own)
            if own is not None and own <= local
            else Window(local=local, kept=local, sinks=sinks, own=own)
            for own in layout.shape.windows
        ]

    def observers(self, layout: Layout, row: int) -> Sequence[Observer | None]:
        """Observe nothing: the prompt is not read at full precision."""
        return ()

    def storages(self, layout: Layout) -> list[Storage]:
        """Make a window storage a layer, which rotates by itself. Raises ValueError where layers rotate differently."""
        if layout.rotary is None:
            raise ValueError("streaming-llm rotates keys itself and knows one set of frequencies; this model's layers have several")
        return [WindowStorage(layout, window, layout.rotary) for window in self.windows(layout)]


def build(params: Mapping[str, Any]) -> Windowed:
    """Build the policy. Raises ValueError for parameters that do not fit together."""
    given = known("streaming-llm", params, {"variant", "keep", "tokens", "sinks", "chunk"})
    variant = given.get("variant", "windowed")
    if variant not in VARIANTS:
        raise ValueError(f"streaming-llm: variant '{variant}' is not one of {', '.join(VARIANTS)}")
    budget = budget_of("streaming-llm", given)
    sinks, chunk = given.get("sinks", 4), given.get("chunk", 2048)
    if sinks < 0 or chunk < 1:
        raise ValueError(f"streaming-llm: sinks is at least 0 and chunk at least 1, not {sinks} and {chunk}")
    return Windowed(sinks=sinks, chunk=chunk, keep=budget.keep, tokens=budget.tokens)
