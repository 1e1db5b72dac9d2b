"""Means with 95 % intervals, and the difference of two cells.

The interval is the percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). Requests that share a
document are drawn together, whole clusters with replacement, and the mean is that of all their requests (Davison and Hinkley, Bootstrap
Methods and their Application, 1997, section 3.8). With few clusters it is too narrow, as every bootstrap is: ``n`` stands beside it.

Where all clusters have one and the same mean (all answers right, or a single request) resampling says "no doubt at all", which is false.
There the interval is Wilson's (1927) for a share of 0 among k clusters, w = z² / (k + z²): up to a share w of clusters may be different, by
as much as the bounds allow. For 0/1 scores this is Wilson's interval itself; 30 of 30 right gives 0.886 … 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .contracts.result import Interval

LEVEL = 0.95
Z_SQUARED = 1.959963984540054**2
RESAMPLES = 10_000
LEAST_RESAMPLES = 1_000
DRAWS = 20_000_000
"""With more than 2,000 clusters fewer resamples are taken, down to 1,000: about so many draws in all, a fraction of a second."""
CHUNK = 2**21
"""Draws held in memory at a time."""

Floats = NDArray[np.float64]


def interval(
    values: Sequence[float], clusters: Sequence[str] | None = None, *, seed: int = 0, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    """Return the mean of ``values`` with its 95 % interval; mean and interval are null for no values at all.

    ``clusters[i]`` names the document that value i belongs to; without them each value stands alone. The result depends on ``seed`` and on
    the values, not on their order. Raises ValueError for a value outside ``bounds``, or lists of different lengths.
    """
    numbers: Floats = np.asarray(values, dtype=np.float64)
    if numbers.size == 0:
        return Interval(n=0, mean=None, low=None, high=None)
    if not np.all((numbers >= bounds[0]) & (numbers <= bounds[1])):  # NaN compares false
        raise ValueError(f"a value lies outside {bounds[0]:g} … {bounds[1]:g}, or is not a number")
    sums, sizes = _clustered(numbers, clusters)
    mean = math.fsum(values) / numbers.size
    means = sums / sizes
    if float(np.ptp(means)) <= 1e-12:
        share = Z_SQUARED / (len(sums) + Z_SQUARED)
        low, high = mean - share * (mean - bounds[0]), mean + share * (bounds[1] - mean)
    else:
        resampled = _resampled(sums, sizes, np.random.default_rng(seed))
        low, high = (float(edge) for edge in np.quantile(resampled, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)))
    # Rounding may put an edge a hair beyond the mean or the bounds.
    return Interval(n=numbers.size, mean=mean, low=max(bounds[0], min(low, mean)), high=min(bounds[1], max(high, mean)))


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two cells over the requests that both answered."""

    difference: Interval
    """Of a − b, request by request."""
    a: float | None
    b: float | None
    only_a: int
    """Requests that only a answered, and that are left out."""
    only_b: int
    neither: int


def paired(
    a: Mapping[str, float | None], b: Mapping[str, float | None], clusters: Mapping[str, str] | None = None, *, seed: int = 0
) -> Paired:
    """Compare scores (0 … 1) by request id; None, or no entry, is a request that was not answered.

    ``clusters`` names each request's document. Raises KeyError for a compared request that it lacks.
    """
    names = sorted({*a, *b})
    both = [name for name in names if a.get(name) is not None and b.get(name) is not None]
    left = [value for name in both if (value := a[name]) is not None]
    right = [value for name in both if (value := b[name]) is not None]
    only_a = sum(a.get(name) is not None and b.get(name) is None for name in names)
    only_b = sum(b.get(name) is not None and a.get(name) is None for name in names)
    return Paired(
        difference=interval(
            [one - other for one, other in zip(left, right, strict=True)],
            [clusters[name] for name in both] if clusters is not None else None,
            seed=seed,
            bounds=(-1.0, 1.0),
        ),
        a=math.fsum(left) / len(left) if left else None,
        b=math.fsum(right) / len(right) if right else None,
        only_a=only_a,
        only_b=only_b,
        neither=len(names) - len(both) - only_a - only_b,
    )


def _clustered(values: Floats, clusters: Sequence[str] | None) -> tuple[Floats, Floats]:
    """Return sum and number of the values of each cluster, in an order that does not depend on the values' order."""
    if clusters is None:
        return np.sort(values), np.ones(values.size)
    if len(clusters) != values.size:
        raise ValueError(f"{values.size} values with {len(clusters)} clusters")
    places: dict[str, int] = {}
    index = np.fromiter((places.setdefault(cluster, len(places)) for cluster in clusters), dtype=np.int64, count=values.size)
    # Sorted first, so that a cluster's sum is added up in one order; rounded, so that equal sums are found equal.
    order = np.lexsort((values, index))
    sums: Floats = np.zeros(len(places))
    np.add.at(sums, index[order], values[order])
    sums = np.round(sums, 12)
    sizes: Floats = np.bincount(index).astype(np.float64)
    rank = np.lexsort((sums, sizes))
    return sums[rank], sizes[rank]


def _resampled(sums: Floats, sizes: Floats, rng: np.random.Generator) -> Floats:
    """Return the mean of each resample of whole clusters."""
    count = len(sums)
    resamples = min(RESAMPLES, max(LEAST_RESAMPLES, DRAWS // count))
    kinds, often = np.unique(np.stack((sums, sizes), axis=1), axis=0, return_counts=True)
    means = np.empty(resamples)
    # Scores of 0 and 1 leave a handful of different clusters: how often each is drawn is multinomial, the same thing for far less work.
    counted = len(kinds) * 4 <= count
    uneven = bool(np.ptp(sizes))
    rows = max(1, CHUNK // (len(kinds) if counted else count))
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        if counted:
            drawn = rng.multinomial(count, often / count, size=size).astype(np.float64)
            means[start : start + size] = (drawn @ kinds[:, 0]) / (drawn @ kinds[:, 1])
        else:
            chosen = rng.integers(0, count, size=(size, count), dtype=np.int32)
            drawn_sizes = sizes[chosen].sum(axis=1) if uneven else count * sizes[0]
            means[start : start + size] = sums[chosen].sum(axis=1) / drawn_sizes
    return means
