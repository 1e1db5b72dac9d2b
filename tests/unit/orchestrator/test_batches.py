"""Batches and timing buckets: functions of the requests alone."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.orchestrator.builders import sized

from longctx.orchestrator import batches
from longctx.orchestrator.batches import Sized

REQUESTS = [sized(name, tokens) for name, tokens in (("long", 90), ("b", 10), ("a", 10), ("mid", 40), ("c", 11))]
TASKS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 500)), unique_by=lambda pair: pair[0], min_size=1).map(
    lambda pairs: [Sized(f"r{number}", "0" * 64, tokens) for number, tokens in pairs]
)


def test_one_at_a_time_keeps_the_order_of_the_task() -> None:
    assert list(batches.planned(REQUESTS, 1)) == [("long",), ("b",), ("a",), ("mid",), ("c",)]


def test_alike_lengths_go_together() -> None:
    assert list(batches.planned(REQUESTS, 2)) == [("a", "b"), ("c", "mid"), ("long",)]


@given(TASKS, st.integers(1, 7), st.sets(st.integers(0, 60)), st.integers(1, 4))
def test_shards_partition_what_is_missing_and_members_never_depend_on_it(
    requests: Sequence[Sized], size: int, done: set[int], shards: int
) -> None:
    answered = {f"r{number}" for number in done}
    planned = list(batches.planned(requests, size))
    assert sorted(name for batch in planned for name in batch) == sorted(request.id for request in requests)
    found = [batch for shard in range(shards) for batch in batches.missing(requests, size, answered, shard, shards)]
    assert all(batch.members == planned[batch.id] for batch in found)
    kept = [name for batch in found for name in batch.keep]
    assert sorted(kept) == sorted({request.id for request in requests} - answered)
    assert all(set(batch.keep) <= set(batch.members) for batch in found)
    assert len({batch.id for batch in found}) == len(found)


@given(TASKS, st.randoms(use_true_random=False))
def test_batches_do_not_depend_on_the_order_of_the_task(requests: list[Sized], random: "st.DataObject") -> None:
    shuffled = list(requests)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert list(batches.planned(requests, 3)) == list(batches.planned(shuffled, 3))


@pytest.mark.parametrize(("tokens", "expected"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (1024, 1024), (1025, 2048)])
def test_a_bucket_is_the_power_of_two_that_holds_the_prompt(tokens: int, expected: int) -> None:
    assert batches.bucket(tokens) == expected


def test_each_bucket_has_its_first_requests_and_a_warm_up() -> None:
    found = batches.timing(REQUESTS, 2)
    assert [(one.tokens, one.warmup, one.requests) for one in found] == [
        (16, "b", ("b", "a")), (64, "mid", ("mid",)), (128, "long", ("long",)),
    ]  # fmt: skip


def test_what_is_timed_is_left_out_but_still_warms_up() -> None:
    found = batches.timing(REQUESTS, 2, {"b", "long"})
    assert [(one.tokens, one.warmup, one.requests) for one in found] == [(16, "b", ("a",)), (64, "mid", ("mid",))]


def test_no_timing_pass_is_wanted() -> None:
    assert batches.timing(REQUESTS, 0) == ()
    assert batches.timing(REQUESTS, 2, {request.id for request in REQUESTS}) == ()
