"""How an attempt went: events while it runs, exit.json by the runner (last, by rename), environment.json, verdict.json by the host."""

from typing import Annotated, Any, Literal

from pydantic import Field

from .base import Bytes, Count, Document, RequestId, Seconds

Isolation = Literal["full", "partial", "none"]
Outcome = Literal[
    "done", "stopped", "host_oom", "cuda_oom_loading", "timeout", "gpu_lost", "disk_full", "image_missing", "method_raised",
    "load_failed", "killed", "bad_output", "engine_lost", "engine_unavailable", "environment_failed", "not_started",
]  # fmt: skip


class _Event(Document):
    at: float = Field(description="Unix time, seconds")


class Loading(_Event):
    """The runner started to load the model."""

    event: Literal["loading"]


class Loaded(_Event):
    """The model is on the device."""

    event: Literal["loaded"]
    seconds: Seconds
    weights: Bytes | None = None


class Progress(_Event):
    """``done`` of ``total`` requests of a cell are answered; ``phase`` tells answers from the timing pass."""

    event: Literal["progress"]
    cell: str
    phase: Literal["respond", "time", "tokenise"]
    done: Count
    total: Count
    tokens: Count = Field(description="tokens processed since the previous event, prompt and generated")


class Warning_(_Event):  # noqa: N801
    """Something a person should know, in one line."""

    event: Literal["warning"]
    message: str = Field(max_length=4000)


class Piece(_Event):
    """Text that was just generated; only where the job asks for it."""

    event: Literal["piece"]
    id: RequestId
    text: str = Field(max_length=100_000)


Event = Annotated[Loading | Loaded | Progress | Warning_ | Piece, Field(discriminator="event")]


class Exit(Document):
    """The runner's own last word. Absent when it was killed."""

    status: Literal["done", "stopped", "failed"]
    phase: Literal["start", "load", "respond", "time", "tokenise", "count"]
    reason: Literal["ok", "sigterm", "cuda_oom", "gpu_lost", "disk_full", "method_raised", "load_failed", "bad_job"]
    message: str = Field(default="", max_length=8000)
    answered: Count = 0


class Environment(Document):
    """Where a job really ran, as seen from inside. Versions, kernel, GPUs, clocks."""

    python: str
    platform: str
    versions: dict[str, str]
    attention: str | None = Field(description="the attention kernel in use")
    kernels: dict[str, str] = Field(default_factory=dict, description="other kernels in use, by what they compute")
    threads: int | None = None
    cpu: str | None = None
    gpus: tuple[dict[str, Any], ...] = ()
    driver: str | None = None


class Verdict(Document):
    """The host's judgement of one attempt, from the failure table."""

    job: str
    attempt: int = Field(ge=1)
    outcome: Outcome
    retry: bool
    charged: bool = Field(description="whether the attempt counts against the retry budget")
    exit_code: int | None = Field(description="the process's, negative for a signal")
    detail: str = Field(default="", max_length=8000)
    next_step: str = ""
    started_at: float
    seconds: Seconds
    engine: str
    isolation: Isolation
    isolation_detail: dict[str, bool] = Field(default_factory=dict)
