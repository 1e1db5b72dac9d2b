"""What there is: methods, models, and the requests of a task."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import models
from .catalog import Catalog, Method
from .contracts.manifest import ModelSpec
from .environments import in_force
from .errors import DataError, UsageError
from .manifest.models import known_models
from .manifest.problems import nearest
from .settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

    from ..evals.base import Eval


def _table(columns: Sequence[str]) -> "Table":
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        made.add_column(name)
    return made


def methods_table(catalog: Catalog) -> "Table":
    """Return all methods, a line each."""
    made = _table(("method", "environments", "family", "summary"))
    for name in catalog.names():
        spec = catalog.get(name).spec
        environments = ", ".join(one.name for one in spec.environments)
        made.add_row(name, environments, spec.environments[0].family or name, " ".join(spec.summary.split()))
    return made


def _here(environment: str) -> str:
    name = in_force(environment)
    return "" if name == environment else f": on this host {name}"


def method_page(method: Method) -> str:
    """Return everything that ``method.yaml`` says, for reading."""
    spec = method.spec
    lines = [f"{spec.name}: {spec.title}", *([f"Paper: {spec.paper}"] if spec.paper else []), "", " ".join(spec.summary.split()), ""]
    lines += ["Environments:", *(f"  {one.name} (family {one.family or spec.name}){_here(one.name)}" for one in spec.environments), ""]
    if spec.parameters:
        lines.append("Parameters:")
        for name, one in spec.parameters.items():
            bounds = [f"≥ {one.minimum:g}"] if one.minimum is not None else []
            bounds += [f"≤ {one.maximum:g}"] if one.maximum is not None else []
            bounds += [f"one of {', '.join(map(str, one.choices))}"] if one.choices else []
            kind = ", ".join([one.type, *bounds, "required" if one.required else f"default {one.default}"])
            lines.append(f"  {name} ({kind}): {' '.join(one.meaning.split())}")
        lines.append("")
    if spec.presets:
        lines += ["Presets:", *(f"  {name}: {dict(values)}" for name, values in spec.presets.items()), ""]
    lines.append(f"Takes: {', '.join(spec.accepts)}; devices: {', '.join(spec.devices)}; batches: {'yes' if spec.batch else 'no'}")
    lines.append(f"Folder: {method.folder}")
    return "\n".join(lines)


def known_model(name: str) -> ModelSpec:
    """Return a model by name. Raises UsageError with the nearest spelling."""
    known = known_models()
    if name not in known:
        near = nearest(name, known)
        meant = f" Did you mean '{near}'?" if near else ""
        raise UsageError(f"No model is called '{name}'.", f"Known: {', '.join(sorted(known))}.{meant}")
    return known[name].spec


def models_table(settings: Settings) -> "Table":
    """Return all named models, and which are here."""
    made = _table(("model", "source", "window", "here"))
    for name, one in known_models().items():
        found = models.find(one.spec, settings)
        window = one.spec.window or (found.job.window if found else None)
        made.add_row(name, one.spec.source, str(window or "–"), "yes" if found else "no")
    return made


def settings_of(pairs: Sequence[str], option: str = "--set") -> Mapping[str, Any]:
    """Return ``name=value`` arguments as data; values are read as YAML. Raises UsageError."""
    import yaml

    found = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{option} {pair!r} is not name=value.", f"Example: {option} repeats=2")
        try:
            found[name.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"{option} {pair!r}: the value cannot be read: {' '.join(str(error).split())}") from error
    return found


def find_eval(task: str) -> tuple["Eval", str]:
    """Return an eval and its task from ``eval/task``. Raises UsageError with the nearest spelling."""
    from ..evals import registry

    everything = tuple(registry.tasks())
    if task not in everything:
        near = nearest(task, everything)
        raise UsageError(f"No task is called '{task}'.", f"Known: {', '.join(everything)}." + (f" Did you mean '{near}'?" if near else ""))
    name, _, rest = task.partition("/")
    return registry.get(name), rest


def write_prompts(task: str, pairs: Sequence[str], seed: int, out: Path, settings: Settings) -> int:
    """Write the requests of a task, one JSON object a line with id, prompt and limits; return how many."""
    from ..evals.base import BuildContext, DataMissing, ParameterError
    from .store import writing

    one, name = find_eval(task)
    try:
        params = one.normalise(name, settings_of(pairs))
        if one.needs_tokenizer(name, params):
            step = "Give lengths in words: --set 'lengths={words: [256]}'"
            raise UsageError(f"{task} with lengths in tokens depends on a model's tokenizer.", step)
        count = 0
        with writing(out) as file:
            for request, _ in one.build(name, params, BuildContext(seed=seed, data=settings.data)):
                row = {
                    "id": request.id, "prompt": "".join(segment.text for segment in request.segments),
                    "max_new_tokens": request.max_new_tokens, "min_new_tokens": request.min_new_tokens,
                    "stop": {"strings": list(request.stop.strings), "tokens_of": list(request.stop.tokens_of)},
                }  # fmt: skip
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                count += 1
    except ParameterError as error:
        where = ".".join(map(str, error.path))
        raise UsageError(f"{task}: {where}: {error.message}", f"Allowed: {error.allowed or ', '.join(error.options)}") from error
    except DataMissing as error:
        raise DataError(str(error), f"Mend it with: {error.command}") from error
    return count
