"""What a manifest meets on this host: models, environments, methods' code, tasks, devices and engine, gathered as facts for the plan."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from . import devices, engines, inspection, models, taskstore
from .catalog import find_catalog
from .code import code_digest, folders
from .contracts.job import DeviceKind
from .contracts.manifest import ModelSpec
from .contracts.plan import LockedModel, Plan
from .engines.base import Engine, Report
from .environments import find_environment, recorded
from .errors import EngineUnavailable
from .jobs import ids_name
from .manifest.expand import expand
from .manifest.load import load_manifest
from .manifest.selected import LoadedManifest, SelectedEval
from .plan import Facts, Options, TaskFacts, identify, plan
from .settings import Settings
from .store import RunFolder, digest

AUTO = ("docker", "venv")
"""What ``auto`` tries, in this order."""

Counter = Callable[[LockedModel], AbstractContextManager[Callable[[Sequence[str]], Sequence[int]]]]
"""Lends a tokenizer: a context manager that yields a function from texts to token counts."""


@dataclass(frozen=True, kw_only=True)
class World:
    """A checked manifest with what it resolved to on this host."""

    loaded: LoadedManifest
    settings: Settings
    engine: Engine
    device: DeviceKind
    models: Mapping[str, LockedModel | None]


def choose_engine(wanted: str, settings: Settings) -> Engine:
    """Return the engine called ``wanted``, or for ``auto`` the first that answers. Raises EngineUnavailable with the reasons."""
    names = [name for name in AUTO if name in engines.ENGINES] if wanted == "auto" else [wanted]
    reasons = []
    for name in names:
        engine = engines.make(name, settings)
        reason = engine.unavailable()
        if reason is None:
            return engine
        reasons.append(f"{name}: {reason}")
    raise EngineUnavailable("No engine can be used here.\n  " + "\n  ".join(reasons), "Start the engine, or choose another with --engine.")


def read(path: Path, settings: Settings) -> LoadedManifest:
    """Read a manifest; a model that is here already tells its window, so that prompts it cannot hold are refused."""

    def window(spec: ModelSpec) -> int | None:
        found = models.find(spec, settings)
        return found.job.window if found else None

    return load_manifest(path, find_catalog(), window=window)


def look(loaded: LoadedManifest, settings: Settings, engine: str, report: Report, *, fetch: bool) -> World:
    """Find (and with ``fetch`` get) the manifest's models; choose engine and device."""
    device = devices.resolve(loaded.manifest.resources.device)
    found = {
        model.spec.name: models.resolve(model.spec, settings=settings, report=report) if fetch else models.find(model.spec, settings)
        for model in loaded.models
    }
    return World(loaded=loaded, settings=settings, engine=choose_engine(_fitting(engine, loaded), settings), device=device, models=found)


def _fitting(wanted: str, loaded: LoadedManifest) -> str:
    """Return the engine that can use the host's own Python, where the manifest meets it; else ``wanted``. Raises EngineUnavailable."""
    own = recorded()
    if own is None or own.spec.system is None or own.spec.name not in _environment_names(loaded) or wanted not in ("auto", *AUTO):
        return wanted
    image = own.spec.system.image
    needed = "venv" if image is None else "docker"
    if wanted not in ("auto", needed):
        where = f"in the image {image}" if image is not None else "a Python of this host"
        raise EngineUnavailable(
            f"Environment {own.spec.name}, in which this manifest runs here, is {where}: the engine {wanted} cannot use it.",
            f"Run it with `--engine {needed}`, or forget that environment: `longctx config system --remove`.",
        )
    return needed


def facts(world: World, *, build: bool, count: Counter | None = None, unavailable: Mapping[str, str] | None = None) -> Facts:
    """Gather what the hashes depend on. ``build`` makes requests that are not cached yet; with ``count``, also those given in tokens."""
    environments = {name: find_environment(name) for name in _environment_names(world.loaded)}
    code = {}
    for variant in world.loaded.variants:
        key = (variant.method.name, variant.environment.name)
        if key not in code:
            code[key] = code_digest(folders(variant.environment, variant.method.folder))
    tasks: dict[tuple[str, str], TaskFacts] = {}
    for selected in world.loaded.evals:
        tasks |= {(selected.key, model): task for model, task in _tasks(world, selected, build, count).items()}
    return Facts(
        models=world.models, environments={name: digest([one.sha256, world.device]) for name, one in environments.items()}, code=code,
        tasks=tasks, device=world.device, engine=world.engine.name, backend="local", unavailable=unavailable or {},
    )  # fmt: skip


def _tasks(world: World, selected: SelectedEval, build: bool, count: Counter | None) -> Mapping[str, TaskFacts]:
    """Return what is known of a task by model: the same requests serve every model, unless lengths are in tokens."""
    names = [model.spec.name for model in world.loaded.models]
    seed = world.loaded.manifest.seed
    if not taskstore.needs_tokenizer(selected):
        return dict.fromkeys(names, taskstore.facts(selected, world.settings, seed, model=None, locked=None, build=build, count=count))
    return {
        name: taskstore.facts(selected, world.settings, seed, model=name, locked=world.models[name], build=build, count=count)
        for name in names
    }


def _environment_names(loaded: LoadedManifest) -> set[str]:
    return {variant.environment.name for variant in loaded.variants} | {model.spec.environment for model in loaded.models}


def make_plan(world: World, known: Facts, run: RunFolder, options: Options) -> Plan:
    """Expand, identify, look at the disk, and plan."""

    def architecture(spec: ModelSpec) -> str | None:
        found = world.models.get(spec.name)
        return found.architecture if found else None

    expansion = expand(world.loaded, architecture, world.device)
    identities, absent = identify(expansion, world.loaded.manifest, known)
    seen = inspection.inspect(run, identities, world.device, world.loaded.manifest.timing)
    return plan(identities, absent, world.loaded.manifest, known, seen, options, ids_name)
