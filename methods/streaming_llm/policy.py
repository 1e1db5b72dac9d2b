"""StreamingLLM: sinks and a window, from the first prompt token on (``published``, ``windowed``) or of a prompt read whole (``pruned``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from methods.kv.budget import budget_of, known
from methods.kv.evicting import Evicting
from methods.kv.observe import Observer
from methods.kv.storage.base import Layout, PromptLayer, Storage
from methods.kv.storage.window import Window, WindowStorage
from torch import Tensor

VARIANTS = ("published", "windowed", "pruned")
_NAMES = {"variant", "keep", "tokens", "sinks", "sinks_share", "cap", "chunk"}


@dataclass(frozen=True)
class Split:
    """A budget of entries a layer, in sinks and a window.

    ``keep`` is the budget as a share of the prompt's tokens, of which no more than ``cap`` count, and ``tokens`` as a number; one of them
    is given. ``sinks_share`` is a share of the budget, in place of ``sinks``.
    """

    sinks: int = 4
    keep: float | None = None
    tokens: int | None = None
    sinks_share: float | None = None
    cap: int | None = None

    def of(self, prompt_tokens: int) -> tuple[int, int]:
        """Return ``(sinks, window)``. At least the token itself is in the window, however small the budget."""
        counted = prompt_tokens if self.cap is None else min(prompt_tokens, self.cap)
        total = max(1, self.tokens if self.tokens is not None else int((self.keep or 0.0) * counted))
        sinks = self.sinks if self.sinks_share is None else int(self.sinks_share * total)
        sinks = min(sinks, total - 1)
        return sinks, total - sinks

    def entries(self, tokens: int) -> int:
        """Return what is kept of a prompt of ``tokens`` that was read whole."""
        return min(tokens, sum(self.of(tokens)))


@dataclass(frozen=True)
class Windowed:
    """The first tokens of the prompt and the latest ones, while it is read and afterwards; with ``rolling`` as the paper places them."""

    budget: Split
    chunk: int
    rolling: bool = False
    rotated: bool = False
    batch: bool = False
    extends_window: bool = True
    shares_prefill: bool = False

    def split(self, prompt_tokens: int) -> tuple[int, int]:
        """Return ``(sinks, window)``."""
        return self.budget.of(prompt_tokens)

    def windows(self, layout: Layout) -> list[Window]:
        """Return what each layer sees. A layer whose own sliding window is no larger than the budget's keeps to its own, without sinks."""
        sinks, local = self.split(max(layout.contexts))
        return [
            Window(local=own, kept=own - 1, own=own)
            if own is not None and own <= local
            else Window(local=local, kept=local, sinks=sinks, own=own, rolling=self.rolling)
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


@dataclass(frozen=True)
class FirstAndLatest:
    """Scores an entry by where it stands: the sinks first, then the later the better."""

    budget: Split

    def observer(self, layout: Layout, layer: int, row: int) -> Observer | None:
        """Observe nothing: places say enough."""
        return None

    def scores(self, prompt: PromptLayer) -> Tensor:
        """Return (1, kv_heads, m), the same for each KV head."""
        length = prompt.keys.shape[2]
        scores = torch.arange(length, dtype=torch.float32, device=prompt.keys.device)
        scores[: self.budget.of(length)[0]] = float("inf")
        return scores.expand(1, prompt.keys.shape[1], length)


def build(params: Mapping[str, Any]) -> Windowed | Evicting:
    """Build the policy. Raises ValueError for parameters that do not fit together."""
    given = known("streaming-llm", params, _NAMES)
    variant = given.get("variant", "windowed")
    if variant not in VARIANTS:
        raise ValueError(f"streaming-llm: variant '{variant}' is not one of {', '.join(VARIANTS)}")
    if "sinks" in given and "sinks_share" in given:
        raise ValueError("streaming-llm: give either sinks (a number) or sinks_share (a share of the budget)")
    budget = budget_of("streaming-llm", given)
    sinks, chunk = given.get("sinks", 4), given.get("chunk", 2048)
    if sinks < 0 or chunk < 1:
        raise ValueError(f"streaming-llm: sinks is at least 0 and chunk at least 1, not {sinks} and {chunk}")
    split = Split(sinks, budget.keep, budget.tokens, given.get("sinks_share"), given.get("cap"))
    if variant == "pruned":
        return Evicting(scorer=FirstAndLatest(split), budget=split)
    return Windowed(budget=split, chunk=chunk, rolling=variant == "published")
