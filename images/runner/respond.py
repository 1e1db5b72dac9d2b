"""Answers one cell: batch after batch, one line an answer, whatever is missing and nothing twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .attempt import Attempt
from .batches import each_batch
from .device import seed
from .emit import Lines, Progress
from .generate import Failure, Watch, generate, settle
from .prompts import Given, of_cell
from .protocol import Bound


class Answers:
    """What one cell still lacks, and the file that its answers go to. A context manager."""

    def __init__(self, attempt: Attempt, cell: Mapping[str, Any]) -> None:
        self.cell = cell
        self._attempt = attempt
        self._path = attempt.job.inside(cell["batches"])
        self._lines = Lines(attempt.job.output(cell["responses"]), ("id",))
        self.wanted: set[str] = set()
        total = answered = 0
        try:
            for batch in each_batch(self._path):
                total += len(batch["keep"])
                answered += sum((name,) in self._lines.found for name in batch["keep"])
                if _missing(batch, self._lines):
                    self.wanted.update(batch["members"])
            self._progress = Progress(attempt.events, cell["cell"], "respond", answered, total)
        except BaseException:
            self._lines.close()
            raise

    def batches(self) -> Iterator[dict[str, Any]]:
        """Yield the batches that lack an answer."""
        return (batch for batch in each_batch(self._path) if _missing(batch, self._lines))

    def take(self, batch: Mapping[str, Any], responses: Sequence[Mapping[str, Any]]) -> None:
        """Write those responses of a batch that are missing."""
        missing = _missing(batch, self._lines)
        kept = [response for response in responses if response["id"] in missing]
        for response in kept:
            self._lines.write(response)
            self._attempt.answered += 1
        self._progress.add(len(kept), sum(response["tokens"]["given"] + response["tokens"]["generated"] for response in kept))

    def __enter__(self) -> Answers:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._lines.close()


def respond(attempt: Attempt, answers: Answers, bound: Bound) -> None:
    """Answer what a cell still lacks.

    Raises Stopped between batches, Failed when the disk is full or the GPU lost, BadJob when the inputs do not fit together.
    """
    with of_cell(attempt.job, answers.cell, answers.wanted) as prompts:
        for batch in answers.batches():
            attempt.stop.check()
            answers.take(batch, answer_batch(attempt, bound, batch["id"], [prompts.get(name) for name in batch["members"]]))
    forget(bound)


def forget(bound: Bound) -> None:
    """Let a bound drop what it keeps from batch to batch, if it is one that does."""
    drop = getattr(bound, "forget", None)
    if drop is not None:
        drop()


def _missing(batch: Mapping[str, Any], lines: Lines) -> list[str]:
    """Return what of a batch is to be kept and was not answered by an earlier process of this attempt."""
    return [name for name in batch["keep"] if (name,) not in lines.found]


def answer_batch(attempt: Attempt, bound: Bound, number: int, given: Sequence[Given], shared: Any = None) -> list[dict[str, Any]]:
    """Decode one planned batch and return its responses, in order. With a prefill that is shared no peak is anybody's own: it is null."""
    device = attempt.device
    grouped = any(item.prompt.group is not None for item in given)
    if not grouped:
        forget(bound)
    peaks = device.peak_repeats and shared is None and not (grouped and getattr(bound, "shares_with", None) is not None)
    if peaks:
        device.watch()
    failures: dict[str, Failure] = {}
    remaining = [item.prompt for item in given]
    answers: dict[str, dict[str, Any]] = {}
    kv: dict[str, dict[str, Any]] = {}
    oom: dict[str, Any] = {}
    while remaining:
        seed(attempt.job.seed)
        watch = Watch(attempt, [prompt.id for prompt in remaining], measuring=True, tokens=max(len(prompt.ids) for prompt in remaining))
        failure = generate(bound, remaining, watch, None, shared if len(remaining) == len(given) else None)
        answers.update(watch.answers)
        kv.update(watch.kv)
        if failure is None:
            break
        settle(attempt, failure)
        oom = {"phase": watch.phase, "tokens": max(0, watch.tokens)}
        concerned = [prompt for prompt in remaining if prompt.id not in answers and (not failure.ids or prompt.id in failure.ids)]
        failures.update({prompt.id: failure for prompt in concerned})
        # Those that fit are decoded without those that do not; after any other failure the whole batch is done with.
        some = failure.kind == "too_long" and failure.ids and concerned
        remaining = [prompt for prompt in remaining if prompt.id not in answers and prompt.id not in failures] if some else []
    memory = {"weights": attempt.weights, "peak": device.peak() if peaks else None}
    responses = []
    for item in given:
        common = {"batch": {"id": number, "size": len(given)}, "memory": memory, "kv": kv.get(item.prompt.id)}
        if item.prompt.id in answers:
            responses.append({**_answered(item, answers[item.prompt.id]), **common})
        else:
            failure = failures.get(item.prompt.id) or Failure("error", {"type": "NoAnswer", "message": "the method gave no answer"})
            responses.append({**_failed(item, failure, oom), **common})
    return responses


def _answered(given: Given, answer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_head(given, answer["text"], answer["finish"]),
        "tokens": {
            "given": len(given.prompt.ids), "truncated": given.truncated,
            "compressed": answer["compressed"], "generated": answer["generated"],
        },
        "fed_sha256": answer["fed_sha256"] or given.given_sha256,
        "prefill": answer["prefill"],
        "time": answer["time"],
    }  # fmt: skip


def _failed(given: Given, failure: Failure, oom: Mapping[str, Any]) -> dict[str, Any]:
    """Return the response of a request without an answer; ``fed_sha256`` repeats ``given_sha256``, as nothing else is known."""
    return {
        **_head(given, "", failure.kind),
        "oom": dict(oom) if failure.kind == "oom" else None,
        "error": failure.detail if failure.kind == "error" else None,
        "tokens": {"given": len(given.prompt.ids), "truncated": given.truncated, "compressed": None, "generated": 0},
        "fed_sha256": given.given_sha256,
        "prefill": "own",
        "time": {"prefill_s": None, "decode_s": None},
    }


def _head(given: Given, text: str, finish: str) -> dict[str, Any]:
    return {
        "schema_version": 1, "id": given.prompt.id, "request_sha256": given.request_sha256, "text": text, "finish": finish,
        "given_sha256": given.given_sha256,
    }  # fmt: skip
