"""Turns one request into token ids: template, special tokens, segment spans, truncation. The rules stand here once for all methods.

The whole prompt is tokenised at once, as a model would be given it; segments are found again in the result.

*template*: ``none`` takes the prompt as it is; ``chat`` makes it the one user turn of the tokenizer's own template, followed by the
generation prompt. *bos*: ``once`` yields exactly one BOS where the tokenizer adds one or the template has one, ``none`` yields none,
``double`` tokenises with special tokens whatever the template brought (two BOS on many chat models, as some published code did; without
a template the same as ``once``). *truncate middle*: of more than ``max_prompt_tokens`` tokens, special and template tokens included, the
first half and the last half are kept (the last one the longer by one where the number is odd). Cut ids are never decoded and tokenised
again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .ending import BadJob

SENTINEL = "\u2983longctx prompt\u2984"
"""Stands for the prompt where a template is tried, to learn what the template puts around it. Nothing to strip at its ends."""


@dataclass(frozen=True)
class Encoded:
    """A prompt as token ids. ``spans`` has one entry a segment, in order and possibly empty, and one for each stretch of template."""

    ids: list[int]
    spans: list[dict[str, Any]]
    truncated: int


class Encoder:
    """A tokenizer under one prompting."""

    def __init__(self, tokenizer: Any, prompting: Mapping[str, Any]) -> None:
        template = prompting.get("template", "none")
        if template not in ("none", "chat"):
            raise BadJob(f"prompting.template is {template!r}; this runner knows none and chat")
        if template == "chat" and not getattr(tokenizer, "chat_template", None):
            raise BadJob("prompting.template is chat, but the tokenizer has no chat template; use none, or give the model a template")
        self._tokenizer = tokenizer
        self._chat = template == "chat"
        self._kwargs = dict(prompting.get("template_kwargs") or {})
        self._bos = prompting.get("bos", "once")
        self._limit = prompting.get("max_prompt_tokens")
        self._truncate = prompting.get("truncate", "none") == "middle"
        self._before, self._after = specials(tokenizer)

    def encode(self, segments: Sequence[Mapping[str, str]]) -> Encoded:
        """Tokenise one prompt. Raises BadJob when the template does not keep its text."""
        prompt = "".join(segment["text"] for segment in segments)
        text, borders = self._wrapped(prompt, segments) if self._chat else (prompt, _borders(segments))
        ids, starts = self._positions(text, borders)
        if not self._chat:  # whatever a tokenizer adds at the ends without saying which text it stands for
            starts[0], starts[-1] = 0, len(ids)
        if self._bos == "none" and ids[:1] == [self._tokenizer.bos_token_id]:
            ids, starts = ids[1:], [max(0, start - 1) for start in starts]
        before, after = self._specials(ids)
        ids = before + ids + after
        starts = [start + len(before) for start in starts]
        total = len(ids)
        if self._truncate and self._limit is not None and total > self._limit:
            head = self._limit // 2
            cut = total - self._limit
            ids = ids[:head] + ids[head + cut :]
            starts = [start if start < head else max(head, start - cut) for start in starts]
        return Encoded(ids, _spans(segments, starts, len(ids)), total - len(ids))

    def _specials(self, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the special tokens to put before and after the text's own ids."""
        if self._bos == "double":
            return self._before, self._after
        bos = self._tokenizer.bos_token_id
        others = [token for token in self._before if token != bos]
        lacks_bos = self._bos == "once" and bos in self._before and list(ids[:1]) != [bos]
        if self._chat:  # the template has brought everything but, on some models, the BOS
            return self._before if lacks_bos else [], []
        return self._before if lacks_bos else others, self._after

    def _wrapped(self, prompt: str, segments: Sequence[Mapping[str, str]]) -> tuple[str, list[int]]:
        """Return the templated text and where in it each segment starts, and where the last one ends."""
        around = self._render(SENTINEL)
        before, found, after = around.partition(SENTINEL)
        text = self._render(prompt)
        inner = text[len(before) : len(text) - len(after)]
        offset = prompt.find(inner)
        # Many templates strip the turn's text; more than that would make it another prompt.
        if not found or text != before + inner + after or offset < 0 or inner.strip() != prompt.strip():
            raise BadJob("the model's chat template changes the text of the prompt, so its segments cannot be found; use template none")
        return text, [len(before) + min(max(0, border - offset), len(inner)) for border in _borders(segments)]

    def _render(self, prompt: str) -> str:
        turns = [{"role": "user", "content": prompt}]
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **self._kwargs))

    def _positions(self, text: str, borders: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the ids of a text without special tokens, and for each border between characters the first token behind it."""
        if self._tokenizer.is_fast:
            encoding = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            ids = [int(token) for token in encoding["input_ids"]]
            return ids, _first_tokens([end for _, end in encoding["offset_mapping"]], borders)
        ids = plain(self._tokenizer, text)
        # Without offsets: the tokens that the text up to a border shares with the whole text lie before the border.
        return ids, [len(ids) if border == len(text) else _common(ids, plain(self._tokenizer, text[:border])) for border in borders]


def plain(tokenizer: Any, text: str) -> list[int]:
    """Return a text's ids without special tokens."""
    return [int(token) for token in tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]


def specials(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts before and after a text of its own accord."""
    bare = plain(tokenizer, "a")
    full = [int(token) for token in tokenizer("a", verbose=False)["input_ids"]]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    raise BadJob("the model's tokenizer changes a text's tokens when it adds special ones; its prompts cannot be made")


def _borders(segments: Sequence[Mapping[str, str]]) -> list[int]:
    """Return where each segment starts, in characters, and where the last one ends."""
    borders = [0]
    for segment in segments:
        borders.append(borders[-1] + len(segment["text"]))
    return borders


def _first_tokens(ends: Sequence[int], borders: Sequence[int]) -> list[int]:
    """Return for each border the first token that ends behind it: a token across a border belongs to what comes later."""
    starts: list[int] = []
    token = 0
    for border in borders:
        while token < len(ends) and ends[token] <= border:
            token += 1
        starts.append(token)
    return starts


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    count = 0
    for mine, other in zip(left, right):  # noqa: B905
        if mine != other:
            break
        count += 1
    return count


def _spans(segments: Sequence[Mapping[str, str]], starts: Sequence[int], total: int) -> list[dict[str, Any]]:
    spans = []
    if starts[0] > 0:
        spans.append({"role": "template", "start": 0, "end": starts[0]})
    for number, segment in enumerate(segments):
        spans.append({"role": segment["role"], "start": starts[number], "end": starts[number + 1]})
    if starts[-1] < total:
        spans.append({"role": "template", "start": starts[-1], "end": total})
    return spans
