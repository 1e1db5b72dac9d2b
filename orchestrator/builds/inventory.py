"""Which images are there, which would be built now, and what to do about the difference: build, remove, export."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..catalog import Catalog, Method
from ..code import folders, stage, staged_name, union
from ..contracts.job import DeviceKind
from ..engines.base import Report
from ..engines.docker.client import START_STEP, answers, connect, explanation, translated
from ..environments import Environment, environment_names, find_environment, recorded
from ..errors import EngineUnavailable, EnvironmentFailed, UsageError
from ..families import entries, family_name, members, whole
from ..manifest.models import known_models
from ..settings import Settings
from ..store import writing
from .make import Image, Maker
from .recipe import LABEL, REPOSITORY, environment_tag, family_tag, python_tag

Kind = Literal["python", "environment", "runner", "family"]
State = Literal["current", "stale", "missing"]
DEVICES: tuple[DeviceKind, ...] = ("cpu", "cuda")
SLOW_SECONDS = 3600.0
"""Limit of what the engine may take long for: adding up sizes, packing an archive."""
_CHUNK = 2 * 2**20
_TAR_END = bytes(1024)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An image of longctx, or one that was never built (``id`` is None). Sizes in bytes; None where the engine does not say."""

    name: str
    kind: Kind
    device: str
    state: State
    environment: str = ""
    id: str | None = None
    size: int | None = None
    shared: int | None = None
    """Of the size: in layers that other images have as well."""

    @property
    def own(self) -> int | None:
        """What goes with this image alone."""
        return None if self.size is None or self.shared is None else self.size - self.shared


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What ``prune`` removed, or would remove. ``freed``: bytes; for a dry run those that no other image has, at least."""

    removed: tuple[str, ...]
    kept: Mapping[str, str] = field(default_factory=dict)
    """Images that could not be removed, with the engine's reason."""
    freed: int = 0


def open_maker(settings: Settings) -> Maker:
    """Connect to the engine. Raises EngineUnavailable."""
    if reason := answers():
        raise EngineUnavailable(f"{reason}.", START_STEP)
    return Maker(docker=connect(), settings=settings)


def imaged(names: Sequence[str] = ()) -> tuple[Environment, ...]:
    """Return the environments that images are made of: those named, or all.

    Raises ManifestError where there is none of that name, UsageError for the host's own Python.
    """
    found = tuple(find_environment(name) for name in dict.fromkeys(names or environment_names()))
    for environment in found if names else ():
        if environment.spec.system is not None:
            raise UsageError(f"Environment {environment.spec.name} is this host's own Python: it has no image.", "Name another one.")
    return tuple(environment for environment in found if environment.spec.system is None)


def build(maker: Maker, names: Sequence[str], device: DeviceKind, catalog: Catalog, methods: Sequence[Method], report: Report) -> int:
    """Make every image that a run on ``device`` needs; return how many there are. What is there already costs a question each.

    ``names`` are environments, all when empty; ``methods`` restrict it to their environments and families, all when empty. Prompts are
    tokenised on the CPU, so for cuda the models' environments get a CPU image too. Raises EnvironmentFailed, StorageError,
    EngineUnavailable, ManifestError or UsageError.
    """
    wanted = [one for one in imaged(names) if not methods or any(entries(method, one.spec.name) for method in methods)]
    if methods and not wanted:
        where = ", ".join(sorted({one.name for method in methods for one in method.spec.environments}))
        raise UsageError(f"None of these methods runs in {', '.join(names) or 'an environment that has images'}.", f"They run in: {where}.")
    if not names:
        wanted = [one for one in wanted if device in one.spec.torch]
    tokenising = [one for one in imaged(names) if one.spec.name in _tokenising() and "cpu" in one.spec.torch]
    pairs: list[tuple[Environment, DeviceKind]] = [(one, device) for one in wanted]
    pairs += [(one, "cpu") for one in tokenising if (one, "cpu") not in pairs]
    maker.make(pairs, report)
    made = len(pairs)
    for environment in wanted:
        name = environment.spec.name
        for family, needed in _families(catalog, name, device, methods).items():
            maker.family(_built(maker, environment, device), name, family, device, stage(maker.settings.cache, needed))
            report(f"{name} {device}: family {family}")
            made += 1
    for environment in tokenising:
        name = environment.spec.name
        maker.family(_built(maker, environment, "cpu"), name, None, "cpu", stage(maker.settings.cache, {}))
        report(f"{name} cpu: the bare runner")
    return made + len(tokenising)


