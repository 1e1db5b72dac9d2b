"""Where methods are found, what their parameters may be, and their byte estimates. No method's code is imported here but its estimate's.

Places, in this order: the package's own ``methods/``, ``methods/`` of every folder on ``$LONGCTX_PATH``, the entry points of the
group ``longctx.methods`` (a module beside whose code ``method.yaml`` lies; the module itself is not imported), and the path of a folder
in a manifest.
"""

import importlib.machinery
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from .contracts.base import Scalar
from .contracts.manifest import MethodSpec, Parameter
from .errors import ManifestError
from .manifest.problems import Problem, Problems, listed, nearest
from .manifest.source import KeyPath, Source, read_source
from .manifest.validate import validate

PACKAGE = Path(__file__).parent.parent
"""The package ``longctx``: links to the repository's folders in a checkout, the folders themselves in a wheel."""

GROUP = "longctx.methods"
FILE = "method.yaml"

Estimator = Callable[[Mapping[str, Any], int, Mapping[str, Any], int], int]
"""``estimate(config, tokens, params, dtype_bytes) -> bytes``: the KV bytes that one request of ``tokens`` holds.

``config`` is the model's config.json, ``params`` all parameters of the variant, ``dtype_bytes`` those of the model's precision.
"""


class BadParametersError(ManifestError):
    """Parameters that a method does not take. ``problems`` have paths below the selection: ``('params', name)`` or ``('preset',)``."""

    def __init__(self, method: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(
            "\n".join(_plain_line(method, problem) for problem in problems), f"`longctx methods {method}` shows its parameters."
        )
        self.problems = problems


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method as found. ``folder`` holds its code and ``method.yaml``."""

    spec: MethodSpec
    folder: Path
    source: Source = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """Return the method's name."""
        return self.spec.name

    def bind(self, preset: str | None = None, params: Mapping[str, Scalar] | None = None) -> dict[str, Any]:
        """Return all parameters of a variant. Raises BadParametersError."""
        return bind(self.spec, preset, params or {})

    @cached_property
    def estimator(self) -> Estimator:
        """The function that ``estimate`` names. Raises ManifestError."""
        return _load_estimator(self)

    def estimate(self, config: Mapping[str, Any], tokens: int, params: Mapping[str, Any], dtype_bytes: int) -> int:
        """Return the KV bytes that a request of ``tokens`` holds with this method. Raises ManifestError if its function fails."""
        try:
            value = self.estimator(config, tokens, params, dtype_bytes)
        except Exception as error:
            raise self._bad_estimate(f"raised {type(error).__name__}: {error} for {tokens} tokens and {dict(params)}") from error
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise self._bad_estimate(f"returned {value!r}; allowed: a number of bytes, 0 or more")
        return round(value)

    def _bad_estimate(self, what: str) -> ManifestError:
        return ManifestError(f"{self.source.where(('estimate',))}: estimate: {self.spec.estimate} {what}", "Mend the method's estimate.")


class Catalog:
    """Methods by name. Folders are listed and read on the first question, and once."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = tuple(folders)
        self._broken: list[tuple[Path, ManifestError]] = []

    @cached_property
    def _methods(self) -> dict[str, Method]:
        found: dict[str, Method] = {}
        for folder in self._folders:
            try:
                method = read_method(folder)
            except ManifestError as error:
                self._broken.append((folder, error))
                continue
            if (other := found.get(method.name)) is not None:
                raise _clash(other, method)
            found[method.name] = method
        return found

    def names(self) -> tuple[str, ...]:
        """Return all methods' names, sorted."""
        return tuple(sorted(self._methods))

    def broken(self) -> tuple[tuple[Path, ManifestError], ...]:
        """Return the folders whose ``method.yaml`` is wrong, with the reason; they stop nothing but themselves."""
        _ = self._methods
        return tuple(self._broken)

    def get(self, name: str) -> Method:
        """Return a method by name. Raises ManifestError that lists the methods and the nearest spelling."""
        if (method := self._methods.get(name)) is not None:
            return method
        for folder, error in self._broken:
            if folder.name.replace("_", "-") == name:
                raise error
        near = nearest(name, self._methods)
        raise ManifestError(
            f"no method is called {name!r}; there are: {listed(self.names())}" + (f"; did you mean {near!r}?" if near else ""),
            "A method of your own is named by its folder (./mine), or found in methods/ of a folder on $LONGCTX_PATH.",
        )

    def at(self, folder: Path) -> Method:
        """Return the method in a folder outside the catalog. Raises ManifestError when it is wrong or takes the name of another."""
        method = read_method(folder)
        other = self._methods.get(method.name)
        if other is None:
            return method
        if other.folder.resolve() == folder.resolve():
            return other
        raise _clash(other, method)


def find_catalog(environ: Mapping[str, str] | None = None) -> Catalog:
    """Return the catalog of this installation: built in, ``$LONGCTX_PATH``, entry points."""
    folders = [PACKAGE / "methods", *(root / "methods" for root in search_path(environ))]
    found = [path.parent for folder in folders for path in sorted(folder.glob(f"*/{FILE}"))]
    unique = {folder.resolve(): folder for folder in reversed([*found, *_entry_points()])}
    return Catalog(reversed(unique.values()))


def search_path(environ: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """Return the folders on ``$LONGCTX_PATH``: each may hold methods/, evals/, models.yaml. Raises ManifestError where one is not there."""
    listed_ = (os.environ if environ is None else environ).get("LONGCTX_PATH", "")
    folders = tuple(Path(part).expanduser() for part in listed_.split(os.pathsep) if part)
    for folder in folders:
        if not folder.is_dir():
            raise ManifestError(
                f"LONGCTX_PATH: {folder} is not a folder", "Mend or unset LONGCTX_PATH; its folders hold methods/ and evals/."
            )
    return folders


def read_method(folder: Path) -> Method:
    """Read and check one ``method.yaml``. Raises ManifestError with every mistake located."""
    source = read_source(folder / FILE)
    spec = validate(MethodSpec, source)
    problems = Problems(source)
    problems.extend(_spec_problems(spec, folder))
    problems.stop("The method cannot be used until its method.yaml is mended.")
    return Method(spec=spec, folder=folder, source=source)


def bind(spec: MethodSpec, preset: str | None, params: Mapping[str, Scalar]) -> dict[str, Any]:
    """Return every parameter of a variant: the defaults, over them the preset's, over them ``params``. Raises BadParametersError.

    A null stands for "not given". Giving a parameter sets to null those that it excludes and that were not given.
    """
    problems = list(_given_problems(spec, preset, params))
    if problems:
        raise BadParametersError(spec.name, tuple(problems))
    given = _given(spec, preset, params)
    excluded = {name for name in given for name in _excluded(spec, name)}
    bound: dict[str, Any] = {}
    for name, parameter in spec.parameters.items():
        value = given.get(name, None if name in excluded else parameter.default)
        bound[name] = float(value) if parameter.type == "float" and value is not None else value
    return bound


def _given(spec: MethodSpec, preset: str | None, params: Mapping[str, Scalar]) -> dict[str, Scalar]:
    given = {**(spec.presets[preset] if preset is not None else {}), **params}
    return {name: value for name, value in given.items() if value is not None}


def _given_problems(spec: MethodSpec, preset: str | None, params: Mapping[str, Scalar]) -> Iterator[Problem]:
    known = True
    if preset is not None and preset not in spec.presets:
        yield Problem(
            path=("preset",),
            message=f"{spec.name} has no preset {preset!r}",
            options=tuple(spec.presets),
            wrong=preset,
            allowed="" if spec.presets else "none: leave the key out",
        )
        preset = None
    for name, value in params.items():
        if name not in spec.parameters:
            known = False
            allowed = "" if spec.parameters else "none: the method has no parameters"
            yield Problem(
                path=("params", name),
                message=f"unknown parameter of {spec.name}",
                allowed=allowed,
                options=tuple(spec.parameters),
                wrong=name,
                at_key=True,
            )
        elif value is not None and (wrong := _value_problem(spec.parameters[name], value, ("params", name))):
            yield wrong
    given = _given(spec, preset, params)
    told: set[frozenset[str]] = set()
    for name in given:
        for other in _excluded(spec, name):
            pair = frozenset({name, other})
            if other in given and pair not in told:
                told.add(pair)
                at = other if other in params else name
                yield Problem(path=("params", at), message=f"{name!r} and {other!r} exclude each other", allowed="one of them", at_key=True)
    for name, parameter in spec.parameters.items():
        if known and parameter.required and name not in given and not any(other in given for other in _excluded(spec, name)):
            yield Problem(path=("method",), message=f"{spec.name} needs the parameter {name!r}", allowed=_range_text(parameter))


def _excluded(spec: MethodSpec, name: str) -> list[str]:
    """Return the parameters that may not stand together with ``name``, whichever of the two says so."""
    parameter = spec.parameters.get(name)
    own = parameter.excludes if parameter else ()
    return [*own, *(other for other, each in spec.parameters.items() if name in each.excludes and other not in own)]


def _value_problem(parameter: Parameter, value: Scalar, path: KeyPath) -> Problem | None:
    fits = {
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
    }[parameter.type]
    allowed = _range_text(parameter)
    options = tuple(str(choice) for choice in parameter.choices or ())
    if not fits:
        return Problem(path=path, message=f"{value!r} has the wrong type", allowed=allowed, options=options)
    if parameter.choices is not None and value not in parameter.choices:
        return Problem(path=path, message=f"{value!r} is not known", allowed=allowed, options=options, wrong=str(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = parameter.minimum, parameter.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            return Problem(path=path, message=f"{value!r} is out of range", allowed=allowed)
    return None


def _range_text(parameter: Parameter) -> str:
    if parameter.choices is not None:
        return listed([str(choice) for choice in parameter.choices])
    word = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}[parameter.type]
    low, high = parameter.minimum, parameter.maximum
    bounds = [f"{word_} {bound:g}" for word_, bound in (("at least", low), ("at most", high)) if bound is not None]
    return " ".join([word, " and ".join(bounds)]).strip()


def _spec_problems(spec: MethodSpec, folder: Path) -> Iterator[Problem]:
    for name, parameter in spec.parameters.items():
        at: KeyPath = ("parameters", name)
        if parameter.default is not None and (wrong := _value_problem(parameter, parameter.default, (*at, "default"))):
            yield wrong
        if parameter.required and parameter.default is not None:
            yield Problem(
                path=(*at, "required"), message="a parameter with a default is never missing", allowed="required or a default, not both"
            )
        for index, other in enumerate(parameter.excludes):
            if other not in spec.parameters or other == name:
                yield Problem(
                    path=(*at, "excludes", index), message=f"{other!r} is no other parameter", options=tuple(spec.parameters), wrong=other
                )
    for preset, values in spec.presets.items():
        for wrong in _given_problems(spec, None, values):
            if wrong.path[0] == "params":  # a required parameter that a preset leaves open may be given beside it
                yield replace(wrong, path=("presets", preset, *wrong.path[1:]))
    seen: dict[str, int] = {}
    for index, environment in enumerate(spec.environments):
        if environment.name in seen:
            yield Problem(
                path=("environments", index, "name"), message=f"{environment.name!r} stands twice", allowed="each environment once"
            )
        seen[environment.name] = index
    file = spec.estimate.partition(":")[0] + ".py"
    if not (folder / file).is_file():
        yield Problem(path=("estimate",), message=f"{file} does not lie beside method.yaml", allowed="file:function of a file there")


def _load_estimator(method: Method) -> Estimator:
    file, _, function = method.spec.estimate.partition(":")
    path = method.folder / f"{file}.py"
    name = f"longctx_estimate_{sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    where = f"{method.source.where(('estimate',))}: estimate"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ManifestError(f"{where}: {path} is no Python file", "Mend the method's estimate.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ManifestError(
            f"{where}: importing {path} raised {type(error).__name__}: {error}; allowed: the standard library only",
            "Mend the method's estimate.",
        ) from error
    found = getattr(module, function, None)
    if not callable(found):
        raise ManifestError(f"{where}: {path} has no function {function!r}", "Mend the method's estimate.")
    estimator: Estimator = found
    return estimator


def _entry_points() -> Iterator[Path]:
    """Yield the folders that entry points name, without importing them: their parents might pull in a whole framework."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        folders: list[str] | None = None
        spec: importlib.machinery.ModuleSpec | None = None
        for part in entry.module.split("."):
            spec = importlib.machinery.PathFinder.find_spec(part, folders)
            folders = list(spec.submodule_search_locations) if spec is not None and spec.submodule_search_locations else []
        folder = Path(folders[0]) if folders else Path(spec.origin).parent if spec is not None and spec.origin else None
        if folder is None or not (folder / FILE).is_file():
            raise ManifestError(
                f"the entry point {entry.name!r} of {GROUP} names {entry.module}, beside which no {FILE} lies",
                "Mend or uninstall that package.",
            )
        yield folder


def _clash(first: Method, second: Method) -> ManifestError:
    return ManifestError(
        f"two methods are called {first.name!r}: one in {first.folder} and one in {second.folder}", "Rename one of them in its method.yaml."
    )


def _plain_line(method: str, problem: Problem) -> str:
    near = nearest(problem.wrong, problem.options) if problem.wrong is not None else None
    allowed = problem.allowed or listed(problem.options)
    return f"{method}: {problem.path[-1]}: {problem.message}; allowed: {allowed}" + (f"; did you mean {near!r}?" if near else "")
