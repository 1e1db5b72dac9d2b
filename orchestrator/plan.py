"""From a checked manifest and what is known of the world to a plan. Pure: no file is read or written here.

``identify`` names every cell by the hash of its configuration; ``plan`` compares that with what the disk holds (an
:class:`Inspection`, made by ``inspection.py``) and says what is done, what is missing, and why.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .contracts.job import DeviceKind, JobDevice, Limits
from .contracts.manifest import Manifest
from .contracts.plan import Absent, Estimate, LockedModel, Plan, PlannedCell, PlannedJob, PlannedTask, Status, TokeniseTask
from .contracts.request import Prompting
from .manifest.selected import Cell, Expansion, Variant
from .store import digest, plain

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """A task as built, or why it could not be built yet."""

    planned: PlannedTask
    covers: str | None
    """Hash over all (id, request hash) pairs; null until it is built."""
    references_sha256: str | None = None
    folder: Path | None = None
    """Where its requests and references are kept; null until it is built."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the hashes of cells depend on besides the manifest."""

    models: Mapping[str, LockedModel | None]
    environments: Mapping[str, str]
    """Hash of each environment as written, torch's version for the device included."""
    code: Mapping[tuple[str, str], str]
    """Hash of a method's code in an environment, by (method, environment)."""
    tasks: Mapping[tuple[str, str], TaskFacts]
    """By (eval key, model)."""
    device: DeviceKind
    engine: str
    backend: str
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Why an environment cannot be had here."""


class Identity(NamedTuple):
    """A cell with its name and hashes."""

    cell: Cell
    name: str
    config_sha256: str
    code_sha256: str
    task: TaskFacts


class OnDisk(NamedTuple):
    """What a run folder holds of one cell."""

    run: str
    own: bool
    codes: tuple[str, ...]
    answered: int
    """Of the requests that are wanted now."""
    timed: bool
    """The timing pass is complete, on hardware like this."""
    errors: int
    scored: bool
    """``result.json`` is of these very responses, references and eval code."""


class Lengths(NamedTuple):
    """Prompt lengths of a task for a model, in tokens."""

    longest: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What the disk holds, by configuration hash."""

    cells: Mapping[str, Sequence[OnDisk]] = field(default_factory=dict)
    lengths: Mapping[str, Lengths] = field(default_factory=dict)
    """By ids file."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line adds."""

    run: str
    accept_code: bool = False
    fresh: bool = False
    retry_errors: bool = False


def bytes_of(text: str) -> int:
    """Return bytes for a text like ``24g`` or ``512MiB``; units are binary."""
    match = re.fullmatch(r"([0-9.]+)([kmgt])i?b?", text.lower())
    if match is None:
        raise ValueError(text)
    return int(float(match[1]) * UNITS[match[2]])


_UNSAFE = re.compile(r"[^A-Za-z0-9._]+")


def slug(text: str, longest: int = 60) -> str:
    """Return a text as a part of a file's name; different texts may give the same."""
    return _UNSAFE.sub("-", text).strip("-")[:longest]


def unique_slug(text: str) -> str:
    """Return a text as a part of a file's name that no other text gives."""
    short = slug(text)
    return short if short == text else f"{short[:50]}-{digest(text)[:8]}"


def identify(expansion: Expansion, manifest: Manifest, facts: Facts) -> tuple[list[Identity], list[Absent]]:
    """Name every cell; what cannot run here comes back as absent. Hashes are taken of parts once, not once a cell."""
    shared = digest(["v1", facts.device, manifest.resources.attention, manifest.seed])
    models = {name: _model_digest(model, facts) for name, model in facts.models.items() if model is not None}
    variants: dict[int, tuple[str, str]] = {}
    prompts: dict[int, str] = {}
    slugs: dict[str, str] = {}
    found, absent = [], list(expansion.absent)
    for cell in expansion.cells:
        environment = cell.variant.environment.name
        if environment in facts.unavailable:
            absent.append(
                Absent(
                    variant=cell.variant.label,
                    model=cell.model.name,
                    task=cell.eval.key,
                    environment=environment,
                    kind="not_run",
                    reason=facts.unavailable[environment],
                )
            )
            continue
        variant, label = variants.get(id(cell.variant)) or variants.setdefault(id(cell.variant), _variant(cell.variant, manifest, facts))
        prompting = prompts.get(id(cell.eval)) or prompts.setdefault(id(cell.eval), digest(plain(cell.eval.prompting)))
        task = facts.tasks[(cell.eval.key, cell.model.name)]
        model = models.get(cell.model.name) or digest(["unresolved", plain(cell.model)])
        config = digest([shared, variant, model, prompting, task.planned.task])
        place = f"{_slug(slugs, cell.model.name)}--{_slug(slugs, task.planned.key)}"
        name = f"{label}--{place}--{config[:10]}"
        found.append(Identity(cell, name, config, facts.code[(cell.variant.method.name, environment)], task))
    return found, absent


