"""Reads a manifest and checks everything that can be checked without touching a model or data. Nothing is written."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ...evals.base import Eval, ParameterError, RefusesTemplates, Size
from ..catalog import Catalog, Method
from ..contracts.manifest import Defaults, EvalSelection, Manifest, MethodSelection, ModelSpec
from ..contracts.request import Prompting
from ..environments import in_force
from ..errors import ManifestError
from .expand import filter_problems, matrix
from .models import KnownModel, known_models, placed, source_problem, unknown_model
from .problems import HINT, Problem, Problems
from .selected import LoadedManifest, SelectedEval, SelectedModel, Variant
from .source import KeyPath, read_source
from .validate import has, validate
from .variants import variants_of

Window = Callable[[ModelSpec], int | None]
"""The positions that a model was made for, or None where that is not known yet."""


TEMPLATES = ("none", "chat")
"""What the runner can lay around a prompt."""


class Evals(Protocol):
    """What is asked of ``evals.registry``."""

    def get(self, name: str) -> Eval:
        """Return the eval of this name. Raises LookupError, or ImportError where an outside one cannot be loaded."""

    def names(self) -> tuple[str, ...]:
        """Return all evals' names. Raises LookupError where two claim one."""


def load_manifest(
    path: Path, catalog: Catalog, *, evals: Evals | None = None, window: Window | None = None, model_files: Iterable[Path] | None = None
) -> LoadedManifest:
    """Read and check a manifest. Raises ManifestError with every mistake, one line each: ``file:line:column: key: what is wrong``.

    ``evals`` is ``evals.registry`` unless given. ``window`` is asked for models that name no window themselves. ``model_files`` are the
    models.yaml files to look names up in; the package's and those on ``$LONGCTX_PATH`` unless given.
    """
    source = read_source(path)
    manifest = validate(Manifest, source)
    problems = Problems(source)
    models = _models(manifest, path.parent, None if model_files is None else tuple(model_files), problems)
    variants = _variants(manifest, path.parent, catalog, problems)
    selected = _evals(manifest, evals if evals is not None else _registry(), problems)
    problems.stop()
    loaded = LoadedManifest(
        manifest=manifest,
        path=path,
        text=source.text,
        source=source,
        models=models,
        variants=variants,
        evals=tuple(task for task, _ in selected),
    )
    problems.extend(filter_problems(loaded))
    problems.stop()
    problems.extend(_matrix_problems(loaded, {task.key: size for task, size in selected}, window))
    problems.stop()
    return loaded


def _registry() -> Evals:
    from ...evals import registry

    return registry


# Models


def _models(manifest: Manifest, folder: Path, files: tuple[Path, ...] | None, problems: Problems) -> tuple[SelectedModel, ...]:
    by_name = any(isinstance(entry, str) for entry in manifest.models)
    known = known_models(files) if by_name else {}
    selected: list[SelectedModel] = []
    for index, entry in enumerate(manifest.models):
        path: KeyPath = ("models", index)
        spec = _model(entry, path, folder, known=known, defaults=manifest.defaults, problems=problems)
        if spec is None:
            continue
        if (first := next((model for model in selected if model.spec.name == spec.name), None)) is not None:
            problems.add(
                Problem(
                    path=path,
                    message=f"the model {spec.name!r} is selected twice, first at {problems.source.where(first.path)}",
                    allowed="once",
                )
            )
        selected.append(SelectedModel(spec=spec, path=path))
    return tuple(selected)


def _model(
    entry: str | ModelSpec, path: KeyPath, folder: Path, *, known: Mapping[str, KnownModel], defaults: Defaults, problems: Problems
) -> ModelSpec | None:
    """Resolve one entry. A dtype: the entry's own, else the manifest's default, else models.yaml's. Its environment: this host's."""
    if isinstance(entry, str):
        if entry not in known:
            problems.add(unknown_model(entry, known, path))
            return None
        spec, own, note = known[entry].spec, False, f" (the model is named at {known[entry].where})"
    else:
        spec, own, note = placed(entry, folder), "dtype" in entry.model_fields_set, ""
    if wrong := source_problem(spec):
        problems.add(replace(wrong.under(path), message=wrong.message + note))
    spec = spec.model_copy(update={"environment": in_force(spec.environment)})
    return spec if own or defaults.dtype is None else spec.model_copy(update={"dtype": defaults.dtype})


# Methods


