"""The matrix: models × variants × evals, narrowed by include and exclude. Pure; every model's architecture is asked for once.

**A method that cannot take a model** is *not applicable, with the reason* in a matrix, and an error where the manifest asks for exactly
that pair. It does so when it has one entry under ``models`` and one under ``methods``, or when an ``include`` names both by their full
names, without wildcards.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from ..contracts.job import DeviceKind
from ..contracts.manifest import CellFilter, ModelSpec
from ..contracts.plan import Absent
from .problems import Problem, Problems
from .selected import Cell, Expansion, LoadedManifest, SelectedEval, SelectedModel, Variant
from .source import KeyPath

Architecture = Callable[[ModelSpec], str | None]
"""The architecture of a model's config.json, such as LlamaForCausalLM; None where it is not known yet."""

_WILD = frozenset("*?[")


def expand(loaded: LoadedManifest, architecture: Architecture | None = None, device: DeviceKind | None = None) -> Expansion:
    """Return every cell of the manifest, in order, and what of the matrix will not run.

    ``architecture`` and ``device`` (the one that ``auto`` came to) decide which methods apply; what is not known refuses nothing.
    Raises ManifestError when a method that does not apply was asked for explicitly.
    """
    wanted = device if device is not None else None if loaded.manifest.resources.device == "auto" else loaded.manifest.resources.device
    architectures = {model.spec.name: architecture(model.spec) if architecture else None for model in loaded.models}
    reasons = {
        (model.spec.name, id(variant)): not_applicable(variant, architectures[model.spec.name], wanted)
        for model in loaded.models
        for variant in loaded.variants
    }
    problems = Problems(loaded.source)
    cells: list[Cell] = []
    absent: list[Absent] = []
    for model, variant, task, left_out, explicit in matrix(loaded):
        reason = reasons[model.spec.name, id(variant)] or _unseen(variant, task)
        if left_out is not None:
            absent.append(_absent(variant, model, task, "not_run", left_out))
        elif reason is None:
            cells.append(Cell(variant=variant, model=model.spec, eval=task, explicit=explicit))
        elif explicit:
            problems.add(Problem(path=(*variant.path, "method"), message=f"{variant.name} cannot take {model.spec.name}: {reason}"))
        else:
            absent.append(_absent(variant, model, task, "not_applicable", reason))
    problems.stop()
    return Expansion(cells=tuple(cells), absent=tuple(absent))


def not_applicable(variant: Variant, architecture: str | None, device: DeviceKind | None) -> str | None:
    """Return why a variant cannot run a model of this architecture on this device, or None. What is None refuses nothing."""
    spec = variant.method.spec
    if architecture is not None and "*" not in spec.accepts and architecture not in spec.accepts:
        return f"{spec.name} takes {', '.join(spec.accepts) or 'no architecture'}, not {architecture}"
    if device is not None and device not in spec.devices:
        return f"{spec.name} runs on {', '.join(spec.devices)}, not on {device}"
    return None


def _unseen(variant: Variant, task: SelectedEval) -> str | None:
    if task.prompting.question == "unseen" and not variant.method.spec.question_unseen:
        return f"{variant.method.name} does not compress before it has seen the question"
    return None


def matrix(loaded: LoadedManifest) -> Iterator[tuple[SelectedModel, Variant, SelectedEval, str | None, bool]]:
    """Yield every combination in order: model, variant, eval, why it is left out (None: it is in), whether it is asked for explicitly."""
    manifest = loaded.manifest
    includes = [_Matches.of(each, loaded) for each in manifest.include]
    excludes = [_Matches.of(each, loaded) for each in manifest.exclude]
    single = len(manifest.models) == 1 and len(manifest.methods) == 1
    for m, model in enumerate(loaded.models):
        for v, variant in enumerate(loaded.variants):
            pair = single or any(each.exact and m in each.models and v in each.variants for each in includes)
            for e, task in enumerate(loaded.evals):
                left_out = None
                if includes and not any(each.has(m, v, e) for each in includes):
                    left_out = "no include of the manifest names it"
                else:
                    left_out = next((f"exclude[{i}] of the manifest" for i, each in enumerate(excludes) if each.has(m, v, e)), None)
                yield model, variant, task, left_out, pair


def filter_problems(loaded: LoadedManifest) -> Iterator[Problem]:
    """Yield the patterns of include and exclude that match nothing, and filters whose patterns never match together."""
    names: dict[str, tuple[str, ...]] = {
        "model": tuple(model.spec.name for model in loaded.models),
        "method": tuple(dict.fromkeys(name for variant in loaded.variants for name in _method_names(variant))),
        "task": tuple(dict.fromkeys(name for task in loaded.evals for name in _task_names(task))),
        "environment": tuple(dict.fromkeys(name for variant in loaded.variants for name in _environment_names(variant))),
    }
    for kind, filters in (("include", loaded.manifest.include), ("exclude", loaded.manifest.exclude)):
        for index, each in enumerate(filters):
            at: KeyPath = (kind, index)
            given = {field: pattern for field in names if (pattern := getattr(each, field)) is not None}
            if not given:
                yield Problem(path=at, message="a filter without patterns names nothing", options=tuple(names))
            empty = {field for field, pattern in given.items() if not any(fnmatchcase(name, pattern) for name in names[field])}
            for field in sorted(empty):
                yield Problem(path=(*at, field), message=f"{given[field]!r} matches nothing here", options=names[field], wrong=given[field])
            matches = _Matches.of(each, loaded)
            if given and not empty and not (matches.models and matches.variants and matches.evals):
                yield Problem(path=at, message="no cell matches all of these patterns together", allowed="patterns that some cell matches")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Matches:
    """A filter, matched against the three dimensions once, so that a cell costs three look-ups."""

    models: frozenset[int]
    variants: frozenset[int]
    evals: frozenset[int]
    exact: bool

    @classmethod
    def of(cls, each: CellFilter, loaded: LoadedManifest) -> "_Matches":
        return cls(
            models=frozenset(i for i, model in enumerate(loaded.models) if _match(each.model, (model.spec.name,))),
            variants=frozenset(
                i
                for i, variant in enumerate(loaded.variants)
                if _match(each.method, _method_names(variant)) and _match(each.environment, _environment_names(variant))
            ),
            evals=frozenset(i for i, task in enumerate(loaded.evals) if _match(each.task, _task_names(task))),
            exact=all(pattern is not None and not _WILD & set(pattern) for pattern in (each.model, each.method)),
        )

    def has(self, model: int, variant: int, task: int) -> bool:
        return model in self.models and variant in self.variants and task in self.evals


def _match(pattern: str | None, names: tuple[str, ...]) -> bool:
    return pattern is None or any(fnmatchcase(name, pattern) for name in names)


def _method_names(variant: Variant) -> tuple[str, ...]:
    return (variant.method.name, variant.name, variant.label)


def _environment_names(variant: Variant) -> tuple[str, ...]:
    return (variant.environment.name, variant.instead_of) if variant.instead_of is not None else (variant.environment.name,)


def _task_names(task: SelectedEval) -> tuple[str, ...]:
    return (task.task, task.key)


def _absent(variant: Variant, model: SelectedModel, task: SelectedEval, kind: Literal["not_applicable", "not_run"], reason: str) -> Absent:
    return Absent.model_construct(
        variant=variant.name, model=model.spec.name, task=task.key, environment=variant.environment.name, kind=kind, reason=reason
    )
