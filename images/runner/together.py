"""Answers cells that ask for the same prompts: where their bounds share, each batch is read once and every variant forks from that.

Sharing is never needed: what cannot be shared, or fails while shared, is answered by each cell on its own. A cell that has some answers
already joins only for what it lacks.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from .attempt import Attempt
from .device import seed
from .failures import classify, describe
from .generate import Failure, settle
from .prompts import Given, of_cell
from .protocol import Bound
from .respond import Answers, answer_batch, forget, respond

Member = tuple[Answers, Any]
"""A cell that lacks answers, with its bound."""


def groups(cells: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Put cells that read the same prompts together; groups and members in the order of the job."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        key = json.dumps([cell["requests"], cell["ids"], cell.get("prompting")], sort_keys=True)
        found.setdefault(key, []).append(cell)
    return list(found.values())


def respond_group(
    attempt: Attempt, cells: Sequence[Mapping[str, Any]], bind: Callable[[Mapping[str, Any]], Bound | None]
) -> Iterator[Mapping[str, Any]]:
    """Answer what cells of one group lack; yield each cell when it is complete, so that it can be timed and let go.

    ``bind`` is called where there is something to do; None means that a variant cannot be set up. Raises what ``respond`` does.
    """
    sharing: dict[Hashable, list[Member]] = {}
    with ExitStack() as stack:
        for cell in cells:
            attempt.phase = "respond"
            answers = stack.enter_context(Answers(attempt, cell))
            bound = bind(cell) if answers.wanted else None
            if bound is None:
                yield cell
                continue
            key = getattr(bound, "shares_with", None) if len(cells) > 1 else None
            if key is None:
                respond(attempt, answers, bound)
                del bound
                yield cell
            else:
                sharing.setdefault(key, []).append((answers, bound))
        for members in sharing.values():
            attempt.phase = "respond"
            if len(members) == 1:
                respond(attempt, *members[0])
            else:
                _respond_together(attempt, members)
            yield from (answers.cell for answers, _ in members)


def _respond_together(attempt: Attempt, members: Sequence[Member]) -> None:
    wanted = set().union(*(answers.wanted for answers, _ in members))
    with of_cell(attempt.job, members[0][0].cell, wanted) as prompts:
        for batch, asking in merged([answers.batches() for answers, _ in members]):
            attempt.stop.check()
            given = [prompts.get(name) for name in batch["members"]]
            bounds = [members[number][1] for number, _ in asking]
            shared = _read(attempt, bounds, given) if len(asking) > 1 else None
            for number, own in asking:
                attempt.stop.check()
                answers, bound = members[number]
                responses = answer_batch(attempt, bound, batch["id"], given, shared)
                if shared is not None and any(response["finish"] == "oom" for response in responses):
                    shared = None  # what filled the memory may be the prefill of the others: alone it may fit
                    attempt.device.release()
                    responses = answer_batch(attempt, bound, batch["id"], given)
                answers.take(own, responses)
            del shared
    for _, bound in members:
        forget(bound)


def merged(streams: Sequence[Iterator[dict[str, Any]]]) -> Iterator[tuple[dict[str, Any], list[tuple[int, dict[str, Any]]]]]:
    """Join batches of the same number and members: yield ``(batch, [(stream, its own batch), …])``. One batch a stream in memory.

    Numbers rise within a stream, as the host writes them; where they do not, batches are still all there, each for itself.
    """
    heads = {number: head for number, stream in enumerate(streams) if (head := next(stream, None)) is not None}
    while heads:
        first = min(heads, key=lambda number: (heads[number]["id"], number))
        batch = heads[first]
        same = [number for number in sorted(heads) if (heads[number]["id"], heads[number]["members"]) == (batch["id"], batch["members"])]
        yield batch, [(number, heads[number]) for number in same]
        for number in same:
            following = next(streams[number], None)
            if following is None:
                del heads[number]
            else:
                heads[number] = following


def _read(attempt: Attempt, bounds: Sequence[Any], given: Sequence[Given]) -> Any:
    """Read a batch once for all bounds; None where that fails, with the traceback on stderr: each then reads for itself."""
    seed(attempt.job.seed)
    try:
        return bounds[0].share(bounds, [item.prompt for item in given], lambda phase, tokens: None)
    except (Exception, SystemExit) as error:
        failure = Failure(classify(error), describe(error))
        if failure.kind != "too_long":  # which every bound says again, of the requests it concerns
            traceback.print_exc(file=sys.stderr)
            attempt.events.warn(f"a prefill for {len(bounds)} variants failed, each reads for itself: {failure.detail['message'][:500]}")
    settle(attempt, failure)
    return None
