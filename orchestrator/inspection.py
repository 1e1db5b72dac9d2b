"""What the disk holds before a plan: this run's cells, and those of sibling runs, by the hash of their configuration."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import batches, cells, devices, taskstore
from .contracts.cell import CellState
from .contracts.job import DeviceKind
from .contracts.manifest import TimingOptions
from .errors import BadRunFolder
from .jobs import ids_name, order, timed
from .plan import Identity, Inspection, Lengths, OnDisk
from .store import RunFolder, file_digest, plain, read_document


def hash_of(folder: Path) -> str:
    """Return the configuration's short hash that ends a cell folder's name."""
    return folder.name.rpartition("--")[2]


def inspect(run: RunFolder, identities: Sequence[Identity], device: DeviceKind, timing: TimingOptions) -> Inspection:
    """Look at every cell folder that one of the identities names, here and in sibling runs. Reads, never writes."""
    wanted = {identity.config_sha256[:10]: identity for identity in identities}
    found: dict[str, list[OnDisk]] = {}
    pairs = _Wanted(run)
    hardware = devices.hardware(device)
    siblings = sorted(run.path.parent.iterdir()) if run.path.parent.is_dir() else []
    for place in siblings:
        for folder in _cell_folders(place):
            identity = wanted.get(hash_of(folder))
            if identity is None:
                continue
            try:
                seen = _look(folder, place, run, identity, pairs, hardware, timing)
            except BadRunFolder:
                if place == run.path:
                    raise
                continue  # a damaged sibling is a matter of its own
            if seen is not None:
                found.setdefault(identity.config_sha256, []).append(seen)
    return Inspection(cells=found, lengths=_lengths(run, identities))


def _cell_folders(place: Path) -> Iterable[Path]:
    folder = place / "cells"
    return [child for child in folder.iterdir() if (child / "cell.json").exists()] if folder.is_dir() else []


class _Wanted:
    """What tasks want now: (id, request hash) pairs, and with lengths once they are tokenised; each read once."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._pairs: dict[Path, dict[str, str]] = {}
        self._sized: dict[Path, Sequence[batches.Sized] | None] = {}

    def pairs(self, identity: Identity) -> dict[str, str] | None:
        """Return request hash by id; None until the task is built."""
        folder = identity.task.folder
        if folder is None:
            return None
        if folder not in self._pairs:
            self._pairs[folder] = dict(taskstore.pairs(folder))
        return self._pairs[folder]

    def sized(self, identity: Identity) -> Sequence[batches.Sized] | None:
        """Return the task's requests with their lengths; None unless they are tokenised as they stand now."""
        path = self._run.ids(_ids(identity))
        if path not in self._sized:
            found = order(path) if path.exists() else None
            current = found is not None and cells.wanted(found) == identity.task.covers
            self._sized[path] = found if current else None
        return self._sized[path]


def _ids(identity: Identity) -> str:
    return ids_name(identity.cell.model.name, identity.task.planned.key, plain(identity.cell.eval.prompting))


def _look(
    folder: Path, place: Path, run: RunFolder, identity: Identity, pairs: _Wanted, hardware: str, timing: TimingOptions
) -> OnDisk | None:
    state = read_document(folder / "cell.json", CellState)
    if state.config_sha256 != identity.config_sha256:
        return None
    total = identity.task.planned.requests
    requests = pairs.sized(identity)
    errors = state.errors
    if identity.task.covers is not None and state.covers_sha256 == identity.task.covers and total is not None:
        answered = total
    else:
        have = cells.answered(folder / "responses.jsonl")
        known = pairs.pairs(identity)
        current = set(have.pairs) if known is None else {name for name, sha256 in known.items() if have.pairs.get(name) == sha256}
        answered = len(current) if total is None else min(len(current), total)
        errors = len(current & have.errors)
    same_hardware = all(cells.same_hardware(source.environment, hardware) for source in state.sources if source.timings)
    done = timed(folder / "timing.jsonl", timing.new_tokens) if same_hardware else set()
    complete = not timing.per_bucket or (requests is not None and not batches.timing(requests, timing.per_bucket, done))
    # A cell is this run's own under its present name only: when its model was renamed, its folder is taken over like another run's.
    own = place == run.path and folder.name == identity.name
    return OnDisk(
        run=place.name, own=own, codes=state.codes, answered=answered, timed=complete, errors=errors, scored=_scored(folder, identity)
    )


def _scored(folder: Path, identity: Identity) -> bool:
    path, responses = folder / "result.json", folder / "responses.jsonl"
    if not path.exists() or not responses.exists():
        return False
    try:
        result: Mapping[str, Any] = json.loads(path.read_bytes())
    except ValueError:
        return False  # it is made anew
    return (
        result.get("eval_sha256") == identity.task.planned.eval_sha256
        and result.get("references_sha256") == identity.task.references_sha256
        and result.get("responses_sha256") == file_digest(responses)
    )


def _lengths(run: RunFolder, identities: Sequence[Identity]) -> Mapping[str, Lengths]:
    found: dict[str, Lengths] = {}
    for name in {_ids(identity) for identity in identities}:
        path = run.ids(name)
        if path.exists():
            longest = total = 0
            for one in order(path):
                longest, total = max(longest, one.tokens), total + one.tokens
            found[name] = Lengths(longest, total)
    return found
