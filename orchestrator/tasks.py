"""From an eval to files: requests (what a method may see) and references (host only), both validated line by line.

A request's line is its canonical JSON, so that its hash is at once the hash of the line, of the contract and of what the runner reads.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ..evals import base
from .contracts.request import Reference, Request
from .errors import BadRunFolder, DataError, ManifestError
from .store import canonical, digest, file_digest, read_lines, writing

M = TypeVar("M", bound=BaseModel)


def eval_sha256(evaluation: base.Eval, task: str) -> str:
    """Return the hash of what builds and scores a task: its name and the content of the eval's code files.

    Parameters, seed and data are left out on purpose: they show in the requests' and references' own hashes, and a task that was only
    extended must not look as if its scoring had changed.
    """
    files = evaluation.code()
    top = Path(os.path.commonpath([file.parent for file in files])) if files else Path()
    # File names relative to their own folder: the same wherever the package lies.
    contents = {file.relative_to(top).as_posix(): file_digest(file) for file in files}
    return digest({"eval": evaluation.name, "task": task, "metric": evaluation.metric, "code": contents})


def request_sha256(request: Request) -> str:
    """Return the hash by which a request is known: of its canonical JSON, every field and default included."""
    return digest(request.model_dump(mode="json"))


def write_task(evaluation: base.Eval, task: str, params: Mapping[str, Any], context: base.BuildContext, folder: Path, key: str) -> int:
    """Build a task into ``folder/requests/<key>.jsonl`` and ``folder/references/<key>.jsonl``; return how many requests it has.

    Both files appear whole, the requests last, or not at all. Memory: one request, and the ids. Raises DataMissing as the eval does,
    ManifestError where a parameter turns out wrong only now, DataError for requests that break the contract.
    """
    name = f"{evaluation.name}/{task}"
    seen: set[str] = set()
    with writing(folder / "requests" / f"{key}.jsonl") as requests, writing(folder / "references" / f"{key}.jsonl") as references:
        built = evaluation.build(task, params, context)
        while True:
            try:
                pair = next(built, None)
            except base.ParameterError as error:
                raise ManifestError(f"{name}: {spelled(error.path)}: {error.message}.", f"Allowed: {error.allowed}.") from error
            if pair is None:
                break
            request, reference = pair
            if request.id in seen:
                raise DataError(f"{name}: two requests are called {request.id!r}.", "See the eval's build().")
            if reference.id != request.id:
                raise DataError(f"{name}: the request {request.id!r} comes with the reference {reference.id!r}.", "See the eval's build().")
            seen.add(request.id)
            requests.write(_line(Request, _request(request), name, request.id))
            references.write(_line(Reference, _reference(reference), name, request.id))
        if not seen:
            raise DataError(f"{name}: the eval builds no request from these parameters.", "See its README for what they mean.")
    return len(seen)


def read_requests(path: Path) -> Iterator[Request]:
    """Yield a task's requests. Raises BadRunFolder naming file and line."""
    return _read(path, Request)


def read_references(path: Path) -> Iterator[Reference]:
    """Yield a task's references. Raises BadRunFolder naming file and line."""
    return _read(path, Reference)


def spelled(path: tuple[str | int, ...]) -> str:
    """Write a path into parameters as people do: ``params.depths[2]``."""
    return "params" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def _read(path: Path, kind: type[M]) -> Iterator[M]:
    if not path.is_file():
        raise BadRunFolder(f"{path} does not exist.", "Run the manifest again: it builds what is missing.")
    with path.open("rb") as file:
        # The file appeared in one step, so that a torn end, unlike that of a growing file, means damage.
        if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
            raise BadRunFolder(f"{path}: the last line is torn.", "Remove that file and run again.")
    yield from read_lines(path, kind)


def _line(kind: type[M], fields: dict[str, Any], name: str, identifier: str) -> bytes:
    try:
        return canonical(kind.model_validate(fields).model_dump(mode="json")) + b"\n"
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{name}: {kind.__name__.lower()} {identifier!r}: {where}: {first['msg']}.", "See the eval's build().") from error


def _request(request: base.Request) -> dict[str, Any]:
    """The contract's fields. Not ``dataclasses.asdict``, which copies every text deeply."""
    return {
        "id": request.id,
        "segments": tuple({"role": segment.role, "text": segment.text} for segment in request.segments),
        "min_new_tokens": request.min_new_tokens,
        "max_new_tokens": request.max_new_tokens,
        "stop": {"strings": request.stop.strings, "tokens_of": request.stop.tokens_of},
        "group": {"id": request.group.id, "shared_segments": request.group.shared_segments} if request.group else None,
        "repeats": request.repeats,
    }


def _reference(reference: base.Reference) -> dict[str, Any]:
    return {
        "id": reference.id,
        "answers": reference.answers,
        "classes": reference.classes,
        "length": reference.length,
        "cluster": reference.cluster,
        "axes": dict(reference.axes),
    }
