"""What the prompts of a group begin with, read once and kept from batch to batch until another group comes.

A prompt that has a group is always read in two parts, up to where its group parts and from there on, whether or not the first part was
there already: so answers are the same whichever requests of a group are asked for, in whatever order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Callable

from runner.protocol import Prompt

from .policy import Policy
from .prefill import Prefill, Start


def shared_tokens(prompt: Prompt) -> int:
    """Return how many tokens the first ``shared_segments`` segments of a prompt take, template in front included; 0 without a group.

    No more than the method may see before it compresses.
    """
    if prompt.group is None:
        return 0
    segments = [span for span in prompt.spans if span["role"] != "template"][: int(prompt.group["shared_segments"])]
    return min(int(segments[-1]["end"]), len(prompt.ids) if prompt.unseen_from is None else prompt.unseen_from) if segments else 0


@dataclass(frozen=True)
class _Kept:
    ids: tuple[int, ...]
    prefill: Prefill


@dataclass
class Prefixes:
    """The beginnings that the latest batch used, observed by the variants that read it; those of earlier groups are gone."""

    _policies: tuple[Policy, ...] = ()
    _kept: dict[str, _Kept] = field(default_factory=dict)

    def clear(self) -> bool:
        """Let go of everything; return whether there was anything."""
        had = bool(self._kept)
        self._policies, self._kept = (), {}
        return had

    def starts(
        self, batch: Sequence[Prompt], policies: Sequence[Policy], read: Callable[[Sequence[int]], Prefill], *, keep: bool = True
    ) -> list[Start]:
        """Return where each prompt's reading starts: behind what its group shares, which ``read`` reads if it is not here.

        Not kept, prompts still part in two. What a batch does not need is dropped before anything is read.
        """
        same = len(policies) == len(self._policies) and all(one is other for one, other in zip(policies, self._policies))
        lengths = [shared_tokens(prompt) for prompt in batch]
        groups = {str(prompt.group["id"]) for prompt, length in zip(batch, lengths) if prompt.group is not None and length}
        kept = {name: found for name, found in self._kept.items() if same and keep and name in groups}
        self._policies, self._kept = tuple(policies), kept
        if not keep:
            return [Start(length) for length in lengths]
        return [Start(length, self._of(prompt, length, read) if length else None) for prompt, length in zip(batch, lengths)]

    def _of(self, prompt: Prompt, length: int, read: Callable[[Sequence[int]], Prefill]) -> Prefill:
        """Return the beginning of a prompt. A name is not trusted: tokens at a border may depend on what follows, and ids decide."""
        assert prompt.group is not None
        name, ids = str(prompt.group["id"]), tuple(prompt.ids[:length])
        found = self._kept.get(name)
        if found is None or found.ids != ids:
            self._kept.pop(name, None)
            del found
            found = self._kept[name] = _Kept(ids, read(ids))
        return found.prefill
