"""Reads a cell's planned batches, one line at a time: a task of many requests is never held whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .ending import BadJob


def each_batch(path: Path) -> Iterator[dict[str, Any]]:
    """Yield every batch in the order to compute them. Raises BadJob naming file and line."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadJob(f"{path.name}: {error.strerror}; the job names it as a cell's batches") from error
    with file:
        for number, line in enumerate(file, 1):
            try:
                batch = json.loads(line)
                members, keep = batch["members"], batch["keep"]
                right = isinstance(batch["id"], int) and len(set(members)) == len(members) and keep and set(keep) <= set(members)
            except (ValueError, KeyError, TypeError) as error:
                raise BadJob(f"{path.name}, line {number}: not a batch (an object with id, members and keep)") from error
            if not right:
                raise BadJob(f"{path.name}, line {number}: members must differ, and keep must name some of them and nothing else")
            yield batch
