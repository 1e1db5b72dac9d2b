"""``job.json``: everything a container is told. All paths are relative to the root that the engine mounts for it."""

from typing import Any, Literal

from pydantic import Field

from .base import Bytes, Contract, Count, Document, Name, RelativePath, RequestId, Seconds, Sha256, TaskName
from .request import Prompting

Dtype = Literal["float32", "bfloat16", "float16"]
DeviceKind = Literal["cpu", "cuda"]
Attention = Literal["auto", "flash", "sdpa", "eager"]


class JobModel(Contract):
    """The model as the runner finds it: a folder with config, tokenizer and (unless random) safetensors."""

    name: Name
    path: RelativePath
    dtype: Dtype
    window: int = Field(ge=1, description="positions the model was made for, in tokens")
    rope: dict[str, Any] | None = Field(default=None, description="overrides of the model's own RoPE configuration")
    weights: Literal["files", "random"] = "files"
    template: str | None = Field(default=None, description="chat template in place of the tokenizer's own")
    trust_remote_code: bool = False


class JobDevice(Contract):
    """Where to compute. ``gpus`` are UUIDs; the runner reports those it sees and the host compares."""

    kind: DeviceKind
    gpus: tuple[str, ...] = ()
    threads: int | None = Field(default=None, ge=1)
    attention: Attention = "auto"


class Batch(Document):
    """Requests decoded together, one line of a cell's batches file.

    Always computed whole; only the lines named in ``keep`` are written (the others exist already).
    """

    id: Count
    members: tuple[RequestId, ...] = Field(min_length=1)
    keep: tuple[RequestId, ...] = Field(min_length=1)


class TimingBucket(Contract):
    """Requests of up to ``tokens`` prompt tokens: one warm-up, then each of ``requests`` alone."""

    tokens: int = Field(ge=1)
    warmup: RequestId
    requests: tuple[RequestId, ...] = Field(min_length=1)


class TimingPass(Contract):
    """The separate pass that times: batch 1, nothing shared, ``new_tokens`` decoded whatever the model says."""

    buckets: tuple[TimingBucket, ...]
    new_tokens: int = Field(ge=1)
    out: RelativePath


class JobCell(Contract):
    """One variant on one task, inside a job."""

    cell: str = Field(min_length=1, max_length=200)
    method: Name
    policy: str | None = Field(default=None, description="'module:attribute' of the method's own part inside its family")
    params: dict[str, Any]
    task: TaskName
    prompting: Prompting
    requests: RelativePath
    ids: RelativePath
    batches: RelativePath = Field(description="JSON lines of Batch, in the order to compute them")
    responses: RelativePath
    timing: TimingPass | None = None
    config_sha256: Sha256
    code_sha256: Sha256


class TokeniseItem(Contract):
    """One (task, prompting) to turn into token ids."""

    task: TaskName
    prompting: Prompting
    requests: RelativePath
    ids: RelativePath


class Limits(Contract):
    """Own clocks, in seconds; null means no limit."""

    load_s: Seconds | None = None
    sample_s: Seconds | None = None
    cell_s: Seconds | None = None
    memory_bytes: Bytes | None = None


class Job(Document):
    """All cells of one family image and one model on one set of GPUs; or the tokenising of tasks for one model."""

    kind: Literal["generate", "tokenise", "count"]
    run: Name
    job: str
    attempt: int = Field(ge=1)
    family: Name | None = None
    entry: str | None = Field(default=None, description="'module:attribute' of the family's Method protocol object")
    environment: Name
    model: JobModel
    device: JobDevice
    cells: tuple[JobCell, ...] = ()
    tokenise: tuple[TokeniseItem, ...] = ()
    limits: Limits = Limits()
    stream: bool = Field(default=False, description="report text as it comes, as 'piece' events")
    seed: int = 0
