"""The eval protocol. Standard library only; the host validates what an eval yields against its contracts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

Role = Literal["instruction", "context", "question", "answer_prefix"]
Scalar = bool | int | float | str | None


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of the prompt; the prompt is the concatenation of all texts."""

    role: Role
    text: str


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Texts that end an answer, and texts whose last token does."""

    strings: tuple[str, ...] = ()
    tokens_of: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Group:
    """Requests of one group share their first ``shared_segments`` segments word for word."""

    id: str
    shared_segments: int


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt with its decode limits. ``id`` is stable: it never depends on which other requests a task has."""

    id: str
    segments: tuple[Segment, ...]
    max_new_tokens: int
    min_new_tokens: int = 0
    stop: Stop = Stop()
    group: Group | None = None
    repeats: int = 1


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What is needed to score one response; stays on the host."""

    id: str
    answers: tuple[str, ...]
    cluster: str
    classes: tuple[str, ...] | None = None
    length: int | None = None
    axes: Mapping[str, Scalar] = field(default_factory=dict)


class ParameterError(ValueError):
    """A task parameter is wrong. ``path`` leads to it from the parameters' top; ``allowed`` says what would be right."""

    def __init__(self, path: Sequence[str | int], message: str, allowed: str = "", options: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.path = tuple(path)
        self.message = message
        self.allowed = allowed
        self.options = tuple(options)


class DataMissing(LookupError):
    """An eval's data is not where it should be, or altered; ``command`` mends it."""

    def __init__(self, message: str, command: str) -> None:
        super().__init__(message)
        self.command = command


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is known of a task before its requests are built. Null where that needs data or a tokenizer."""

    requests: int | None
    least_tokens: int | None = None
    """No tokenizer can make the longest prompt shorter than this: for refusing what a model cannot hold."""
    max_new_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """What the host lends an eval while it builds."""

    seed: int
    data: Path | None = None
    count: Callable[[Sequence[str]], Sequence[int]] | None = None
    """Token counts of texts under the model's tokenizer; only for tasks whose ``needs_tokenizer`` is true."""


class Eval(Protocol):
    """One evaluation. Implementations are modules or objects listed in ``evals/registry.py``."""

    name: str
    tasks: tuple[str, ...]
    metric: str
    """The headline metric, one of those that ``score`` returns; higher is better, 0 … 1."""
    axes: tuple[str, ...]
    """Axes worth a breakdown, such as words and depth."""
    summary: str

    def normalise(self, task: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters with defaults filled in. Raises ParameterError."""

    def needs_tokenizer(self, task: str, params: Mapping[str, Any]) -> bool:
        """Whether lengths are given in tokens, so that every model gets requests of its own."""

    def size(self, task: str, params: Mapping[str, Any], data: Path | None) -> Size:
        """Say what is known cheaply."""

    def build(self, task: str, params: Mapping[str, Any], context: BuildContext) -> Iterator[tuple[Request, Reference]]:
        """Yield every request with its reference, in a fixed order. Raises DataMissing."""

    def score(self, task: str, reference: Reference, text: str) -> dict[str, float]:
        """Score one text. Pure; the same keys every time."""

    def code(self) -> tuple[Path, ...]:
        """Files whose content decides what ``build`` and ``score`` return."""


@runtime_checkable
class ReadsData(Protocol):
    """What an eval has besides, if ``build`` reads files of the data folder: when one changes, requests are built again."""

    def reads(self, task: str, params: Mapping[str, Any]) -> tuple[str, ...]:
        """Return those files' paths below the data folder."""


@runtime_checkable
class RefusesTemplates(Protocol):
    """What an eval has besides, if some of its prompts are to be continued and not answered."""

    no_template: frozenset[str]
    """Tasks around which no chat template is laid, whatever a manifest says."""


@dataclass(frozen=True, kw_only=True)
class Average:
    """A mean over tasks that others publish. It is that of the tasks' headline means in percent, each rounded to two decimals."""

    name: str
    tasks: tuple[str, ...]
    axis: str | None = None
    """If given, a task's value is the mean over the values of this axis, each with the same weight."""
    values: tuple[str, ...] = ()
    """Those values, all of which a task must have."""


@runtime_checkable
class Averaged(Protocol):
    """What an eval has besides, if means over its tasks are worth showing."""

    averages: tuple[Average, ...]


@runtime_checkable
class ScoresPredictions(Eval, Protocol):
    """An eval whose benchmark has prediction files: JSON lines of ``pred, answers, all_classes, length``."""

    def bucket(self, length: int) -> str:
        """Return the range of lengths that a row belongs to."""

    buckets: tuple[str, ...]
    """All of them, in order."""
