"""What a job of each kind consists of: load once, then cell after cell."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from . import device as devices
from . import environment as environments
from . import together
from . import tokenizer as tokenizers
from .attempt import Attempt
from .count import count
from .emit import replace
from .ending import Ending, Failed
from .failures import classify, describe
from .protocol import Bound, Family, Model
from .timing import time_cell
from .tokenise import tokenise

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Nothing may be looked up anywhere: a model is what its folder holds."""


def do(attempt: Attempt) -> None:
    """Work on the job. Raises an Ending for anything but the plain end; a stop takes effect between samples."""
    for variable, value in OFFLINE.items():
        os.environ.setdefault(variable, value)
    if attempt.job.kind == "generate":
        _generate(attempt)
        return
    tokenizer = _load_tokenizer(attempt)
    if attempt.job.kind == "tokenise":
        tokenise(attempt, tokenizer)
    else:
        count(attempt, tokenizer)


def _load_tokenizer(attempt: Attempt) -> Any:
    job = attempt.job
    attempt.phase = "load"
    attempt.events.send("loading")
    started = time.monotonic()
    devices.threads(job.device.get("threads"))
    tokenizer = tokenizers.load(job.inside(job.model["path"]), bool(job.model.get("trust_remote_code")), job.model.get("template"))
    _loaded(attempt, started)
    _environment(attempt, {}, [])
    return tokenizer


def _generate(attempt: Attempt) -> None:
    family = _load_family(attempt)
    broken: dict[str, str] = {}
    binders: dict[str, Callable[[], Bound]] = {}

    def cannot(cell: Mapping[str, Any], error: _CannotBind) -> None:
        broken[cell["cell"]] = f"{cell['cell']}: {error}"
        attempt.events.warn(f"{cell['cell']}: the method cannot be set up: {error}")

    def bind(cell: Mapping[str, Any]) -> Bound | None:
        binders[cell["cell"]] = _binder(family, cell)
        try:
            return binders[cell["cell"]]()
        except _CannotBind as error:
            cannot(cell, error)
            return None

    for group in together.groups(attempt.job.data.get("cells", ())):
        for cell in together.respond_group(attempt, group, bind):
            binder = binders.pop(cell["cell"], None) or _binder(family, cell)
            if cell.get("timing") and cell["cell"] not in broken:
                try:
                    time_cell(attempt, cell, binder)
                except _CannotBind as error:
                    cannot(cell, error)
            del binder
            attempt.device.release()
    family.close()
    if broken:
        raise Failed("method_raised", "; ".join(broken.values()))


def _load_family(attempt: Attempt) -> Family:
    """Import the family, load the model, and write where all this happens."""
    job = attempt.job
    attempt.phase = "load"
    attempt.events.send("loading")
    started = time.monotonic()
    devices.threads(job.device.get("threads"))
    cuda = job.device["kind"] == "cuda"
    gpus: list[dict[str, Any]] = []
    try:
        if cuda:
            attempt.device = devices.Cuda()
            gpus = environments.gpus()
            warning = environments.assert_gpus(job.device.get("gpus", ()), gpus)
            if warning:
                attempt.events.warn(warning)
        _environment(attempt, {}, gpus)
        module, _, name = str(job.data["entry"]).partition(":")
        family: Family = getattr(importlib.import_module(module), name)()
        devices.seed(job.seed)
        family.load(_model(attempt, cuda))
        devices.threads(job.device.get("threads"))
        told = family.describe()
        attempt.device.loaded()
    except Ending:
        raise
    except (Exception, SystemExit) as error:
        raise _load_failure(error) from error
    weights = told.get("weights")
    attempt.weights = int(weights) if weights is not None else attempt.device.allocated()
    gc.collect()
    gc.freeze()  # collections between samples then pass over the packages and the model
    _loaded(attempt, started)
    _environment(attempt, told, environments.gpus() if cuda else gpus)
    return family


def _model(attempt: Attempt, cuda: bool) -> Model:
    job = attempt.job
    model = job.model
    return Model(
        name=model["name"], path=str(job.inside(model["path"])), dtype=model["dtype"], window=int(model["window"]), rope=model.get("rope"),
        weights=model.get("weights", "files"), device="cuda:0" if cuda else "cpu", attention=job.device.get("attention", "auto"),
        seed=job.seed, trust_remote_code=bool(model.get("trust_remote_code", False)),
    )  # fmt: skip


def _load_failure(error: BaseException) -> Failed:
    told = describe(error)
    reason = {"oom": "cuda_oom", "gpu_lost": "gpu_lost", "disk_full": "disk_full"}.get(classify(error), "load_failed")
    return Failed(reason, f"the model cannot be loaded: {told['type']}: {told['message']}")


class _CannotBind(Exception):
    """The family refused a variant, or its code raised: this cell has no answers, the others go on."""


def _binder(family: Family, cell: Mapping[str, Any]) -> Callable[[], Bound]:
    """Return what makes the variant of a cell, once, when it is first needed."""
    made: list[Bound] = []

    def bind() -> Bound:
        if not made:
            try:
                made.append(family.bind(cell["method"], cell.get("policy"), cell["params"]))
            except (Exception, SystemExit) as error:
                if isinstance(error, Ending) or classify(error) in ("gpu_lost", "disk_full"):
                    raise
                traceback.print_exc(file=sys.stderr)
                raise _CannotBind(f"{type(error).__name__}: {error}") from error
        return made[0]

    return bind


def _loaded(attempt: Attempt, started: float) -> None:
    attempt.stop.at_once = False
    attempt.stop.check()
    attempt.events.send("loaded", seconds=time.monotonic() - started, weights=attempt.weights)


def _environment(attempt: Attempt, told: Mapping[str, Any], gpus: list[dict[str, Any]]) -> None:
    document = environments.environment(told, gpus, attempt.job.device.get("threads"))
    replace(attempt.out / "environment.json", document)