def _tokenising() -> set[str]:
    """Return the environments that tokenise prompts: those that models name."""
    return {model.spec.environment for model in known_models().values()}


def _families(catalog: Catalog, environment: str, device: DeviceKind, methods: Sequence[Method] = ()) -> dict[str, dict[str, Path]]:
    """Return method folders by family: of all families that a device has methods of, or of those of ``methods``, their own code first."""
    known = members(catalog, environment)
    if not methods:
        able = {family: ms for family, ms in known.items() if any(device in method.spec.devices for method in ms)}
        return {family: whole(ms, environment, {}) for family, ms in able.items()}
    parts: dict[str, list[dict[str, Path]]] = {}
    for method in methods:
        for entry in entries(method, environment):
            parts.setdefault(family_name(method, entry), []).append(folders(entry, method.folder))
    return {family: whole(known.get(family, ()), environment, union(own)) for family, own in parts.items()}


def _built(maker: Maker, environment: Environment, device: DeviceKind) -> Image:
    found = maker.image(environment, device)
    if found is None:
        raise EnvironmentFailed(
            f"The image of environment {environment.spec.name} ({device}) is not there after it was built.", "Was it removed meanwhile?"
        )
    return found


def inventory(maker: Maker, catalog: Catalog) -> tuple[Entry, ...]:
    """Return the images that are there, and those that would be built now and are not; by name."""
    expected = {entry.name: entry for entry in _expected(maker, catalog)}
    found = []
    for seen in _df(maker)["Images"] or ():
        size, shared = _known(seen.get("Size")), _known(seen.get("SharedSize"))
        labels = seen.get("Labels") or {}
        for name in _names(seen):
            kind: Kind = "runner" if labels.get(LABEL) == "family" and not labels.get(f"{LABEL}.family") else labels[LABEL]
            fits = name in expected and not (kind in ("python", "environment") and maker.outdated(labels))
            expected.pop(name, None)
            found.append(
                Entry(
                    name=name, kind=kind, device=labels.get(f"{LABEL}.device", ""), environment=labels.get(f"{LABEL}.environment", ""),
                    state="current" if fits else "stale", id=seen["Id"], size=size, shared=shared,
                )
            )  # fmt: skip
    never = [entry for entry in expected.values() if entry.kind != "python"]
    return tuple(sorted([*found, *never], key=lambda entry: (entry.environment, entry.device, entry.kind != "environment", entry.name)))


def _names(seen: Mapping[str, Any]) -> Iterator[str]:
    """Yield our names of an image; its id where a newer one of the same name took them all. What others made on top of ours is theirs."""
    if LABEL not in (seen.get("Labels") or {}):
        return
    tags = [tag for tag in seen.get("RepoTags") or () if tag != "<none>:<none>"]
    yield from (tag for tag in tags if tag.startswith(f"{REPOSITORY}/"))
    if not tags:
        yield str(seen["Id"])


def _known(size: int | None) -> int | None:
    return None if size is None or size < 0 else size


def _expected(maker: Maker, catalog: Catalog) -> Iterator[Entry]:
    """Yield what would be built now; families only of environments whose image is there, for their names depend on it."""
    for device in DEVICES:
        base = maker.base(device)
        yield Entry(name=python_tag(base), kind="python", device="", state="missing")
        for environment in imaged():
            name = environment.spec.name
            if device not in environment.spec.torch:
                continue
            tag = environment_tag(environment, device, base, maker.flash(environment, device))
            yield Entry(name=tag, kind="environment", device=device, environment=name, state="missing")
            image = maker.image(environment, device)
            if image is None:
                continue
            yield from _thin(catalog, name, name, device, image.id)
    if (own := recorded()) is not None and own.spec.system is not None and own.spec.system.image is not None:
        image = maker.inspect(own.spec.system.image)
        for device in own.spec.torch if image is not None else ():
            yield from _thin(catalog, own.spec.name, own.spec.system.like, device, image.id if image is not None else "")


def _thin(catalog: Catalog, name: str, written: str, device: DeviceKind, image: str) -> Iterator[Entry]:
    """Yield the family and runner images on top of an image; ``written`` is how methods and models call the environment ``name``."""
    for family, needed in _families(catalog, written, device).items():
        tag = family_tag(name, family, device, image, staged_name(needed))
        yield Entry(name=tag, kind="family", device=device, environment=name, state="missing")
    if device == "cpu" and written in _tokenising():
        tag = family_tag(name, None, device, image, staged_name({}))
        yield Entry(name=tag, kind="runner", device=device, environment=name, state="missing")


