"""A method selection to its variants: lists of values multiply out, presets fill in, names are canonical."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..catalog import BadParametersError, Method
from ..contracts.base import Scalar
from ..contracts.manifest import MethodEnvironment, MethodSelection
from ..environments import SYSTEM, as_written, in_force
from .problems import Problem
from .selected import Variant
from .source import KeyPath


def variants_of(selection: MethodSelection, method: Method, path: KeyPath) -> tuple[list[Variant], list[Problem]]:
    """Return the selection's variants, and its mistakes with paths from the manifest's top.

    Pure, but that the host's own Python, where it was recorded, takes the place of the environment that it is like.
    """
    problems: list[Problem] = []
    environment = _environment(selection, method, path, problems)
    name_here = in_force(environment.name) if environment is not None else ""
    variants: list[Variant] = []
    varied = [name for name, value in selection.params.items() if isinstance(value, list) and len(value) > 1]
    for choice, places in _products(selection, path, problems):
        try:
            bound = method.bind(selection.preset, choice)
        except BadParametersError as error:
            problems.extend(_placed(problem, path, places) for problem in error.problems)
            continue
        if environment is None:
            continue
        name = variant_name(method, bound, selection.preset)
        variants.append(
            Variant(
                method=method,
                params=bound,
                environment=environment.model_copy(update={"name": name_here}),
                instead_of=environment.name if name_here != environment.name else None,
                family=environment.family or method.name,
                name=name,
                label=_label(selection.label, name, {key: bound[key] for key in varied}),
                path=path,
            )
        )
    return variants, problems


def variant_name(method: Method, params: Mapping[str, Any], preset: str | None = None) -> str:
    """Return ``method{preset, name: value, …}``: the parameters, sorted, that differ from the defaults (or the preset's)."""
    usual = method.bind(preset, {}) if preset is not None and _complete(method, preset) else _defaults(method)
    parts = [preset] if preset is not None else []
    parts += [f"{key}: {_shown(value)}" for key, value in sorted(params.items()) if value != usual.get(key) and value is not None]
    return f"{method.name}{{{', '.join(parts)}}}" if parts else method.name


def _environment(selection: MethodSelection, method: Method, path: KeyPath, problems: list[Problem]) -> MethodEnvironment | None:
    there = method.spec.environments
    if selection.environment is None:
        return there[0]
    wanted = as_written(selection.environment)
    for environment in there:
        if environment.name == wanted:
            return environment
    served = (SYSTEM,) if any(in_force(each.name) == SYSTEM for each in there) else ()
    problems.append(
        Problem(
            path=(*path, "environment"),
            message=f"{method.name} has no environment {selection.environment!r}",
            options=(*(each.name for each in there), *served),
            wrong=selection.environment,
        )
    )
    return None


def _products(selection: MethodSelection, path: KeyPath, problems: list[Problem]) -> Iterator[tuple[dict[str, Scalar], dict[str, int]]]:
    """Yield each choice of values, and for values out of a list their index in it."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in selection.params.items()}
    empty = [name for name, values in lists.items() if not values]
    problems.extend(
        Problem(path=(*path, "params", name), message="an empty list makes no variant", allowed="at least one value") for name in empty
    )
    if empty:
        return
    for indices in itertools.product(*(range(len(values)) for values in lists.values())):
        pairs = list(zip(lists.items(), indices, strict=True))
        choice = {name: values[index] for (name, values), index in pairs}
        yield choice, {name: index for (name, _), index in pairs if isinstance(selection.params[name], list)}


def _placed(problem: Problem, path: KeyPath, places: Mapping[str, int]) -> Problem:
    """Point at the element of a list where the wrong value stands in one; a wrong name stays at its key."""
    index = places.get(str(problem.path[-1])) if problem.path[0] == "params" and not problem.at_key else None
    tail = () if index is None else (index,)
    return replace(problem, path=(*path, *problem.path, *tail))


def _label(label: str | None, name: str, varied: Mapping[str, Any]) -> str:
    if label is None:
        return name
    parts = [f"{key}: {_shown(value)}" for key, value in sorted(varied.items())]
    return f"{label}{{{', '.join(parts)}}}" if parts else label


def _complete(method: Method, preset: str) -> bool:
    try:
        method.bind(preset, {})
    except BadParametersError:
        return False
    return True


def _defaults(method: Method) -> dict[str, Any]:
    return {key: parameter.default for key, parameter in method.spec.parameters.items()}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)
