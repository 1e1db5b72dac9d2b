"""StreamingLLM, variant ``windowed``: sinks and a window, from the first prompt token on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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

    def storages(self, layout: Layout) -> list[Storage]:
        """Make a window storage a layer, which rotates by itself."""
        return [WindowStorage(layout, window, layout.rotary) for window in self.windows(layout)]

    def analytic(self, layout: Layout) -> int:
        """Compute the budget's bytes, or the prompt's where it is shorter."""
        entries = sum(min(layout.longest, window.sinks + window.kept) for window in self.windows(layout))
        return entries * layout.entry_bytes()


def build(params: Mapping[str, Any]) -> Windowed:
    """Build the policy. Raises ValueError for parameters that do not fit together."""
    given = {key: value for key, value in params.items() if value is not None}
    unknown = sorted(set(given) - {"variant", "keep", "tokens", "sinks", "chunk"})
    if unknown:
        raise ValueError(f"streaming-llm does not know {', '.join(unknown)}")
    variant = given.get("variant", "windowed")
    if variant not in VARIANTS:
        raise ValueError(f"streaming-llm: variant '{variant}' is not one of {', '.join(VARIANTS)}")
    keep, tokens = given.get("keep"), given.get("tokens")
    if (keep is None) == (tokens is None):
        raise ValueError("streaming-llm: give either keep (a share of the prompt's tokens) or tokens (a number)")
    if keep is not None and not 0 < keep <= 1:
        raise ValueError(f"streaming-llm: keep is above 0 and at most 1, not {keep}")
    if tokens is not None and tokens < 1:
        raise ValueError(f"streaming-llm: tokens is at least 1, not {tokens}")
    sinks, chunk = given.get("sinks", 4), given.get("chunk", 2048)
    if sinks < 0 or chunk < 1:
        raise ValueError(f"streaming-llm: sinks is at least 0 and chunk at least 1, not {sinks} and {chunk}")
    return Windowed(sinks=sinks, chunk=chunk, keep=keep, tokens=tokens)
