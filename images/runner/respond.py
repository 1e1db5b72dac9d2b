"""Answers one cell: batch after batch, one line an answer, whatever is missing and nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .attempt import Attempt
from .batches import each_batch
from .device import seed
from .emit import Lines, Progress
from .generate import Failure, Watch, generate, settle
from .prompts import Given, of_cell
from .protocol import Bound


def respond(attempt: Attempt, cell: Mapping[str, Any], bind: Callable[[], Bound]) -> None:
    """Answer what a cell still lacks. ``bind`` is called when there is something to do.

    Raises Stopped between batches, Failed when the disk is full or the GPU lost, BadJob when the inputs do not fit together.
    """
    attempt.phase = "respond"
    path = attempt.job.inside(cell["batches"])
    with Lines(attempt.job.output(cell["responses"]), ("id",)) as lines:
        total = answered = 0
        wanted: set[str] = set()
        for batch in each_batch(path):
            total += len(batch["keep"])
            answered += sum((name,) in lines.found for name in batch["keep"])
            if _missing(batch, lines):
                wanted.update(batch["members"])
        progress = Progress(attempt.events, cell["cell"], "respond", answered, total)
        if not wanted:
            return
        bound = bind()
        with of_cell(attempt.job, cell, wanted) as prompts:
            for batch in each_batch(path):
                missing = _missing(batch, lines)
                if not missing:
                    continue
                attempt.stop.check()
                responses = _batch(attempt, bound, batch["id"], [prompts.get(name) for name in batch["members"]])
                kept = [response for response in responses if response["id"] in missing]
                for response in kept:
                    lines.write(response)
                    attempt.answered += 1
                progress.add(len(kept), sum(response["tokens"]["given"] + response["tokens"]["generated"] for response in kept))


def _missing(batch: Mapping[str, Any], lines: Lines) -> list[str]:
    """Return what of a batch is to be kept and was not answered by an earlier process of this attempt."""
    return [name for name in batch["keep"] if (name,) not in lines.found]


def _batch(attempt: Attempt, bound: Bound, number: int, given: Sequence[Given]) -> list[dict[str, Any]]:
    """Decode one planned batch and return its responses, in order."""
    device = attempt.device
    if device.peak_repeats:
        device.watch()
    failures: dict[str, Failure] = {}
    remaining = [item.prompt for item in given]
    answers: dict[str, dict[str, Any]] = {}
    kv: dict[str, dict[str, Any]] = {}
    oom: dict[str, Any] = {}
    while remaining:
        seed(attempt.job.seed)
        watch = Watch(attempt, [prompt.id for prompt in remaining], measuring=True, tokens=max(len(prompt.ids) for prompt in remaining))
        failure = generate(bound, remaining, watch, None)
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
    memory = {"weights": attempt.weights, "peak": device.peak() if device.peak_repeats else None}
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
