"""The timing pass: every request alone, nothing measured but time and peak memory, after a warm-up of its length bucket.

A pass of its own because answers are produced under conditions that spoil times: batches, shared prefills, caches walked.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

from .attempt import Attempt
from .device import seed
from .emit import Lines, Progress
from .generate import Failure, Watch, generate, settle
from .prompts import Given, of_cell
from .protocol import Bound


def time_cell(attempt: Attempt, cell: Mapping[str, Any], bind: Callable[[], Bound]) -> None:
    """Write one line a timed request to ``timing.out``; lines that exist stay. A request that fails gets a warning and no line.

    Raises Stopped between requests, Failed and BadJob like ``respond``.
    """
    attempt.phase = "time"
    timing = cell["timing"]
    with Lines(attempt.job.output(timing["out"]), ("bucket", "id")) as lines:
        pairs = [(bucket["tokens"], name) for bucket in timing["buckets"] for name in bucket["requests"]]
        done = sum(pair in lines.found for pair in pairs)
        progress = Progress(attempt.events, cell["cell"], "time", done, len(pairs))
        if done == len(pairs):
            return
        bound = bind()
        wanted = {name for bucket in timing["buckets"] for name in (bucket["warmup"], *bucket["requests"])}
        with of_cell(attempt.job, cell, wanted) as prompts:
            for bucket in timing["buckets"]:
                missing = [name for name in bucket["requests"] if (bucket["tokens"], name) not in lines.found]
                if not missing:
                    continue
                attempt.stop.check()
                _alone(attempt, bound, prompts.get(bucket["warmup"]), timing["new_tokens"])
                for name in missing:
                    attempt.stop.check()
                    given = prompts.get(name)
                    result = _alone(attempt, bound, given, timing["new_tokens"])
                    if isinstance(result, Failure):
                        why = f"{result.detail['type']}: {result.detail['message']}"
                        attempt.events.warn(f"{cell['cell']}: {name} could not be timed at up to {bucket['tokens']} tokens: {why}")
                        progress.add(1, len(given.prompt.ids))
                        continue
                    lines.write({"schema_version": 1, "id": name, "bucket": bucket["tokens"], **result})
                    progress.add(1, result["given"] + result["generated"])


def _alone(attempt: Attempt, bound: Bound, given: Given, new_tokens: int) -> dict[str, Any] | Failure:
    """Decode one request by itself and return the measured part of a timing line, or why there is none."""
    seed(attempt.job.seed)
    gc.collect()  # not release(): handing cached blocks back would put their allocation into the time
    attempt.device.watch()
    watch = Watch(attempt, [given.prompt.id], measuring=False, tokens=len(given.prompt.ids))
    failure = generate(bound, [given.prompt], watch, new_tokens)
    if failure is not None:
        settle(attempt, failure)
        return failure
    answer = watch.answers[given.prompt.id]
    return {
        "given": len(given.prompt.ids),
        "generated": answer["generated"],
        "time": answer["time"],
        "memory": {"weights": attempt.weights, "peak": attempt.device.peak()},
    }
