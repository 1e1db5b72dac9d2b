"""The models that manifests may call by name: the package's own models.yaml, then one in each folder on ``$LONGCTX_PATH``."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..catalog import PACKAGE, search_path
from ..contracts.manifest import ModelsFile, ModelSpec
from ..models import check
from .problems import Problem, Problems
from .source import KeyPath, read_source
from .validate import validate

FILE = "models.yaml"


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model of a models.yaml; ``where`` is the place of its entry."""

    spec: ModelSpec
    where: str


def model_files() -> tuple[Path, ...]:
    """Return the models.yaml files of this installation that exist. Raises ManifestError for a bad ``$LONGCTX_PATH``."""
    candidates = [PACKAGE / "manifests" / FILE, *(folder / FILE for folder in search_path())]
    return tuple(path for path in candidates if path.is_file())


def known_models(files: Iterable[Path] | None = None) -> dict[str, KnownModel]:
    """Return the models by name. Raises ManifestError for a wrong file, or for a name that stands twice, naming both places."""
    known: dict[str, KnownModel] = {}
    for path in model_files() if files is None else files:
        source = read_source(path)
        problems = Problems(source)
        for index, spec in enumerate(validate(ModelsFile, source).models):
            at: KeyPath = ("models", index)
            if (first := known.get(spec.name)) is not None:
                message = f"{spec.name!r} is the name of another model, at {first.where}"
                problems.add(Problem(path=(*at, "name"), message=message, allowed="a name of its own"))
            known.setdefault(spec.name, KnownModel(spec=placed(spec, path.parent), where=source.where(at)))
        problems.stop()
    return known


def placed(spec: ModelSpec, folder: Path) -> ModelSpec:
    """Return the model with a relative ``path:`` source made absolute, counted from the file that names it."""
    kind, _, rest = spec.source.partition(":")
    if kind != "path":
        return spec
    return spec.model_copy(update={"source": f"path:{(folder / Path(rest).expanduser()).resolve()}"})


def source_problem(spec: ModelSpec) -> Problem | None:
    """Return what is wrong with a placed model's source, as far as that can be seen without fetching; its path starts below the model."""
    if (wrong := check(spec)) is None:
        return None
    key = "trust_remote_code" if wrong.startswith(f"{spec.source}: trust_remote_code") else "source"
    return Problem(path=(key,), message=wrong)


def unknown_model(name: str, known: Iterable[str], path: KeyPath) -> Problem:
    """Return the problem that no models.yaml knows ``name``."""
    if re.match(r"^(hf|path|pypi|random):", name):
        return Problem(path=path, message=f"{name!r} is a source, not a name", allowed=f"{{name: a-name, source: '{name}'}}")
    options = tuple(sorted(known))
    return Problem(
        path=path, message=f"no model is called {name!r}", options=options, wrong=name, allowed="" if options else "{name: …, source: …}"
    )