def _slug(known: dict[str, str], text: str) -> str:
    """A part of a cell's name, cut so that the whole stays below what a file's name and a job's cell may have."""
    return known.get(text) or known.setdefault(text, slug(text, 48))


def _batch(variant: Variant, manifest: Manifest) -> int:
    """How many requests are decoded together: a method that cannot do so has one, whatever the manifest wants of others."""
    return manifest.resources.batch if variant.method.spec.batch else 1


def _variant(variant: Variant, manifest: Manifest, facts: Facts) -> tuple[str, str]:
    """Return the hash of what a variant adds to its cells' configuration, and how their names start."""
    environment = variant.environment
    seen = [variant.method.name, dict(variant.params), facts.environments[environment.name], environment.entry, environment.policy]
    return digest([*seen, _batch(variant, manifest)]), f"{slug(variant.name)}.{slug(environment.name, 24)}"


def _model_digest(model: LockedModel, facts: Facts) -> str:
    """Hash what a model is, and the environment that makes its token ids; neither its name nor where it lies."""
    return digest([model.identity_sha256, plain(model.job) | {"name": "", "path": ""}, facts.environments[model.environment]])


def plan(identities: Sequence[Identity], absent: Sequence[Absent], manifest: Manifest, facts: Facts, seen: Inspection, options: Options,
         ids_name: Callable[[str, str, Mapping[str, Any]], str]) -> Plan:  # fmt: skip
    """Return the plan: every cell with its status and reason, the jobs that are left, and the tokenising they need."""
    names = _ids_names(identities, ids_name)
    cells = [_cell(identity, manifest, facts, seen, options, name) for identity, name in zip(identities, names, strict=True)]
    tokenise = _tokenise(identities, cells, names)
    jobs = _jobs(identities, cells, manifest, facts, len(tokenise))
    tasks = {identity.task.planned.key: identity.task.planned for identity in identities}
    return Plan(
        run=options.run, engine=facts.engine, backend=facts.backend, seed=manifest.seed, device=facts.device,
        parallel=manifest.resources.parallel, timing=manifest.timing,
        tasks=tuple(tasks.values()), cells=tuple(cells), absent=tuple(absent), tokenise=tokenise, jobs=jobs,
        method_folders=tuple(sorted({str(identity.cell.variant.method.folder) for identity in identities})),
    )  # fmt: skip


def _ids_names(identities: Sequence[Identity], ids_name: Callable[[str, str, Mapping[str, Any]], str]) -> list[str]:
    """Return the ids file of every cell; each (model, eval) is asked for once."""
    known: dict[tuple[str, str, int], str] = {}
    found = []
    for identity in identities:
        cell = identity.cell
        key = (cell.model.name, identity.task.planned.key, id(cell.eval))
        if key not in known:
            known[key] = ids_name(key[0], key[1], plain(cell.eval.prompting))
        found.append(known[key])
    return found


def _cell(identity: Identity, manifest: Manifest, facts: Facts, seen: Inspection, options: Options, ids: str) -> PlannedCell:
    cell, task = identity.cell, identity.task
    variant = cell.variant
    status, reason, missing, source, accepted = _status(identity, seen.cells.get(identity.config_sha256, ()), facts, options)
    batch = _batch(variant, manifest)
    lengths = seen.lengths.get(ids)
    return PlannedCell(
        cell=identity.name, label=variant.label, variant=variant.name, method=variant.method.name, params=dict(variant.params),
        model=cell.model.name, task=task.planned.key, environment=variant.environment.name, locked=variant.instead_of is None,
        family=variant.family, policy=variant.environment.policy, prompting=cell.eval.prompting, config_sha256=identity.config_sha256,
        code_sha256=identity.code_sha256, status=status, reason=reason, requests=task.planned.requests, missing=missing, source=source,
        accepted_code=accepted, batch=batch, estimate=_estimate(identity, facts, lengths),
    )  # fmt: skip


class _Verdict(NamedTuple):
    status: Status
    reason: str
    missing: int | None
    source: str | None = None
    accepted: str | None = None


