"""Requests (what a method may see), prompting (how they become token ids), ids (the token ids) and references (host only)."""

from typing import Literal

from pydantic import Field

from .base import Contract, Count, Document, Name, RequestId, Scalar, Sha256

Role = Literal["instruction", "context", "question", "answer_prefix"]


class Segment(Contract):
    """A stretch of the prompt. The prompt is the concatenation of all segments' texts, nothing between them."""

    role: Role
    text: str


class Stop(Contract):
    """When to stop before ``max_new_tokens``: on a text, or on the last token of a text (LongBench's newline rule for samsum)."""

    strings: tuple[str, ...] = ()
    tokens_of: tuple[str, ...] = ()


class Group(Contract):
    """Requests of one group share their first ``shared_segments`` segments word for word, so a prefill may be shared."""

    id: str = Field(min_length=1, max_length=128)
    shared_segments: Count


class Request(Document):
    """One prompt with its decode limits. One line of ``requests/<task>.jsonl``."""

    id: RequestId
    segments: tuple[Segment, ...] = Field(min_length=1)
    min_new_tokens: Count = 0
    max_new_tokens: int = Field(ge=1)
    stop: Stop = Stop()
    group: Group | None = None
    repeats: int = Field(default=1, ge=1, description="generations wanted of this prompt")

    @property
    def prompt(self) -> str:
        """The whole text, as a method without segments would be given it."""
        return "".join(segment.text for segment in self.segments)


class Reference(Document):
    """What the eval needs to score one response; never leaves the host. One line of ``references/<task>.jsonl``."""

    id: RequestId
    answers: tuple[str, ...]
    classes: tuple[str, ...] | None = None
    length: Count | None = Field(default=None, description="the dataset's own length of the row, where it names one")
    cluster: str = Field(description="requests that share a document, for clustered intervals")
    axes: dict[str, Scalar] = Field(default_factory=dict, description="where the request stands: words, depth, bucket")


class Prompting(Contract):
    """How requests become token ids. Part of a cell's key and printed beside its score."""

    max_prompt_tokens: int | None = Field(default=None, ge=1)
    truncate: Literal["middle", "none"] = "none"
    template: Literal["none", "chat"] | Name = Field(default="none", description="'chat' is the tokenizer's own template")
    template_kwargs: dict[str, Scalar] = Field(default_factory=dict)
    bos: Literal["once", "double", "none"] = "once"
    eos: Literal["model", "tokenizer", "none"] = "model"
    question: Literal["seen", "unseen"] = "seen"
    decode: Literal["greedy"] = "greedy"


class Span(Contract):
    """Token positions ``start <= i < end`` of one segment, after truncation. A token across a border belongs to the later segment."""

    role: Role | Literal["template"]
    start: Count
    end: Count


class Ids(Document):
    """The token ids of one request for one model. One line of ``requests/<model>/<task>.ids``; every method reads the same line."""

    id: RequestId
    request_sha256: Sha256
    ids: tuple[int, ...]
    spans: tuple[Span, ...]
    truncated: Count = Field(description="prompt tokens that were left out")
    given_sha256: Sha256 = Field(description="SHA-256 of the ids as little-endian uint32")
    stop_ids: tuple[int, ...] = Field(description="tokens that end the answer: the model's or tokenizer's eos, and stop.tokens_of")
