"""``responses.jsonl`` and ``timing.jsonl``: what a method generated and what that took. Written by the runner, one fsynced line each."""

from typing import Literal, Self

from pydantic import Field, model_validator

from .base import Bytes, Contract, Count, Document, RequestId, Seconds, Sha256

Finish = Literal["stop", "length", "oom", "too_long", "error"]
SCORED: frozenset[str] = frozenset({"stop", "length"})


class Oom(Contract):
    """Where CUDA ran out of memory: a result, not a crash."""

    phase: Literal["load", "prefill", "decode"]
    tokens: Count


class Failure(Contract):
    """An exception raised by a method for one request."""

    type: str = Field(max_length=200)
    message: str = Field(max_length=4000)


class Tokens(Contract):
    """Token counts. ``given`` entered the method, ``truncated`` were cut before, ``compressed`` is what prompt compression left."""

    given: Count
    truncated: Count
    compressed: Count | None = None
    generated: Count


class InBatch(Contract):
    """The planned batch in which the request was decoded."""

    id: Count
    size: int = Field(ge=1)


class Time(Contract):
    """Seconds with the device synchronised. Null where a batch cannot be told apart."""

    prefill_s: Seconds | None
    decode_s: Seconds | None


class Memory(Contract):
    """Bytes on the compute device; ``peak`` is above the weights. Null where it cannot be measured (a response on CPU)."""

    weights: Bytes | None
    peak: Bytes | None


class DeviceBytes(Contract):
    """KV storage by part, in bytes: full-precision entries, packed codes, their scales and minima, indices, recurrent state."""

    dense: Bytes = 0
    codes: Bytes = 0
    scales: Bytes = 0
    index: Bytes = 0
    state: Bytes = 0

    @property
    def total(self) -> int:
        """All parts together."""
        return self.dense + self.codes + self.scales + self.index + self.state


class KV(Contract):
    """What the cache holds for one request.

    ``device`` is measured by the runner (allocator delta on CUDA, unique tensor storages reachable from the cache on CPU),
    ``analytic`` is the method's own formula, ``full`` this model's native cache for the same tokens (null where it has none).
    """

    at: Literal["prefill", "end"]
    logical: Count = Field(description="tokens the cache stands for")
    held: float = Field(ge=0, description="entries held, mean over layers and KV heads")
    device: DeviceBytes | None
    host: Bytes | None = None
    analytic: Bytes | None
    full: Bytes | None


class Response(Document):
    """One answered request of one cell."""

    id: RequestId
    request_sha256: Sha256
    text: str
    finish: Finish
    oom: Oom | None = None
    error: Failure | None = None
    tokens: Tokens
    given_sha256: Sha256
    fed_sha256: Sha256
    batch: InBatch
    prefill: Literal["own", "shared", "forked"] = "own"
    time: Time
    memory: Memory
    kv: KV | None

    @model_validator(mode="after")
    def _details(self) -> Self:
        if (self.finish == "oom") != (self.oom is not None) or (self.finish == "error") != (self.error is not None):
            raise ValueError("'oom' and 'error' details go with exactly that finish")
        return self


class Timing(Document):
    """One request of the timing pass."""

    id: RequestId
    bucket: int = Field(ge=1, description="upper bound of prompt tokens")
    given: Count
    generated: Count
    time: Time
    memory: Memory
