"""The public entry: a ModelSpec in, a LockedModel out."""

import hashlib
from typing import Any

from ..contracts.job import JobModel
from ..contracts.manifest import ModelSpec
from ..contracts.plan import LockedFile, LockedModel
from ..errors import ModelError
from ..settings import Settings
from . import hub, local, pypi, shapes
from .checksums import Checksums
from .folder import CONFIG, read_object
from .source import Located, Report, Source

SOURCES: dict[str, Source] = {"hf": hub, "path": local, "pypi": pypi, "random": shapes}

WINDOW_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length", "n_ctx")
"""Where configurations say how many positions a model was made for, commonest first."""

QUICK_BYTES = 2**23
"""``find`` reads a file of unknown checksum only up to this size; configurations and tokenizers are mostly below it."""


def check(spec: ModelSpec) -> str | None:
    """Say what is wrong with a model as written, as far as that can be seen without fetching; None when nothing is."""
    scheme, _, rest = spec.source.partition(":")
    if scheme not in SOURCES:
        return f"{spec.source}: unknown source {scheme!r}; there are {', '.join(sorted(SOURCES))}"
    if spec.trust_remote_code and not (scheme == "hf" and hub.is_pinned(rest)):
        return f"{spec.source}: trust_remote_code needs a pinned revision: hf:owner/name@ followed by a commit of 40 hexadecimal digits"
    return SOURCES[scheme].check(rest, spec)


def find(spec: ModelSpec, settings: Settings) -> LockedModel | None:
    """Return the model if it is whole on this disk and its checksums are known; no network, no reading of weights.

    Raises ModelError where files are there but wrong.
    """
    if check(spec) is not None:
        return None
    scheme, _, rest = spec.source.partition(":")
    located = SOURCES[scheme].locate(rest, spec, settings)
    if located is None:
        return None
    checksums = Checksums(settings)
    for name in located.files:
        path = located.folder / name
        if checksums.known(path) is None and path.stat().st_size > QUICK_BYTES:
            return None
    return _lock(spec, located, settings, lambda line: None)


def resolve(spec: ModelSpec, *, settings: Settings, report: Report, fetch: bool = True) -> LockedModel:
    """Return the model, fetching or making its files if need be and computing their checksums.

    With ``fetch`` false nothing goes over the network. Raises ModelError with one clear message; StorageError if the cache is full.
    """
    if problem := check(spec):
        raise ModelError(f"model {spec.name}: {problem}", "Mend the model's entry and run the same command again.")
    scheme, _, rest = spec.source.partition(":")
    if not fetch:
        settings = settings.model_copy(update={"offline": True})
    source = SOURCES[scheme]
    located = source.locate(rest, spec, settings) or source.fetch(rest, spec, settings, report)
    return _lock(spec, located, settings, report)


def _lock(spec: ModelSpec, located: Located, settings: Settings, report: Report) -> LockedModel:
    config = read_object(located.folder / CONFIG)
    checksums = Checksums(settings)
    files = []
    for name in sorted(located.files):
        path = located.folder / name
        files.append(LockedFile(path=name, size=path.stat().st_size, sha256=checksums.of(path, report)))
    checksums.save()
    job = JobModel(
        name=spec.name,
        path="model",
        dtype=spec.dtype,
        window=spec.window or _window(config, spec),
        rope=spec.rope,
        weights=located.weights,
        template=spec.template,
        trust_remote_code=spec.trust_remote_code,
    )
    return LockedModel(
        name=spec.name,
        source=spec.source,
        revision=located.revision,
        identity_sha256=identity(files),
        folder=str(located.folder.absolute()),
        architecture=_architecture(config, spec),
        config=config,
        files=tuple(files),
        job=job,
        environment=spec.environment,
        special=located.weights == "random",
    )


def identity(files: list[LockedFile]) -> str:
    """Return the SHA-256 over the sorted (path, sha256) pairs, one ``path NUL sha256 LF`` each."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        digest.update(f"{file.path}\0{file.sha256}\n".encode())
    return digest.hexdigest()


def _architecture(config: dict[str, Any], spec: ModelSpec) -> str:
    named = config.get("architectures")
    if isinstance(named, list) and named and isinstance(named[0], str):
        return named[0]
    if isinstance(config.get("model_type"), str):
        return str(config["model_type"])
    raise ModelError(
        f"model {spec.name}: its {CONFIG} names neither architectures nor model_type.", "It cannot be told which methods take this model."
    )


def _window(config: dict[str, Any], spec: ModelSpec) -> int:
    nested = config.get("text_config")
    for values in (config, nested if isinstance(nested, dict) else {}):
        for key in WINDOW_KEYS:
            if isinstance(values.get(key), int) and values[key] > 0:
                return int(values[key])
    raise ModelError(
        f"model {spec.name}: its {CONFIG} does not say how many positions it was made for.", "Write `window: N` (tokens) beside its source."
    )
