"""Which requests are decoded together, and which are timed: functions of the requests and their lengths, never of what is done already."""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from .contracts.job import Batch, TimingBucket


class Sized(NamedTuple):
    """A request known by its id, its content's hash and its prompt's tokens."""

    id: str
    request_sha256: str
    tokens: int


def planned(requests: Sequence[Sized], size: int) -> Iterator[tuple[str, ...]]:
    """Yield batches of at most ``size`` ids. Alike lengths go together, so that padding is small; a batch of one keeps the task's order."""
    ordered = requests if size == 1 else sorted(requests, key=lambda request: (request.tokens, request.id))
    for start in range(0, len(ordered), size):
        yield tuple(request.id for request in ordered[start : start + size])


def missing(requests: Sequence[Sized], size: int, answered: Collection[str], shard: int = 0, shards: int = 1) -> Iterator[Batch]:
    """Yield the batches of one shard that still lack an answer; members never change, ``keep`` names what is missing."""
    for number, members in enumerate(planned(requests, size)):
        if number % shards == shard and (keep := tuple(member for member in members if member not in answered)):
            yield Batch(id=number, members=members, keep=keep)


def bucket(tokens: int) -> int:
    """Return the length bucket of a prompt: the power of two that is not below its tokens."""
    return 1 << max(tokens - 1, 0).bit_length()


def timing(requests: Sequence[Sized], per_bucket: int, timed: Collection[str] = ()) -> tuple[TimingBucket, ...]:
    """Return what the timing pass still has to do: the first ``per_bucket`` requests of each length bucket, less those timed already."""
    buckets: dict[int, list[str]] = {}
    for request in requests:
        chosen = buckets.setdefault(bucket(request.tokens), [])
        if len(chosen) < per_bucket:
            chosen.append(request.id)
    return tuple(
        TimingBucket(tokens=tokens, warmup=chosen[0], requests=left)
        for tokens, chosen in sorted(buckets.items())
        if (left := tuple(one for one in chosen if one not in timed))
    )
