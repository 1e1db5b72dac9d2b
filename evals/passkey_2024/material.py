"""What the protocol takes from elsewhere, as ``longctx data fetch passkey`` lays it: the needle configuration and the essays."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import DataMissing
from ..data import command, find
from ..sources import PASSKEY

CONFIGS = "passkey/eval_config"
ESSAYS = "passkey/PaulGrahamEssays"
FILES = {
    "7digits": "20480words_10x10x3_7digits.json",
    "64digits": "20480words_10x10x3_64digits.json",
    "quick": "20480words_1x1x1_7digits.json",
}
"""Task to configuration file."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One needle configuration: the grid, what the prompt says, and how keys are made."""

    lengths: tuple[int, ...]
    """Words of background."""
    depths: tuple[int | float, ...]
    repeats: int
    max_new_tokens: int
    instruction: str
    position: str
    template: str
    placeholder: str
    question: str
    style: str
    wrapper: str
    target_length: int


@dataclass(frozen=True, kw_only=True)
class Essay:
    """One background file."""

    name: str
    text: str


def files_of(task: str) -> tuple[str, ...]:
    """Return what a task's requests are made of, as paths below the data folder."""
    return (f"{CONFIGS}/{FILES[task]}", *_essays())


def read_config(data: Path | None, task: str) -> Config:
    """Return a task's configuration. Raises DataMissing if the file is missing or not the pinned one."""
    path = find(data, PASSKEY, f"{CONFIGS}/{FILES[task]}")
    values: dict[str, Any] = json.loads(path.read_bytes())["eval_params"]
    lengths = spread(values["background_len_min"], values["background_len_max"], values["n_background_lens"])
    return Config(
        lengths=tuple(int(length) for length in lengths),
        depths=spread(values["depth_min"], values["depth_max"], values["n_depths"]),
        repeats=values["depth_num_iterations"],
        max_new_tokens=values["max_new_tokens"],
        instruction=values["instruction"],
        position=values["instruction_position"],
        template=values["retrieval_target_template"],
        placeholder=values["retrieval_target_placeholder"],
        question=values["retrieval_question"],
        style=values["retrieval_target_style"],
        wrapper=values["retrieval_target_wrapper"],
        target_length=values["retrieval_target_len"],
    )


def read_essays(data: Path | None, order: str) -> tuple[Essay, ...]:
    """Return all essays, by name (bytewise) or as the file system lists them. Raises DataMissing if one is missing or altered.

    Files that do not belong to the protocol are passed over.
    """
    paths = {Path(path).name: find(data, PASSKEY, path) for path in _essays()}
    names = sorted(paths, key=os.fsencode)
    if order == "file-listing":
        names = [name for name in os.listdir(next(iter(paths.values())).parent) if name in paths]  # noqa: PTH208 - the original's own call
    try:
        return tuple(Essay(name=name, text=paths[name].read_text(encoding="utf-8")) for name in names)
    except OSError as error:
        raise DataMissing(f"{error.filename} cannot be read: {error.strerror}.", command(PASSKEY.name, data)) from error


def _essays() -> tuple[str, ...]:
    return tuple(file.path for file in PASSKEY.pinned if file.path.startswith(f"{ESSAYS}/"))


def spread(low: int, high: int, count: int) -> tuple[int | float, ...]:
    """Return ``count`` values from ``low`` to ``high``, both ends as they are; both ends even for a count of 1."""
    if low == high:
        return (low,)
    steps = count - 1
    return (low, *(step * (high - low) / steps + low for step in range(1, steps)), high)