def _status(identity: Identity, places: Sequence[OnDisk], facts: Facts, options: Options) -> _Verdict:
    """Decide what a cell needs. A place in the own run comes before others; of others, the one with most answers."""
    total = identity.task.planned.requests
    if facts.models[identity.cell.model.name] is None:
        return _Verdict("NEW", f"the model is not here yet: longctx models fetch {identity.cell.model.name}", total)
    if options.fresh:
        return _Verdict("RERUN" if places else "NEW", "asked for with --fresh" if places else "not run yet", total)
    if not places:
        return _Verdict("NEW", "not run yet", total)
    ranked = sorted(places, key=lambda place: (not place.own, -place.answered))
    # More codes than one stand there when a person accepted the answers of one for those of another.
    usable = [place for place in ranked if identity.code_sha256 in place.codes]
    accepted = None
    if not usable and options.accept_code:
        usable = ranked
        accepted = next(iter(ranked[0].codes), None)
    if not usable:
        old = next(iter(ranked[0].codes), "unknown")[:10]
        return _Verdict(
            "STALE", f"made by other code ({old}, now {identity.code_sha256[:10]}): runs again, or keep with --accept-code", total
        )
    best = usable[0]
    source = None if best.own else best.run
    where = "" if best.own else f" in run {best.run}"
    if options.retry_errors and best.errors:
        left = None if total is None else total - best.answered + best.errors
        return _Verdict("RERUN", f"{best.errors} errors are tried again", left, source, accepted)
    if total is None or best.answered < total:
        left = None if total is None else total - best.answered
        return _Verdict("EXTEND", f"{best.answered} of {'?' if total is None else total} answered{where}", left, source, accepted)
    if not best.timed:
        return _Verdict("EXTEND", f"all {total} answered{where}, the timing pass is missing", 0, source, accepted)
    if best.scored and best.own and accepted is None:
        return _Verdict("REUSE", "complete", 0)
    return _Verdict("RESCORE", f"answered{where}; scores are missing or of another eval version", 0, source, accepted)


def _estimate(identity: Identity, facts: Facts, lengths: Lengths | None) -> Estimate:
    model = facts.models[identity.cell.model.name]
    if lengths is None or model is None:
        return Estimate()
    variant = identity.cell.variant
    width = DTYPE_BYTES[model.job.dtype]
    return Estimate(
        prompt_tokens=lengths.total, longest=lengths.longest, kv_full_bytes=full_kv_bytes(model.config, lengths.longest, width),
        kv_bytes=variant.method.estimate(model.config, lengths.longest, variant.params, width),
    )  # fmt: skip


def full_kv_bytes(config: Mapping[str, Any], tokens: int, width: int) -> int | None:
    """Return the bytes of a native cache: 2 × layers × KV heads × head dimension × tokens × width. None for a model without one."""
    try:
        heads = config["num_attention_heads"]
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        return int(2 * config["num_hidden_layers"] * (config.get("num_key_value_heads") or heads) * head_dim * tokens * width)
    except (KeyError, TypeError, ZeroDivisionError):  # a recurrent model, or a configuration in another shape
        return None


def _pending(cell: PlannedCell) -> bool:
    return cell.status not in ("REUSE", "RESCORE")


def _tokenise(identities: Sequence[Identity], cells: Sequence[PlannedCell], names: Sequence[str]) -> tuple[TokeniseTask, ...]:
    """One CPU job a model, with every (task, prompting) that the model's cells use."""
    wanted: dict[str, dict[str, tuple[str, Prompting, str]]] = {}
    homes: dict[str, str] = {}
    for identity, cell, name in zip(identities, cells, names, strict=True):
        wanted.setdefault(cell.model, {})[name] = (cell.task, cell.prompting, name)
        homes[cell.model] = identity.cell.model.environment
    return tuple(
        TokeniseTask(task=number, job=f"tokenise--{unique_slug(model)}", model=model, environment=homes[model], items=tuple(items.values()))
        for number, (model, items) in enumerate(sorted(wanted.items()))
    )


def _jobs(
    identities: Sequence[Identity], cells: Sequence[PlannedCell], manifest: Manifest, facts: Facts, first: int
) -> tuple[PlannedJob, ...]:
    """One job a family, environment and model, split into shards where the manifest wants them."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    entries: dict[tuple[str, str, str], str] = {}
    for identity, cell in zip(identities, cells, strict=True):
        key = (cell.family, cell.environment, cell.model)
        entries[key] = identity.cell.variant.environment.entry
        if _pending(cell):
            groups.setdefault(key, []).append(cell.cell)
    wants = manifest.resources
    device = JobDevice(kind=facts.device, threads=wants.threads, attention=wants.attention)
    limits = Limits(
        load_s=wants.load_s, sample_s=wants.sample_s, cell_s=wants.cell_s, memory_bytes=bytes_of(wants.memory) if wants.memory else None
    )
    jobs: list[PlannedJob] = []
    for (family, environment, model), members in groups.items():
        for shard in range(wants.shards):
            suffix = f".{shard}" if wants.shards > 1 else ""
            jobs.append(
                PlannedJob(
                    task=first + len(jobs),
                    job=f"{unique_slug(family)}.{environment}--{unique_slug(model)}{suffix}",
                    family=family,
                    environment=environment,
                    entry=entries[(family, environment, model)],
                    model=model,
                    cells=tuple(members),
                    shard=shard,
                    shards=wants.shards,
                    device=device,
                    gpus=wants.gpus if facts.device == "cuda" else 0,
                    limits=limits,
                )
            )
    return tuple(jobs)
