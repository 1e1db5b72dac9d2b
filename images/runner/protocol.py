"""What the runner and a method family owe each other. Standard library only, Python 3.9."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Model:
    """The model to load: a folder, its precision and where to put it."""

    name: str
    path: str
    dtype: str
    window: int
    rope: Mapping[str, Any] | None
    weights: str
    device: str
    """``cpu`` or ``cuda:0``: the runner's process sees only its own GPUs."""
    attention: str
    seed: int
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Prompt:
    """One tokenised request, as every method of a model gets it."""

    id: str
    ids: Sequence[int]
    spans: Sequence[Mapping[str, Any]]
    """``{role, start, end}`` in token positions."""
    stop_ids: Sequence[int]
    stop_strings: Sequence[str]
    min_new_tokens: int
    max_new_tokens: int
    group: Mapping[str, Any] | None = None
    unseen_from: int | None = None
    """First token that the method may not have seen when it compresses (``question: unseen``); None: it sees the whole prompt."""


@dataclass
class Holding:
    """What the cache of one request holds at a moment that the method chose, while it is alive."""

    at: str
    """``prefill`` or ``end``."""
    logical: int
    held: float
    analytic: int | None
    full: int | None
    roots: Sequence[Any]
    """Objects from which every tensor of this cache can be reached; the runner walks them."""
    parts: Mapping[str, Sequence[Any]]
    """Tensors by part: dense, codes, scales, index, state. What the walk finds beyond them counts as state."""
    host: int | None = None
    """Bytes deliberately kept in host memory (offload); null when none."""


@dataclass
class Answer:
    """One generation. ``finish`` is stop or length; failures are exceptions."""

    id: str
    text: str
    finish: str
    generated: int
    fed_ids: Sequence[int]
    """The ids that really entered the model; equal to the prompt's unless the method rewrites prompts."""
    compressed: int | None = None
    prefill: str = "own"
    prefill_s: float | None = None
    decode_s: float | None = None


@dataclass
class Hooks:
    """What the runner lends a method during ``generate``."""

    clock: Callable[[], float]
    """Seconds, after the device has finished its work."""
    holding: Callable[[str, Holding], None]
    """Called once a request while its cache is alive: the runner measures it."""
    before_cache: Callable[[], None]
    """Called when no cache of the batch exists yet, so that an allocator's delta can be taken."""
    phase: Callable[[str, int], None]
    """``('prefill' | 'decode', tokens so far)``: so that running out of memory can be told with its phase and length."""
    stopping: Callable[[], bool]
    """True once SIGTERM came. A method finishes the sample in hand; it need not look."""
    piece: Callable[[str, str], None] | None = None
    """``(id, text)``: set only where a person watches; takes text that was just generated."""
    extra: dict[str, Any] = field(default_factory=dict)


class TooLong(Exception):
    """The prompt does not fit the model's window and the method cannot extend it.

    ``ids`` names the requests of the batch that do not fit: the runner then decodes the others without them. Empty means all.
    """

    def __init__(self, message: str = "", ids: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.ids = tuple(ids)


class Bound(Protocol):
    """A variant: a method with its parameters bound."""

    def generate(self, batch: Sequence[Prompt], hooks: Hooks, exact_new_tokens: int | None = None) -> Iterable[Answer]:
        """Answer a batch, greedily, in its order. ``exact_new_tokens`` decodes that many and ignores every stop (timing)."""


class SharingBound(Bound, Protocol):
    """A variant that may fork from a prefill which others observed too. Optional: the runner looks for ``shares_with``."""

    shares_with: Hashable | None
    """Bounds of one family with the same value share; None: this one does not."""

    def share(self, bounds: Sequence[Any], batch: Sequence[Prompt], phase: Callable[[str, int], None]) -> Any:
        """Read a batch once for all of ``bounds`` (this one among them). What it returns is dropped when all have answered."""

    def generate(self, batch: Sequence[Prompt], hooks: Hooks, exact_new_tokens: int | None = None, shared: Any = None) -> Iterable[Answer]:
        """Answer a batch from what ``share`` returned for the same batch; without it, as any bound does.

        Requests of one ``group`` may start from a prefill of what they share, kept from batch to batch: such answers say ``shared``.
        """

    def forget(self) -> Any:
        """Drop what is kept for the next batch; nothing of a group comes any more. Optional."""


class Family(Protocol):
    """A family's entry object: ``entry`` of the job names a callable without arguments that returns one."""

    def load(self, model: Model) -> None:
        """Load tokenizer and weights once. ``weights == 'random'`` draws them by ``model.seed``, ready for use."""

    def describe(self) -> Mapping[str, Any]:
        """Return ``{attention: kernel in use, kernels: {what else: kernel}, weights: bytes, config: {...}}`` after load."""

    def bind(self, method: str, policy: str | None, params: Mapping[str, Any]) -> Bound:
        """Return a variant. ``policy`` is 'module:attribute' from method.yaml."""

    def close(self) -> None:
        """Free everything."""
