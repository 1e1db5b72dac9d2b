"""The models that manifests may call by name: the package's own models.yaml, then one in each folder on ``$LONGCTX_PATH``."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..catalog import PACKAGE, search_path
from ..contracts.manifest import ModelsFile, ModelSpec
from .problems import Problem, Problems
from .source import KeyPath, read_source
from .validate import validate

FILE = "models.yaml"
_COMMIT = re.compile(r"^hf:[^@]+@[0-9a-f]{40}$")
_FORMS = {
    "hf": (re.compile(r"^hf:[\w.-]+(/[\w.-]+)?(@[\w./-]+)?$"), "hf:owner/repository@revision"),
    "pypi": (re.compile(r"^pypi:[A-Za-z0-9][\w.-]*==[\w.+!-]+#[^#\s]+$"), "pypi:package==version#file"),
    "path": (re.compile(r"^path:\S.*$"), "path:folder"),
    "random": (re.compile(r"^random:[\w.-]+$"), "random:shape"),
}


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
            problems.extend(spec_problems(spec), at)
            if (first := known.get(spec.name)) is not None:
                problems.add(
                    Problem(
                        path=(*at, "name"),
                        message=f"{spec.name!r} is the name of another model, at {first.where}",
                        allowed="a name of its own",
                    )
                )
            known.setdefault(spec.name, KnownModel(spec=placed(spec, path.parent), where=source.where(at)))
        problems.stop()
    return known


def placed(spec: ModelSpec, folder: Path) -> ModelSpec:
    """Return the model with a relative ``path:`` source made absolute, counted from the file that names it."""
    kind, _, rest = spec.source.partition(":")
    if kind != "path":
        return spec
    return spec.model_copy(update={"source": f"path:{(folder / Path(rest).expanduser()).resolve()}"})


def spec_problems(spec: ModelSpec) -> Iterator[Problem]:
    """Yield what is wrong with a model by itself; paths start below it."""
    form, words = _FORMS[spec.source.partition(":")[0]]
    if not form.match(spec.source):
        yield Problem(path=("source",), message=f"{spec.source!r} has the wrong form", allowed=words)
    if spec.trust_remote_code and not _COMMIT.match(spec.source):
        yield Problem(
            path=("trust_remote_code",),
            message="code of a model that is not pinned does not run",
            allowed="only with a source hf:owner/repository@<commit, 40 digits>",
        )


def missing_folder(spec: ModelSpec) -> Problem | None:
    """Return the problem that the folder of a placed ``path:`` source is not there."""
    kind, _, rest = spec.source.partition(":")
    if kind == "path" and not Path(rest).is_dir():
        return Problem(
            path=("source",), message=f"there is no folder {rest}", allowed="a folder with config.json, tokenizer and safetensors"
        )
    return None


def unknown_model(name: str, known: Iterable[str], path: KeyPath) -> Problem:
    """Return the problem that no models.yaml knows ``name``."""
    if re.match(r"^(hf|path|pypi|random):", name):
        return Problem(path=path, message=f"{name!r} is a source, not a name", allowed=f"{{name: a-name, source: '{name}'}}")
    options = tuple(sorted(known))
    return Problem(
        path=path, message=f"no model is called {name!r}", options=options, wrong=name, allowed="" if options else "{name: …, source: …}"
    )
