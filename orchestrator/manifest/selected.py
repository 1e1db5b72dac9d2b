"""What a manifest selects, checked: plain frozen records, so that ten thousand cells cost milliseconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..catalog import Method
from ..contracts.manifest import Manifest, MethodEnvironment, ModelSpec
from ..contracts.plan import Absent
from ..contracts.request import Prompting
from .source import KeyPath, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A method with all its parameters bound, in one environment: the one in force on this host, under its own name."""

    method: Method
    params: Mapping[str, Any]
    environment: MethodEnvironment
    family: str
    name: str
    """Canonical, from the bound parameters alone: ``streaming-llm{keep: 0.25}`` holds what differs from the defaults, sorted."""
    label: str
    """How tables call it: the person's label, or ``name``."""
    path: KeyPath
    """Where the manifest selects it: ``('methods', i)``."""
    instead_of: str | None = None
    """The environment that the method names, where the host's own Python stands in for it: packages recorded, not locked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectedModel:
    """A model with the manifest's defaults applied."""

    spec: ModelSpec
    path: KeyPath


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectedEval:
    """A task with all its parameters and prompting. ``key`` is unique in the manifest and safe as a file's name."""

    key: str
    task: str
    params: Mapping[str, Any]
    prompting: Prompting
    path: KeyPath
    note: str | None = None
    """What differs from what the manifest asks for, and why."""


@dataclass(frozen=True, kw_only=True)
class LoadedManifest:
    """A manifest that was found good, with everything it names looked up."""

    manifest: Manifest
    path: Path
    text: str
    source: Source
    models: tuple[SelectedModel, ...]
    variants: tuple[Variant, ...]
    evals: tuple[SelectedEval, ...]

    def where(self, path: KeyPath = ()) -> str:
        """Return ``file:line:column`` of the value at ``path``."""
        return self.source.where(path)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One variant × model × task that will run."""

    variant: Variant
    model: ModelSpec
    eval: SelectedEval
    explicit: bool
    """The manifest asks for exactly this method on this model: see ``expand``."""

    @property
    def label(self) -> str:
        """Return how a person tells this cell from the others: ``variant · model · task key · environment``."""
        return f"{self.variant.label} · {self.model.name} · {self.eval.key} · {self.variant.environment.name}"


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """All cells of a manifest, in its order (models, then variants, then evals), and the parts of the matrix that will not run."""

    cells: tuple[Cell, ...]
    absent: tuple[Absent, ...]
