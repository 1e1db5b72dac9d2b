"""Means with intervals."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longctx.orchestrator import stats
from longctx.orchestrator.contracts.result import Interval

SCORES = st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]) | st.floats(0, 1), min_size=1, max_size=30)


def edges(found: Interval) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def wilson(k: int, n: int) -> tuple[float, float]:
    """The interval as textbooks print it."""
    z, p = 1.959963984540054, k / n
    middle, half = (p + z * z / (2 * n)), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def test_nothing_has_no_mean() -> None:
    assert stats.interval([]) == Interval(n=0, mean=None, low=None, high=None)


@pytest.mark.parametrize(("value", "n"), [(1.0, 1), (1.0, 30), (0.0, 1), (0.0, 12)])
def test_all_right_or_all_wrong_is_wilsons_interval(value: float, n: int) -> None:
    found = stats.interval([value] * n)
    assert (found.n, found.mean) == (n, value)
    assert edges(found) == pytest.approx(wilson(int(value) * n, n))


def test_equal_values_between_the_bounds_are_not_certain_either() -> None:
    found = stats.interval([0.3] * 10)
    share = wilson(0, 10)[1]
    assert found.mean == pytest.approx(0.3)
    assert edges(found) == pytest.approx((0.3 - share * 0.3, 0.3 + share * 0.7))


def test_one_document_says_as_little_as_one_request() -> None:
    found = stats.interval([1.0, 0.0, 1.0, 1.0], ["d"] * 4)
    assert found.n == 4
    assert edges(found) == pytest.approx(edges(stats.interval([0.75])))


def test_the_bootstrap_agrees_with_the_normal_theory_of_a_mean() -> None:
    values = np.random.default_rng(5).uniform(size=400)
    low, high = edges(stats.interval(values.tolist()))
    error = values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=error * 0.1)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=error * 0.1)


def test_counting_and_drawing_are_the_same_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [1.0] * 60 + [0.0] * 40
    counted = edges(stats.interval(values))
    # Values a hair apart are all different, so that clusters are drawn one by one.
    drawn = edges(stats.interval([min(1.0, max(0.0, value + (index - 50) * 1e-9)) for index, value in enumerate(values)]))
    assert counted == pytest.approx(drawn, abs=0.011)
    assert counted == pytest.approx((0.6 - 0.096, 0.6 + 0.096), abs=0.015)


def test_requests_of_one_document_do_not_count_as_independent() -> None:
    values = [1.0] * 50 + [0.0] * 50
    alone = edges(stats.interval(values))
    together = edges(stats.interval(values, [f"d{index // 10}" for index in range(100)]))
    assert together[1] - together[0] == pytest.approx(math.sqrt(10) * (alone[1] - alone[0]), rel=0.1)


def test_clusters_of_different_size_weigh_by_their_requests() -> None:
    found = stats.interval([1.0] * 9 + [0.0], ["big"] * 9 + ["small"])
    assert found.mean == pytest.approx(0.9)
    assert edges(found) == pytest.approx((0.0, 1.0))


def test_clusters_of_one_each_are_no_clusters() -> None:
    values = [0.1, 0.5, 0.9, 1.0, 0.3]
    assert stats.interval(values, list("abcde")) == stats.interval(values)


@settings(max_examples=30)
@given(values=SCORES, seed=st.integers(0, 2**32 - 1), data=st.data())
def test_order_does_not_matter_and_the_mean_lies_inside(values: list[float], seed: int, data: st.DataObject) -> None:
    rows = [(value, str(index % 4)) for index, value in enumerate(values)]
    mixed = data.draw(st.permutations(rows))
    found = stats.interval([row[0] for row in rows], [row[1] for row in rows], seed=seed)
    assert found == stats.interval([row[0] for row in mixed], [row[1] for row in mixed], seed=seed)
    low, high = edges(found)
    assert found.mean == pytest.approx(np.mean(values))
    assert 0 <= low <= found.mean <= high <= 1


def test_the_seed_decides() -> None:
    values = np.random.default_rng(1).uniform(size=50).tolist()
    assert stats.interval(values, seed=1) == stats.interval(values, seed=1)
    assert stats.interval(values, seed=1) != stats.interval(values, seed=2)


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.1, float("inf")])
def test_a_value_outside_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        stats.interval([0.5, value])


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 values with 1 clusters"):
        stats.interval([0.5, 0.1], ["a"])


def test_memory_stays_flat() -> None:
    values = np.random.default_rng(1).uniform(size=20_000).tolist()
    tracemalloc.start()
    try:
        stats.interval(values)
        assert tracemalloc.get_traced_memory()[1] < 120 * 2**20
    finally:
        tracemalloc.stop()


def test_paired_uses_what_both_answered() -> None:
    found = stats.paired(
        {"r1": 1.0, "r2": 1.0, "r3": None, "r4": 0.5, "r6": None},
        {"r1": 0.0, "r2": 1.0, "r3": 1.0, "r5": 1.0, "r4": None, "r6": None},
    )
    assert found.difference.n == 2
    assert found.difference.mean == 0.5
    assert (found.a, found.b) == (1.0, 0.5)
    assert (found.only_a, found.only_b, found.neither) == (1, 2, 1)


def test_pairing_removes_what_requests_have_in_common() -> None:
    hard = np.random.default_rng(3).uniform(0.0, 0.8, size=100)
    a = {str(index): float(value) + 0.1 + 0.01 * (index % 3) for index, value in enumerate(hard)}
    b = {str(index): float(value) for index, value in enumerate(hard)}
    low, high = edges(stats.paired(a, b).difference)
    assert 0.1 < low < high < 0.12


def test_no_difference_at_all_is_still_uncertain() -> None:
    same = {str(index): 1.0 for index in range(30)}
    found = stats.paired(same, same).difference
    assert found.mean == 0
    assert edges(found) == pytest.approx((-wilson(0, 30)[1], wilson(0, 30)[1]))


def test_paired_by_document() -> None:
    a = {str(index): float(index < 10) for index in range(20)}
    b = dict.fromkeys(a, 0.0)
    alone = edges(stats.paired(a, b).difference)
    together = edges(stats.paired(a, b, {name: str(int(name) // 5) for name in a}).difference)
    assert together[1] - together[0] > alone[1] - alone[0]


def test_nothing_in_common() -> None:
    found = stats.paired({"a": 1.0}, {"b": 1.0})
    assert (found.difference.n, found.difference.mean, found.a, found.b) == (0, None, None, None)
