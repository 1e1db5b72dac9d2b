"""Templates, special tokens, spans and truncation, under a tokenizer of pairs whose every decision can be seen."""

from collections.abc import Sequence
from typing import Any

import pytest

from longctx.images.runner.ending import BadJob
from longctx.images.runner.prompting import Encoder

BOS, END = 1, 2


class Pairs:
    """Tokens are characters, but ``ab`` is one token, as is ``<s>`` (the BOS). Offsets only where ``is_fast``."""

    bos_token_id = BOS

    def __init__(self, fast: bool = True, adds_bos: bool = True, adds_end: bool = False, template: str | None = None) -> None:
        self.is_fast, self.chat_template = fast, template
        self._before, self._after = [BOS] * adds_bos, [END] * adds_end

    def __call__(
        self, text: str, add_special_tokens: bool = True, return_offsets_mapping: bool = False, verbose: bool = True
    ) -> dict[str, list[Any]]:
        assert self.is_fast or not return_offsets_mapping
        ids, offsets, place = [], [], 0
        while place < len(text):
            width = 3 if text.startswith("<s>", place) else 2 if text.startswith("ab", place) else 1
            ids.append(BOS if width == 3 else 1000 if width == 2 else ord(text[place]))
            offsets.append((place, place + width))
            place += width
        if add_special_tokens:
            ids = [*self._before, *ids, *self._after]
        return {"input_ids": ids, "offset_mapping": offsets}

    def apply_chat_template(self, turns: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool, **kwargs: str) -> str:
        assert not tokenize and add_generation_prompt and self.chat_template is not None
        content = turns[0]["content"]
        return self.chat_template.replace("STRIPPED", content.strip()).replace("UPPER", content.upper()).replace("TEXT", content)


def segments(*texts: str) -> list[dict[str, str]]:
    roles = ("instruction", "context", "question", "answer_prefix")
    return [{"role": role, "text": text} for role, text in zip(roles, texts, strict=False)]


def shown(ids: Sequence[int]) -> str:
    return "".join({BOS: "^", END: "$", 1000: "AB"}.get(token) or chr(token) for token in ids)


def cut(encoded: Any) -> list[tuple[str, str]]:
    return [(span["role"], shown(encoded.ids[span["start"] : span["end"]])) for span in encoded.spans]


@pytest.mark.parametrize("fast", [True, False])
def test_token_across_a_border_belongs_to_the_later_segment(fast: bool) -> None:
    encoded = Encoder(Pairs(fast), {}).encode(segments("xa", "by", "", "z"))
    assert cut(encoded) == [("template", "^"), ("instruction", "x"), ("context", "ABy"), ("question", ""), ("answer_prefix", "z")]
    assert encoded.truncated == 0


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("bos", "template", "adds", "expected"),
    [
        ("once", None, True, "^q$"),
        ("once", None, False, "q$"),
        ("none", None, True, "q$"),
        ("double", None, True, "^q$"),
        ("once", "<s>[TEXT]", True, "^[q]"),
        ("once", "[TEXT]", True, "^[q]"),
        ("once", "[TEXT]", False, "[q]"),
        ("double", "<s>[TEXT]", True, "^^[q]$"),
        ("none", "<s>[TEXT]", True, "[q]"),
    ],
)
def test_bos(fast: bool, bos: str, template: str | None, adds: bool, expected: str) -> None:
    prompting = {"bos": bos, "template": "chat" if template else "none"}
    encoded = Encoder(Pairs(fast, adds, True, template), prompting).encode(segments("q"))
    assert shown(encoded.ids) == expected
    assert [part for part in cut(encoded) if part[0] == "instruction"] == [("instruction", "q")]
    assert "".join(text for _, text in cut(encoded)) == expected


def test_text_that_brings_its_own_bos_gets_no_second() -> None:
    assert shown(Encoder(Pairs(), {"bos": "once"}).encode(segments("<s>q")).ids) == "^q"


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("template", ["user:TEXT!model:", "user:STRIPPED!model:"])
def test_chat_template_stands_around_the_segments(fast: bool, template: str) -> None:
    encoded = Encoder(Pairs(fast, False, False, template), {"template": "chat"}).encode(segments(" one", "two "))
    spaces = "TEXT" in template
    assert cut(encoded) == [
        ("template", "user:"),
        ("instruction", " one" if spaces else "one"),
        ("context", "two " if spaces else "two"),
        ("template", "!model:"),
    ]


def test_prompt_that_also_occurs_in_the_template_is_found_at_its_place() -> None:
    encoded = Encoder(Pairs(adds_bos=False, template="u TEXT u"), {"template": "chat"}).encode(segments("u"))
    assert encoded.spans[1] == {"role": "instruction", "start": 2, "end": 3}


@pytest.mark.parametrize(
    ("tokenizer", "prompting", "words"),
    [
        (Pairs(), {"template": "chat"}, "no chat template"),
        (Pairs(template="UPPER"), {"template": "chat"}, "changes the text"),
        (Pairs(), {"template": "alpaca"}, "knows none and chat"),
    ],
)
def test_what_cannot_be_done_is_said(tokenizer: Pairs, prompting: dict[str, str], words: str) -> None:
    with pytest.raises(BadJob, match=words):
        Encoder(tokenizer, prompting).encode(segments("q"))


@pytest.mark.parametrize(
    ("limit", "kept", "spans"),
    [
        (12, "^0123456789$", [(1, 4), (4, 8), (8, 11)]),
        (6, "^0189$", [(1, 3), (3, 3), (3, 5)]),
        (5, "^089$", [(1, 2), (2, 2), (2, 4)]),
        (2, "^$", [(1, 1), (1, 1), (1, 1)]),
        (1, "$", [(0, 0), (0, 0), (0, 0)]),
    ],
)
def test_truncation_keeps_both_halves(limit: int, kept: str, spans: list[tuple[int, int]]) -> None:
    """``012`` ``3456`` ``789`` between BOS and an end token."""
    encoder = Encoder(Pairs(adds_end=True), {"max_prompt_tokens": limit, "truncate": "middle"})
    encoded = encoder.encode(segments("012", "3456", "789"))
    assert (shown(encoded.ids), encoded.truncated) == (kept, 12 - limit)
    assert [(span["start"], span["end"]) for span in encoded.spans if span["role"] != "template"] == spans


def test_without_truncation_a_long_prompt_stays_whole() -> None:
    encoded = Encoder(Pairs(), {"max_prompt_tokens": 2, "truncate": "none"}).encode(segments("0123"))
    assert (len(encoded.ids), encoded.truncated) == (5, 0)
