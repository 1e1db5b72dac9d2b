"""Finds requests and their token ids by id without holding the files: one pass notes where each line starts."""

from __future__ import annotations

import array
import hashlib
import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .ending import BadJob
from .job import Job
from .protocol import Prompt

_ID = re.compile(rb'\s*\{\s*(?:"schema_version"\s*:\s*1\s*,\s*)?"id"\s*:\s*"([^"\\]+)"')
"""The start of a line whose id comes first, as the contracts write it: spares parsing a long line to learn its id."""


def ids_sha256(ids: Sequence[int]) -> str:
    """Return the SHA-256 of token ids as little-endian uint32. Raises OverflowError or TypeError for what is none."""
    numbers = array.array("I", ids)
    if numbers.itemsize != 4:  # the C standard allows it; no platform that torch runs on does it
        numbers = array.array("L", ids)
    if sys.byteorder == "big":
        numbers.byteswap()
    return hashlib.sha256(numbers.tobytes()).hexdigest()


def canonical_sha256(document: Any) -> str:
    """Return the SHA-256 of an object's canonical JSON: keys sorted, no spaces, UTF-8. The host computes the same."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


class LineIndex:
    """A JSON-lines file seen by id: an offset a line in memory, the lines on disk."""

    def __init__(self, path: Path, wanted: Collection[str]) -> None:
        self._name = path.name
        self._offsets: dict[str, int] = {}
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise BadJob(f"{path.name}: {error.strerror}; the job names it as input") from error
        try:
            self._read(wanted)
        except BaseException:
            self.close()
            raise

    def _read(self, wanted: Collection[str]) -> None:
        offset = 0
        for number, line in enumerate(self._file, 1):
            start, offset = offset, offset + len(line)
            match = _ID.match(line)
            try:
                name = match.group(1).decode("ascii") if match else json.loads(line)["id"]
            except (ValueError, KeyError, TypeError) as error:
                raise BadJob(f"{self._name}, line {number}: not an object with an id") from error
            if name in wanted:
                if name in self._offsets:
                    raise BadJob(f"{self._name}, line {number}: id {name!r} occurs twice")
                self._offsets[name] = start
        missing = sorted(set(wanted) - self._offsets.keys())
        if missing:
            raise BadJob(f"{self._name} lacks {len(missing)} of the job's requests, first {missing[0]!r}; make the file anew")

    def __getitem__(self, name: str) -> dict[str, Any]:
        """Return the line with this id. Raises BadJob when it does not parse."""
        self._file.seek(self._offsets[name])
        try:
            return json.loads(self._file.readline())  # type: ignore[no-any-return]
        except ValueError as error:
            raise BadJob(f"{self._name}: the line of {name!r} is not JSON: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass(frozen=True)
class Given:
    """A prompt and what a response repeats of it."""

    prompt: Prompt
    truncated: int
    request_sha256: str
    given_sha256: str


class Prompts:
    """Builds the prompts of one cell from its requests and ids files. A context manager."""

    def __init__(self, requests: Path, ids: Path, wanted: Collection[str], unseen: bool = False) -> None:
        self._unseen = unseen
        self._names = (requests.name, ids.name)
        self._requests = LineIndex(requests, wanted)
        try:
            self._ids = LineIndex(ids, wanted)
        except BaseException:
            self._requests.close()
            raise

    def get(self, name: str) -> Given:
        """Return one prompt. Raises BadJob when the two files do not speak of the same request."""
        request, line = self._requests[name], self._ids[name]
        given = ids_sha256(line["ids"])
        if given != line["given_sha256"]:
            raise BadJob(f"{self._names[1]}: given_sha256 of {name!r} is not that of its ids; tokenise again")
        if canonical_sha256(request) != line["request_sha256"]:
            raise BadJob(f"{self._names[1]}: {name!r} was tokenised from another request than the one in {self._names[0]}; tokenise again")
        stop = request.get("stop") or {}
        prompt = Prompt(
            id=name, ids=line["ids"], spans=line["spans"], stop_ids=line["stop_ids"], stop_strings=stop.get("strings", ()),
            min_new_tokens=request.get("min_new_tokens", 0), max_new_tokens=request["max_new_tokens"], group=request.get("group"),
            unseen_from=self._question(name, line["spans"]) if self._unseen else None,
        )  # fmt: skip
        return Given(prompt, line["truncated"], line["request_sha256"], given)

    def _question(self, name: str, spans: Sequence[Mapping[str, Any]]) -> int | None:
        """Return where the question starts; None where a request has none, so that there is nothing to hide."""
        starts = [span["start"] for span in spans if span["role"] == "question"]
        if not starts:
            return None
        ends = [span["end"] for span in spans if span["role"] == "context" and span["end"] > span["start"]]
        if starts[0] == 0 or (ends and starts[0] < max(ends)):
            raise BadJob(
                f"{self._names[1]}: {name!r} asks its question before its context ends, so no method can compress without seeing it; "
                "set prompting.question to seen for this task"
            )
        return int(starts[0])

    def __enter__(self) -> Prompts:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close both files."""
        self._requests.close()
        self._ids.close()


def of_cell(job: Job, cell: Mapping[str, Any], wanted: Collection[str]) -> Prompts:
    """Return the prompts of a cell of ``job.json``."""
    unseen = (cell.get("prompting") or {}).get("question") == "unseen"
    return Prompts(job.inside(cell["requests"]), job.inside(cell["ids"]), wanted, unseen)


def each_line(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield every line of a JSON-lines file with its number. Raises BadJob for one that is no object."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadJob(f"{path.name}: {error.strerror}; the job names it as input") from error
    with file:
        for number, line in enumerate(file, 1):
            try:
                document = json.loads(line)
            except ValueError as error:
                raise BadJob(f"{path.name}, line {number}: not JSON: {error}") from error
            if not isinstance(document, dict) or "id" not in document or "segments" not in document:
                raise BadJob(f"{path.name}, line {number}: not a request (an object with id and segments)")
            yield number, document