def _variants(manifest: Manifest, folder: Path, catalog: Catalog, problems: Problems) -> tuple[Variant, ...]:
    variants: list[Variant] = []
    folders: dict[str, Method] = {}
    for index, selection in enumerate(manifest.methods):
        path: KeyPath = ("methods", index)
        method = _method(selection, path, folder, catalog, problems)
        if method is None:
            continue
        other = folders.setdefault(method.name, method)
        if other.folder.resolve() != method.folder.resolve():
            message = f"{method.name!r} is the name of the methods in {other.folder} and in {method.folder}"
            problems.add(Problem(path=(*path, "method"), message=message, allowed="a name of its own for each"))
            continue
        found, wrong = variants_of(selection, method, path)
        problems.extend(wrong)
        variants.extend(found)
    _twice(variants, problems)
    return tuple(variants)


def _method(selection: MethodSelection, path: KeyPath, folder: Path, catalog: Catalog, problems: Problems) -> Method | None:
    at = (*path, "method")
    if re.match(r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", selection.method):
        if selection.method in catalog.names():
            return catalog.get(selection.method)
        for broken, error in catalog.broken():
            if broken.name.replace("_", "-") == selection.method:
                problems.add(
                    Problem(path=at, message=f"the method's own file is wrong: {error.args[0]}", allowed="a method.yaml without mistakes")
                )
                return None
        problems.add(
            Problem(path=at, message=f"no method is called {selection.method!r}", options=catalog.names(), wrong=selection.method)
            if catalog.names()
            else Problem(
                path=at, message=f"no method is called {selection.method!r}", allowed="the path of a method's folder, such as ./mine"
            )
        )
        return None
    place = folder / Path(selection.method).expanduser()
    if not place.is_dir():
        problems.add(
            Problem(path=at, message=f"there is no folder {place}", allowed="a method's name, or the path of its folder from this file")
        )
        return None
    try:
        return catalog.at(place)
    except ManifestError as error:
        problems.add(Problem(path=at, message=f"the method's own file is wrong: {error.args[0]}", allowed="a method.yaml without mistakes"))
        return None


def _twice(variants: list[Variant], problems: Problems) -> None:
    seen: dict[tuple[object, ...], Variant] = {}
    labels: dict[tuple[str, str], Variant] = {}
    for variant in variants:
        key = (variant.method.name, variant.environment.name, tuple(sorted(variant.params.items())))
        first = seen.setdefault(key, variant)
        if first is not variant:
            where = problems.source.where(first.path)
            message = f"{variant.name} in {variant.environment.name} is selected twice, first at {where}"
            problems.add(Problem(path=variant.path, message=message, allowed="once; the label makes no other cell of it"))
            continue
        named = labels.setdefault((variant.label, variant.environment.name), variant)
        if named is not variant:
            where = problems.source.where(named.path)
            at = (*variant.path, "label") if variant.label != variant.name else variant.path
            problems.add(
                Problem(path=at, message=f"{variant.label!r} is what the variant at {where} is called", allowed="a label of its own")
            )


# Evals


def _evals(manifest: Manifest, registry: Evals, problems: Problems) -> list[tuple[SelectedEval, Size]]:
    selected: list[tuple[SelectedEval, Size]] = []
    keys: dict[str, KeyPath] = {}
    known = _Known(registry)
    for index, selection in enumerate(manifest.evals):
        path: KeyPath = ("evals", index)
        found = _eval(selection, path, known, manifest.defaults, problems)
        if found is None:
            continue
        task, size = found
        first = keys.setdefault(task.key, path)
        if first != path:
            at = (*path, "label") if selection.label else path
            where = problems.source.where(first)
            what = f"{task.task} is selected twice" if selection.label is None else f"the label {selection.label!r} is taken"
            problems.add(Problem(path=at, message=f"{what}, first at {where}", allowed="a label of its own for each"))
            continue
        selected.append((task, size))
    return selected


class _Known:
    """The registry, asked once a name: it looks at folders and installed packages every time."""

    def __init__(self, registry: Evals) -> None:
        self._registry = registry
        self._evals: dict[str, Eval] = {}
        try:
            self._names = registry.names()
        except LookupError as error:
            raise ManifestError(str(error.args[0]), HINT) from error

    def find(self, task: str) -> tuple[Eval, str] | Problem:
        """Return the eval and the task's own name, or what is wrong; the problem stands below the selection."""
        name, _, own = task.partition("/")
        try:
            if name in self._names and own in self._get(name).tasks:
                return self._get(name), own
        except ImportError as error:
            return Problem(path=("task",), message=str(error), allowed="an eval that can be loaded")
        return Problem(path=("task",), message=f"no task is called {task!r}", options=tuple(self._tasks()), wrong=task)

    def _get(self, name: str) -> Eval:
        if name not in self._evals:
            self._evals[name] = self._registry.get(name)
        return self._evals[name]

    def _tasks(self) -> Iterator[str]:
        for name in self._names:
            with suppress(ImportError):  # a broken eval of somebody else is no reason not to list the others
                yield from (f"{name}/{task}" for task in self._get(name).tasks)


def _eval(
    selection: EvalSelection, path: KeyPath, known: _Known, defaults: Defaults, problems: Problems
) -> tuple[SelectedEval, Size] | None:
    found = known.find(selection.task)
    if isinstance(found, Problem):
        problems.add(found.under(path))
        return None
    evaluation, task = found
    prompting = _prompting(selection, path, defaults, problems)
    try:
        params = evaluation.normalise(task, selection.params)
        size = evaluation.size(task, params, None)
    except ParameterError as error:
        problems.add(_parameter_problem(error, path, selection.params))
        return None
    key = selection.label or selection.task.replace("/", "-")
    note = None
    if prompting.template != "none" and isinstance(evaluation, RefusesTemplates) and task in evaluation.no_template:
        prompting = prompting.model_copy(update={"template": "none", "template_kwargs": {}})
        note = "template none: a chat template is never laid around this task"
    return SelectedEval(key=key, task=selection.task, params=params, prompting=prompting, path=path, note=note), size


def _parameter_problem(error: ParameterError, path: KeyPath, params: Mapping[str, Any]) -> Problem:
    """Say what an eval says. Its options are meant for the key where that is unknown, else for the value."""
    at_key = error.message.startswith("unknown")
    wrong: Any = error.path[-1] if at_key and error.path else params
    if not at_key:
        for part in error.path:
            wrong = wrong[part] if has(wrong, part) else None
    return Problem(
        path=(*path, "params", *error.path),
        message=error.message,
        allowed=error.allowed,
        options=error.options,
        wrong=wrong if isinstance(wrong, str) else None,
        at_key=at_key,
    )


def _prompting(selection: EvalSelection, path: KeyPath, defaults: Defaults, problems: Problems) -> Prompting:
    """Lay what the eval says over what the manifest's defaults say, key by key."""
    base = defaults.prompting
    own = selection.prompting
    merged = own if base is None else base.model_copy(update={field: getattr(own, field) for field in own.model_fields_set})
    if merged.truncate == "middle" and merged.max_prompt_tokens is None:
        at = (*path, "prompting", "truncate") if "truncate" in own.model_fields_set else ("defaults", "prompting", "truncate")
        problems.add(
            Problem(
                path=at, message="'middle' needs max_prompt_tokens, the length to cut to", allowed="max_prompt_tokens: n, or truncate: none"
            )
        )
    if merged.template not in TEMPLATES:
        at = (*path, "prompting", "template") if "template" in own.model_fields_set else ("defaults", "prompting", "template")
        problems.add(Problem(path=at, message=f"no template is called {merged.template!r}", options=TEMPLATES, wrong=merged.template))
    return merged


# The matrix


def _matrix_problems(loaded: LoadedManifest, sizes: Mapping[str, Size], window: Window | None) -> list[Problem]:
    """Say that nothing is left, or which prompts a model cannot hold."""
    problems: dict[tuple[str, str], Problem] = {}
    windows: dict[str, int | None] = {}
    left = 0
    for model, variant, task, left_out, _ in matrix(loaded):
        if left_out is not None:
            continue
        left += 1
        name = model.spec.name
        if variant.method.spec.extends_window or (name, task.key) in problems:
            continue
        if name not in windows:
            windows[name] = model.spec.window if model.spec.window is not None or window is None else window(model.spec)
        if problem := _too_long(task, sizes[task.key], name, windows[name]):
            problems[name, task.key] = problem
    if not left:
        at: KeyPath = ("include",) if loaded.manifest.include else ("exclude",)
        return [Problem(path=at, message="no cell is left", allowed="patterns that leave at least one cell", at_key=True)]
    return list(problems.values())


def _too_long(task: SelectedEval, size: Size, model: str, window: int | None) -> Problem | None:
    least = size.least_tokens
    if least is None or window is None:
        return None
    if task.prompting.truncate == "middle" and task.prompting.max_prompt_tokens is not None:
        least = min(least, task.prompting.max_prompt_tokens)
    new = size.max_new_tokens or 0
    if least + new <= window:
        return None
    return Problem(
        path=task.path,
        message=f"prompts of at least {least} tokens and {new} new ones do not fit the {window} positions of {model}",
        allowed="shorter lengths, prompting with truncate: middle, a method that extends the window, or an exclude of this pair",
    )
