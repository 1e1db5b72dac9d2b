"""How much of a prompt a method may keep: ``keep`` (a share of its tokens) or ``tokens`` (a number), the same words in every method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Budget:
    """Entries a KV head of a layer, at least one."""

    keep: float | None
    tokens: int | None

    def entries(self, tokens: int) -> int:
        """Return the entries kept of a prompt of ``tokens``: never more than there are."""
        wanted = self.tokens if self.tokens is not None else int((self.keep or 0.0) * tokens)
        return min(tokens, max(1, wanted))


def budget_of(method: str, params: Mapping[str, Any]) -> Budget:
    """Read ``keep`` or ``tokens``. Raises ValueError, naming the method, unless exactly one of them is given and sensible."""
    keep, tokens = params.get("keep"), params.get("tokens")
    if (keep is None) == (tokens is None):
        raise ValueError(f"{method}: give either keep (a share of the prompt's tokens) or tokens (a number)")
    if keep is not None and not 0 < keep <= 1:
        raise ValueError(f"{method}: keep is above 0 and at most 1, not {keep}")
    if tokens is not None and tokens < 1:
        raise ValueError(f"{method}: tokens is at least 1, not {tokens}")
    return Budget(keep=keep, tokens=tokens)


def known(method: str, params: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """Return the parameters that are set. Raises ValueError for one that the method does not have."""
    given = {key: value for key, value in params.items() if value is not None}
    unknown = sorted(set(given) - names)
    if unknown:
        raise ValueError(f"{method} does not know {', '.join(unknown)}")
    return given
