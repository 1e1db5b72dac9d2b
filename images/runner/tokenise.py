"""Makes the token ids of tasks for one model: one file a (task, prompting), complete or absent."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .attempt import Attempt
from .emit import Progress, encode, sync_folder
from .ending import Ending, Failed
from .prompting import Encoder
from .prompts import canonical_sha256, each_line, ids_sha256
from .tokenizer import stop_ids


def tokenise(attempt: Attempt, tokenizer: Any) -> None:
    """Write every ids file of the job that is not there yet. Memory holds one request at a time.

    Raises Stopped between requests, BadJob for inputs that cannot be used, Failed when the tokenizer or a template raises.
    """
    attempt.phase = "tokenise"
    folder = attempt.job.inside(attempt.job.model["path"])
    for item in attempt.job.data.get("tokenise", ()):
        target = attempt.job.output(item["ids"])
        if not target.exists():
            _one(attempt, tokenizer, folder, item, target)


def _one(attempt: Attempt, tokenizer: Any, folder: Path, item: Mapping[str, Any], target: Path) -> None:
    source = attempt.job.inside(item["requests"])
    encoder = Encoder(tokenizer, item["prompting"])
    eos = item["prompting"].get("eos", "model")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(target.name + ".tmp")
    progress = Progress(attempt.events, item["task"], "tokenise", 0, sum(1 for _ in each_line(source)))
    try:
        with draft.open("wb") as file:
            for number, request in each_line(source):
                attempt.stop.check()
                try:
                    line = _line(encoder, request, stop_ids(folder, tokenizer, eos, (request.get("stop") or {}).get("tokens_of", ())))
                except Ending:
                    raise
                except Exception as error:
                    message = f"{source.name}, line {number}: the tokenizer raised {type(error).__name__}: {error}"
                    raise Failed("method_raised", message) from error
                file.write(encode(line))
                attempt.answered += 1
                progress.add(1, len(line["ids"]))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
        sync_folder(target.parent)
    finally:
        draft.unlink(missing_ok=True)


def _line(encoder: Encoder, request: Mapping[str, Any], stops: list[int]) -> dict[str, Any]:
    encoded = encoder.encode(request["segments"])
    return {
        "schema_version": 1,
        "id": request["id"],
        "request_sha256": canonical_sha256(request),
        "ids": encoded.ids,
        "spans": encoded.spans,
        "truncated": encoded.truncated,
        "given_sha256": ids_sha256(encoded.ids),
        "stop_ids": stops,
    }
