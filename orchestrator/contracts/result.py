"""``scores.jsonl``, ``result.json`` of a cell and ``summary.json`` of a run."""

from typing import Any, Literal

from pydantic import Field

from .base import Contract, Count, Document, Name, RequestId, Scalar, Seconds, Sha256, TaskName
from .outcome import Isolation
from .plan import Absent, Status, Timeline
from .request import Prompting


class Score(Document):
    """One request scored. ``metrics`` is null where nothing was answered (oom, too_long, error)."""

    id: RequestId
    metrics: dict[str, float] | None
    cluster: str
    axes: dict[str, Scalar] = Field(default_factory=dict)


class Interval(Contract):
    """A mean with its 95 % bootstrap interval (clustered where requests share a document)."""

    n: Count
    mean: float | None
    low: float | None
    high: float | None
    zeros: float | None = Field(default=None, description="the mean if every unanswered request counted 0")


class Counts(Contract):
    """Where every request of a cell went. The denominator never changes."""

    requests: Count
    answered: Count
    scored: Count
    oom: Count = 0
    too_long: Count = 0
    error: Count = 0


class CellBytes(Contract):
    """KV bytes a request, means over the scored requests; ratios are full ÷ held, 1 means nothing saved."""

    at: Literal["prefill", "end"]
    device: float | None
    host: float | None
    analytic: float | None
    full: float | None
    ratio: float | None
    ratio_analytic: float | None


class BucketTime(Contract):
    """The timing pass for one length bucket: medians of k requests at batch 1."""

    tokens: int
    n: Count
    given: float = Field(description="mean prompt tokens")
    prefill_s: Seconds | None
    decode_tokens_per_s: float | None
    peak: float | None = Field(description="bytes above the weights, largest of the k")


class Speed(Contract):
    """Headline times: the bucket of the longest prompts, and all buckets."""

    buckets: tuple[BucketTime, ...] = ()

    @property
    def headline(self) -> BucketTime | None:
        """The longest bucket."""
        return max(self.buckets, key=lambda bucket: bucket.tokens, default=None)


class Result(Document):
    """One cell's result."""

    cell: str
    label: str
    variant: str
    method: Name
    params: dict[str, Any]
    model: Name
    model_source: str
    task: TaskName
    task_key: Name
    environment: Name
    prompting: Prompting
    config_sha256: Sha256
    code_sha256: Sha256
    eval_sha256: Sha256
    references_sha256: Sha256
    responses_sha256: Sha256 = Field(description="of responses.jsonl, so that a changed file is scored again")
    metric: str = Field(description="the headline metric")
    counts: Counts
    partial: bool
    scores: dict[str, Interval]
    by_axis: dict[str, dict[str, Interval]] = Field(default_factory=dict, description="headline metric by each axis value")
    kv: CellBytes | None
    speed: Speed
    weights: int | None
    isolation: Isolation | None
    engine: str | None
    environment_seen: dict[str, Any] = Field(default_factory=dict)
    random_weights: bool = False
    seed: int


class Row(Contract):
    """One line of the summary: a result, or a part of the matrix that did not run."""

    label: str
    model: Name
    task: Name
    environment: Name
    locked: bool = Field(default=True, description="false where the environment's packages are only recorded")
    status: Status | Literal["not_applicable", "not_run", "failed"]
    reason: str = ""
    result: Result | None = None


class Aggregate(Contract):
    """A mean over the tasks of an eval for one variant, model and environment, as the eval's own benchmark publishes it."""

    name: str
    eval: str
    label: str
    model: Name
    environment: Name
    prompting: str = Field(default="", description="what tells these cells from others of the same tasks, if there are others")
    score: float | None = Field(description="in percent, two decimals; null while something is missing")
    tasks: tuple[TaskName, ...]
    missing: tuple[str, ...] = Field(default=(), description="tasks without a score, each with what is wrong if it is not simply absent")
    partial: tuple[TaskName, ...] = Field(default=(), description="tasks of which some requests were not answered")


class Summary(Document):
    """A run at a glance."""

    run: Name
    description: str
    longctx: str
    finished_at: float
    complete: bool
    rows: tuple[Row, ...]
    absent: tuple[Absent, ...] = ()
    timeline: Timeline = Timeline()
    aggregates: tuple[Aggregate, ...] = ()