def prune(maker: Maker, catalog: Catalog, *, everything: bool, dry_run: bool, report: Report) -> Pruned:
    """Remove stale images, or with ``everything`` all of longctx. One that a container uses is kept. Raises EngineUnavailable."""
    from docker.errors import APIError, ImageNotFound

    with contextlib.nullcontext() if dry_run else maker.alone(report):
        there = [entry for entry in inventory(maker, catalog) if entry.id is not None]
        chosen = [entry for entry in there if everything or entry.state == "stale"]
        chosen.sort(key=lambda entry: ("family", "runner", "environment", "python").index(entry.kind))
        if dry_run:
            kept = {entry.id for entry in there if entry not in chosen}
            own = {entry.id: entry.own or 0 for entry in chosen if entry.id not in kept}
            return Pruned(removed=tuple(entry.name for entry in chosen), freed=sum(own.values()))
        before = int(_df(maker).get("LayersSize") or 0)
        removed, refused = [], {}
        for entry in chosen:
            try:
                maker.docker.ask("removing an image", partial(maker.docker.api.remove_image, entry.name), SLOW_SECONDS)
                removed.append(entry.name)
            except ImageNotFound:
                continue
            except APIError as error:
                refused[entry.name] = explanation(error)
        freed = before - int(_df(maker).get("LayersSize") or 0)
    return Pruned(removed=tuple(removed), kept=refused, freed=max(freed, 0))


def _df(maker: Maker) -> Mapping[str, Any]:
    found: Mapping[str, Any] = maker.docker.ask("adding up what images take", maker.docker.api.df, SLOW_SECONDS)
    return found


def chosen(there: Sequence[Entry], names: Sequence[str]) -> tuple[str, ...]:
    """Return the images that names mean: an image's own, or an environment's for all of it that is current. Raises UsageError."""
    found: dict[str, None] = {}
    present = [entry for entry in there if entry.id is not None]
    for name in names:
        exact = [entry for entry in present if name in (entry.name, entry.name.removeprefix(f"{REPOSITORY}/"))]
        matching = exact or [entry for entry in present if entry.environment == name and entry.state == "current"]
        if not matching:
            known = sorted({entry.environment for entry in present if entry.state == "current"} - {""})
            raise UsageError(
                f"There is no image '{name}' to export.",
                f"Environments that have images here: {', '.join(known) or 'none'}; `longctx images list` shows all, `build` makes them.",
            )
        found |= dict.fromkeys(entry.name for entry in matching)
    return tuple(found)


def export(maker: Maker, names: Sequence[str], out: Path, progress: Callable[[int], None]) -> int:
    """Write images to an archive that ``docker load`` reads; return its bytes. ``progress`` is told the bytes so far.

    Raises EnvironmentFailed for an image that is not there or an archive that breaks off, StorageError and EngineUnavailable; then there is
    no file, and one that was there before is as it was.
    """
    from docker.errors import APIError

    api = maker.docker.api
    try:
        for name in names:  # asked first: an archive of several does not say which one is missing
            maker.docker.ask("looking for an image", partial(api.inspect_image, name))
        place = f"{api.base_url}/v{api.api_version}/images/get"  # the SDK's own call takes one name, and layers would be written twice
        answer = maker.docker.ask("packing images", lambda: api.get(place, params={"names": list(names)}, stream=True), SLOW_SECONDS)
    except APIError as error:
        raise EnvironmentFailed(
            f"The engine has not got {', '.join(names)}: {explanation(error)}.", "See `longctx images list`."
        ) from error
    written, tail = 0, b""
    with contextlib.closing(answer), writing(out) as file:
        if answer.status_code != 200:
            told = " ".join(answer.text.split())[:500]
            raise EnvironmentFailed(f"The engine does not export {', '.join(names)}: {told}.", "See `longctx images list`.")
        pieces = answer.iter_content(_CHUNK)
        while piece := translated("exporting images", lambda: next(pieces, b"")):
            file.write(piece)
            written, tail = written + len(piece), (tail + piece)[-len(_TAR_END) :]
            progress(written)
        if tail != _TAR_END:
            raise EnvironmentFailed(
                f"The engine's archive breaks off after {written} bytes.", "Its disk may be full: it packs there first."
            )
    return written
