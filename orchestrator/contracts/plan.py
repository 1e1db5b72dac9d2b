"""``plan.json`` (what a manifest expands to) and ``lock.json`` (what it resolved to)."""

from typing import Any, Literal

from pydantic import Field

from .base import Bytes, Contract, Count, Document, Name, Seconds, Sha256, TaskName
from .job import DeviceKind, JobDevice, JobModel, Limits
from .manifest import TimingOptions
from .request import Prompting

Status = Literal["NEW", "REUSE", "RESCORE", "RERUN", "EXTEND", "STALE"]


class Estimate(Contract):
    """What a cell will hold and read, before it runs. Null where lengths or the model are not known yet."""

    prompt_tokens: Count | None = None
    longest: Count | None = None
    kv_bytes: Bytes | None = Field(default=None, description="at the longest prompt, this method")
    kv_full_bytes: Bytes | None = Field(default=None, description="at the longest prompt, full KV")


class PlannedTask(Contract):
    """One eval task as selected: requests are built once and serve every model."""

    key: Name
    task: TaskName
    params: dict[str, Any]
    eval_sha256: Sha256 = Field(description="of the eval's code, parameters and data")
    requests: Count | None = Field(description="null until its data is fetched")
    fetch: str | None = Field(default=None, description="the command that fetches its data, where that is missing")
    note: str | None = Field(default=None, description="what differs from what the manifest asks for, and why")


class PlannedCell(Contract):
    """One variant × model × task."""

    cell: str
    label: str
    variant: str
    method: Name
    params: dict[str, Any]
    model: Name
    task: Name = Field(description="key of a planned task")
    environment: Name
    locked: bool = Field(default=True, description="false where the environment's packages are only recorded")
    family: Name
    policy: str | None = None
    prompting: Prompting
    config_sha256: Sha256
    code_sha256: Sha256
    status: Status
    reason: str
    requests: Count | None
    missing: Count | None
    source: str | None = Field(default=None, description="the run folder whose responses are reused")
    accepted_code: Sha256 | None = Field(default=None, description="the older code whose responses --accept-code keeps")
    batch: int = Field(default=1, ge=1)
    estimate: Estimate = Estimate()


class Absent(Contract):
    """A part of the matrix that will not run, with the reason: the model does not fit the method, no environment, excluded."""

    variant: str
    model: Name
    task: Name
    environment: Name
    kind: Literal["not_applicable", "not_run"]
    reason: str


class TokeniseTask(Contract):
    """One CPU job that makes token ids: a model with all its (task, prompting) pairs."""

    task: Count = Field(description="number for `longctx worker --task`")
    job: str
    model: Name
    environment: Name
    items: tuple[tuple[Name, Prompting, str], ...] = Field(description="task key, prompting, ids file below requests/")


class PlannedJob(Contract):
    """All cells of one family image and one model, or one shard of their requests."""

    task: Count
    job: str
    family: Name
    environment: Name
    entry: str
    model: Name
    cells: tuple[str, ...]
    shard: Count = 0
    shards: int = Field(default=1, ge=1)
    device: JobDevice
    gpus: Count = Field(default=0, description="GPUs to lease when the job starts")
    limits: Limits = Limits()


class Plan(Document):
    """A manifest expanded, with what is already done."""

    run: Name
    engine: str
    backend: str
    seed: int
    device: DeviceKind
    parallel: int = Field(default=1, ge=1, description="jobs at once on the local backend")
    stream: bool = Field(default=False, description="report text as it comes")
    timing: TimingOptions
    tasks: tuple[PlannedTask, ...]
    cells: tuple[PlannedCell, ...]
    absent: tuple[Absent, ...] = ()
    tokenise: tuple[TokeniseTask, ...] = ()
    jobs: tuple[PlannedJob, ...] = ()
    method_folders: tuple[str, ...] = Field(default=(), description="methods that the manifest named by their folder")


class LockedFile(Contract):
    """One file of a model."""

    path: str
    size: Bytes
    sha256: Sha256


class LockedModel(Contract):
    """A model as resolved: where it came from, what it is, checksums of every file a job reads."""

    name: Name
    source: str
    revision: str | None = Field(description="commit, package version or null where the source has none")
    identity_sha256: Sha256 = Field(description="of all files' checksums, or of a random model's shape")
    folder: str
    architecture: str
    config: dict[str, Any]
    files: tuple[LockedFile, ...]
    job: JobModel
    environment: Name
    special: bool = Field(default=False, description="random weights: only speed and bytes mean anything")


class LockedEnvironment(Contract):
    """An environment as made: interpreter, packages, and the hash of the torch wheel that was installed."""

    name: Name
    kind: DeviceKind
    engine: str
    spec_sha256: Sha256
    python: str
    packages: dict[str, str]
    torch_record_sha256: Sha256 | None = Field(default=None, description="of torch's RECORD as installed")
    image: str | None = None
    locked: bool = Field(default=True, description="false where longctx found the packages and installed nothing")


class LockedMethod(Contract):
    """The code a method ran with."""

    name: Name
    code_sha256: Sha256


class Lock(Document):
    """What a run resolved to. Everything here was computed or read."""

    run: Name
    longctx: str
    created_at: float
    models: tuple[LockedModel, ...]
    environments: tuple[LockedEnvironment, ...]
    methods: tuple[LockedMethod, ...]
    tasks: tuple[PlannedTask, ...]


class Timeline(Contract):
    """Host clock marks of a run, seconds."""

    prepare_s: Seconds = 0
    tokenise_s: Seconds = 0
    jobs_s: Seconds = 0
    score_s: Seconds = 0
