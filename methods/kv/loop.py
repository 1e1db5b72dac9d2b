"""The greedy loop. Needs torch alone, so that every transformers version decodes by the same rules.

Rows are prefilled one by one, so no padding enters the model and a row's numbers do not depend on its neighbours, then decoded
together. Only the last position's logits are ever computed. A stop token counts as generated and its text, unless special, is kept, as
``generate()`` does; a stop string is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Callable, Protocol

import torch
from runner.protocol import Answer, Holding, Hooks, Prompt
from torch import Tensor

Decode = Callable[[Sequence[int]], str]


class Decoder(Protocol):
    """A model with a cache for one batch."""

    def prefill(self, row: int, ids: Sequence[int]) -> Tensor:
        """Take a row's prompt; return the logits of its last position, (1, vocabulary)."""

    def holding(self, row: int) -> Holding:
        """Say what is held for a row, once all prompts are complete."""

    def reserve(self, new_tokens: int) -> None:
        """Make room for decoding. Called once, after all prompts."""

    def step(self, tokens: Tensor) -> Tensor:
        """Take one token of each row, (rows,); return the next logits, (rows, vocabulary)."""


@dataclass
class _Row:
    prompt: Prompt
    limit: int
    free: bool
    """Whether it runs to its limit, whatever the model says."""
    ids: list[int] = field(default_factory=list)
    finish: str | None = None
    text: str | None = None

    shown: int = 0
    """Characters of the answer that a watching person has seen."""

    def tell(self, piece: Callable[[str, str], None], decode: Decode) -> None:
        """Show what is new of the text; a character whose last bytes are still to come waits for them."""
        text = decode(self.ids) if self.text is None else self.text
        if len(text) > self.shown and (self.finish is not None or not text.endswith("\ufffd")):
            piece(self.prompt.id, text[self.shown :])
            self.shown = len(text)

    def take(self, token: int, decode: Decode) -> None:
        """Append a token and decide whether the row is done."""
        if self.finish is not None:
            return
        self.ids.append(token)
        if not self.free and len(self.ids) >= self.prompt.min_new_tokens:
            if token in self.prompt.stop_ids:
                self.finish = "stop"
            elif self.prompt.stop_strings:
                self._look(decode)
        if self.finish is None and len(self.ids) >= self.limit:
            self.finish = "length"

    def _look(self, decode: Decode) -> None:
        """End at the first stop string that ends behind the least number of tokens, and cut it off."""
        text = decode(self.ids)
        least = len(decode(self.ids[: self.prompt.min_new_tokens - 1])) if self.prompt.min_new_tokens > 1 else 0
        found = [text.find(stop, max(0, least - len(stop) + 1)) for stop in self.prompt.stop_strings]
        hits = [place for place in found if place >= 0]
        if hits:
            self.text, self.finish = text[: min(hits)], "stop"


@torch.inference_mode()
def greedy(
    make: Callable[[], Decoder], prompts: Sequence[Prompt], hooks: Hooks, decode: Decode, exact_new_tokens: int | None = None
) -> list[Answer]:
    """Decode a batch greedily. ``make`` builds the cache; times are up to the first token, and from there to the last.

    Decoding cannot be told apart between rows: its time is null for more than one.
    """
    rows = [_Row(prompt, exact_new_tokens or prompt.max_new_tokens, exact_new_tokens is not None) for prompt in prompts]
    hooks.before_cache()
    decoder = make()
    current, prefill_s = [], []
    for number, row in enumerate(rows):
        started = hooks.clock()
        current.append(_pick(decoder.prefill(number, row.prompt.ids), [row], 0))
        prefill_s.append(hooks.clock() - started)
    for number, row in enumerate(rows):
        hooks.holding(row.prompt.id, decoder.holding(number))
    started = hooks.clock()
    _decode(decoder, torch.cat(current), rows, hooks, decode)
    decode_s = hooks.clock() - started if len(rows) == 1 else None
    return [
        Answer(
            id=row.prompt.id,
            text=decode(row.ids) if row.text is None else row.text,
            finish=row.finish or "length",
            generated=len(row.ids),
            fed_ids=row.prompt.ids,
            prefill_s=spent,
            decode_s=decode_s,
        )
        for row, spent in zip(rows, prefill_s)
    ]


def _decode(decoder: Decoder, token: Tensor, rows: Sequence[_Row], hooks: Hooks, decode: Decode) -> None:
    """Decode until every row is done. Where nothing can stop a row early, tokens stay on the device until the end."""
    limit = max(row.limit for row in rows)
    if limit > 1:
        decoder.reserve(limit - 1)
    kept = [token]
    watching = hooks.piece is not None or not all(row.free or not (row.prompt.stop_ids or row.prompt.stop_strings) for row in rows)
    for count in range(1, limit + 1):
        if watching:
            for row, value in zip(rows, token.tolist()):
                row.take(value, decode)
                if hooks.piece is not None:
                    row.tell(hooks.piece, decode)
            if all(row.finish for row in rows):
                return
        if count == limit:
            break
        hooks.phase("decode", max(len(row.prompt.ids) for row in rows) + count)
        token = _pick(decoder.step(token), rows, count)
        kept.append(token)
    if not watching:
        for row, values in zip(rows, torch.stack(kept, dim=1).tolist()):
            for value in values:
                row.take(value, decode)


def _pick(logits: Tensor, rows: Sequence[_Row], count: int) -> Tensor:
    """Return the likeliest token of each row, (rows,). A row with fewer than its least number of tokens may not stop."""
    for number, row in enumerate(rows):
        if row.prompt.stop_ids and not row.free and count < row.prompt.min_new_tokens:
            logits[number, list(row.prompt.stop_ids)] = float("-inf")
    return logits.argmax(-1)
