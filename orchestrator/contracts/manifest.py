"""What people write: the manifest, ``method.yaml``, ``environment.yaml`` and ``models.yaml``."""

from typing import Any, Literal

from pydantic import Field

from .base import Contract, Count, Name, Scalar, Seconds, Sha256, TaskName
from .job import Attention, DeviceKind, Dtype
from .request import Prompting


class ModelSpec(Contract):
    """A model by its source: ``hf:repo@revision``, ``path:folder``, ``pypi:package==version#file`` or ``random:shape``."""

    name: Name = Field(description="how results call it")
    source: str = Field(pattern=r"^(hf|path|pypi|random):.+$")
    dtype: Dtype = "bfloat16"
    window: int | None = Field(default=None, ge=1, description="positions; the model's own when absent")
    rope: dict[str, Any] | None = Field(default=None, description="overrides, such as {rope_theta: 16000000}")
    template: str | None = Field(default=None, description="chat template where the tokenizer has none")
    environment: Name = Field(default="tf5", description="where its prompts are tokenised")
    trust_remote_code: bool = Field(default=False, description="run code from the model's repository; needs a pinned revision")


class ModelsFile(Contract):
    """``models.yaml``: models that manifests may call by name."""

    models: tuple[ModelSpec, ...]


class MethodSelection(Contract):
    """Methods of a manifest. A list as a parameter's value expands to one variant an element."""

    method: str = Field(description="a method's name, or the path of its folder")
    preset: str | None = None
    params: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict)
    environment: Name | None = Field(default=None, description="one of those the method names; its first when absent")
    label: Name | None = Field(default=None, description="how tables call it")


class EvalSelection(Contract):
    """A task with its parameters."""

    task: TaskName
    params: dict[str, Any] = Field(default_factory=dict)
    prompting: Prompting = Prompting()
    label: Name | None = Field(default=None, description="tells apart two selections of one task")


class CellFilter(Contract):
    """Names a part of the matrix: cells for which every given pattern matches (shell wildcards)."""

    model: str | None = None
    method: str | None = Field(default=None, description="matches the method, or the whole variant")
    task: str | None = None
    environment: str | None = None


class TimingOptions(Contract):
    """The timing pass: requests a length bucket, and tokens decoded for each."""

    per_bucket: Count = Field(default=2, description="0 leaves the pass out")
    new_tokens: int = Field(default=32, ge=2)


class Resources(Contract):
    """What each job may use."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpus: int = Field(default=1, ge=1, description="GPUs a job, on cuda")
    threads: int | None = Field(default=None, ge=1)
    memory: str | None = Field(default=None, pattern=r"^[1-9][0-9]*(\.[0-9]+)?[kmgtKMGT]i?[bB]?$", description="such as 24g")
    batch: int = Field(default=1, ge=1, description="requests decoded together")
    shards: int = Field(default=1, ge=1, description="jobs that share the requests of one family and model")
    parallel: int = Field(default=1, ge=1, description="jobs at once on the local backend")
    attention: Attention = "auto"
    load_s: Seconds | None = 1800
    sample_s: Seconds | None = 1800
    cell_s: Seconds | None = None


class Defaults(Contract):
    """Values for every model or eval that does not say otherwise."""

    dtype: Dtype | None = None
    prompting: Prompting | None = None


class Manifest(Contract):
    """models × methods × evals, and how to run them."""

    name: Name
    description: str = ""
    models: tuple[str | ModelSpec, ...] = Field(min_length=1)
    methods: tuple[MethodSelection, ...] = Field(min_length=1)
    evals: tuple[EvalSelection, ...] = Field(min_length=1)
    include: tuple[CellFilter, ...] = ()
    exclude: tuple[CellFilter, ...] = ()
    defaults: Defaults = Defaults()
    resources: Resources = Resources()
    timing: TimingOptions = TimingOptions()
    engine: Literal["auto", "docker", "venv"] = "auto"
    seed: int = Field(default=42, ge=0, lt=2**32)


class Parameter(Contract):
    """One parameter of a method."""

    type: Literal["int", "float", "bool", "str"]
    default: Scalar = None
    meaning: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Scalar, ...] | None = None
    required: bool = False
    excludes: tuple[str, ...] = Field(default=(), description="parameters that may not be given together with this one")


class MethodEnvironment(Contract):
    """A method inside one environment."""

    name: Name
    family: Name | None = Field(default=None, description="methods of one family run in one process on one loaded model")
    entry: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    policy: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")


class MethodSpec(Contract):
    """``method.yaml``."""

    name: Name
    title: str
    paper: str | None
    summary: str = Field(description="two sentences: what it does, what it gives up")
    environments: tuple[MethodEnvironment, ...] = Field(min_length=1)
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    presets: dict[str, dict[str, Scalar]] = Field(default_factory=dict)
    accepts: tuple[str, ...] = Field(description="architectures of config.json, or '*'")
    devices: tuple[DeviceKind, ...] = ("cpu", "cuda")
    batch: bool = Field(default=True, description="decodes more than one request together")
    extends_window: bool = False
    transforms_prompt: bool = False
    shares_prefill: bool = False
    question_unseen: bool = False
    aux_models: tuple[str, ...] = ()
    estimate: str = Field(pattern=r"^[A-Za-z_]\w*:[A-Za-z_]\w*$", description="'file:function' beside method.yaml, standard library only")


class SystemSpec(Contract):
    """Where the packages of an environment come from that was found on the host: recorded as it is, not locked."""

    like: Name = Field(description="the environment that it stands in for, wherever a method or a model names that one")
    python: str = Field(description="path of its interpreter")
    image: str | None = Field(default=None, description="the container image that holds the interpreter; the host itself when absent")
    mounts: tuple[str, ...] = Field(default=(), description="folders of the host that the image needs")
    variables: dict[str, str] = Field(default_factory=dict, description="what a module system sets for it, such as LD_LIBRARY_PATH")
    torch_record_sha256: Sha256 | None = Field(default=None, description="of torch's RECORD as found")


class EnvironmentSpec(Contract):
    """``environment.yaml``: a pinned Python and packages. The lock beside it holds everything but torch, which differs by device."""

    name: Name
    summary: str
    python: tuple[str, ...] = Field(min_length=1, description="acceptable minor versions, best first")
    torch: dict[DeviceKind, str] = Field(description="torch's version by device")
    flash_attn: str | None = Field(default=None, description="flash-attn's version, for CUDA images where a wheel or a compiler is")
    lock: str = "requirements.lock"
    imports: tuple[str, ...] = Field(description="modules that must import for the environment to count as made")
    system: SystemSpec | None = Field(default=None, description="written by `longctx config system`: nothing is installed")
