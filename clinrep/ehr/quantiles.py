"""Quantile edges of numeric values, learned on train, and the bins they make: N values, G groups, E edges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

# Words of the bins: Q0 is below the first edge, Q9 (of ten) at or above the last.
BIN_WORD = "Q{}"
# What one value costs while its group is sorted: group, value, their copies.
BYTES_PER_VALUE = 48
# Values that a group too large to be sorted is divided by.
SAMPLE_SIZE = 1 << 14

Chunks = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]
"""Gives chunks of (group i64, -1 for what takes no part; value f64), the same at every call."""


@dataclass(frozen=True)
class GroupQuantiles:
    """What was learned of G groups of values."""

    count: np.ndarray
    """i64 (G,): values that took part."""
    edges: np.ndarray
    """f64 (G, E): never decreasing, NaN for a group without values."""
    median: np.ndarray
    """f64 (G,): NaN for a group without values."""
    bin_count: np.ndarray
    """i64 (G, E + 1): values in each bin, 0 for a group without edges."""


def get_bin_words(num_bins: int) -> list[str]:
    """Return Q0, Q1, ... in order."""
    return [BIN_WORD.format(number) for number in range(num_bins)]


def get_probabilities(num_bins: int) -> np.ndarray:
    """Return those of the edges, as numpy.arange gives them and not as literals (spec/manuscript.md, section 0)."""
    return np.arange(1 / num_bins, 1, 1 / num_bins)[: num_bins - 1]


def learn_quantiles(
    chunks: Chunks, num_groups: int, num_bins: int, memory_bytes: int, edges: np.ndarray | None = None
) -> GroupQuantiles:
    """Return the quantiles of every group, equal to numpy's linear ones to the last bit.

    Values must be numbers (no NaN); infinities take part. Groups are sorted together as far as memory
    goes, each batch of groups in one pass over the chunks, so the result does not depend on the budget.
    With `edges` f64 (G, E), NaN where a group has none, nothing is learned but the median, and values
    are counted in the given bins.
    """
    count = np.zeros(num_groups, dtype=np.int64)
    for group, _ in chunks():
        count += np.bincount(group[group >= 0], minlength=num_groups)
    probabilities = np.append(get_probabilities(num_bins), 0.5)
    found = np.full((num_groups, len(probabilities)), np.nan)
    bin_count = np.zeros((num_groups, num_bins), dtype=np.int64)
    max_values = max(1, memory_bytes // BYTES_PER_VALUE)
    for first, last in _batch_groups(count, max_values):
        if count[first] > max_values:  # a group of its own, too large to be sorted
            found[first] = _select_from_large(chunks, first, int(count[first]), probabilities)
            used = found[first, :-1] if edges is None else edges[first]
            bin_count[first] = sum(_count_in(value, used) for value in _iterate_group(chunks, first))
            continue
        groups, ordered = _sort_some(chunks, first, last)
        found[groups] = interpolate(ordered, count[groups], probabilities)
        used = found[groups, :-1] if edges is None else edges[groups]
        bin_count[groups] = _count_bins(ordered, count[groups], used)
    return GroupQuantiles(count, found[:, :-1] if edges is None else edges, found[:, -1], bin_count)


def _batch_groups(count: np.ndarray, max_values: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of groups that together have at most `max_values` values (or are a single group)."""
    first = 0
    while first < len(count):
        total = np.cumsum(count[first:])
        size = max(1, int(np.searchsorted(total, max_values, side="right")))
        if total[min(size, len(total)) - 1]:
            yield first, first + size
        first += size


def _sort_some(chunks: Chunks, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Return those of the groups first..last that have values, and their sorted values, one after the other."""
    groups, values = [], []
    for group, value in chunks():
        rows = np.flatnonzero((group >= first) & (group < last))
        groups.append(group[rows].astype(np.uint32))
        values.append(value[rows])
    frame = pl.DataFrame({"group": np.concatenate(groups), "value": np.concatenate(values)})
    del groups, values
    lists = frame.group_by("group").agg(pl.col("value").sort()).sort("group")
    ordered = lists["value"].explode(empty_as_null=False, keep_nulls=False).to_numpy()
    return lists["group"].to_numpy().astype(np.int64), ordered


def _select_from_large(chunks: Chunks, group: int, count: int, probabilities: np.ndarray) -> np.ndarray:
    """Return the quantiles of one group without sorting it: only the values next to them are ever collected.

    A sample gives pivots, a pass counts the values at and between them, and another collects those
    between pivots where a quantile lies; values at a pivot, however many are tied, are only counted.
    """
    below, above, fraction = _find_ranks(np.array(count), probabilities)
    ranks = np.unique(np.concatenate([below, above]))
    share, generator = min(1.0, SAMPLE_SIZE / count), np.random.default_rng(0)  # charting has rhythms: no fixed steps
    sample = [value[generator.random(len(value)) < share] for value in _iterate_group(chunks, group)]
    pivots = np.unique(np.concatenate(sample))
    counts = np.zeros(2 * len(pivots) + 1, dtype=np.int64)
    for value in _iterate_group(chunks, group):
        counts += np.bincount(_find_buckets(value, pivots), minlength=len(counts))
    ends = np.cumsum(counts)
    buckets = np.searchsorted(ends, ranks, side="right")
    asked = np.unique(buckets[buckets % 2 == 0])
    between = np.empty(0)
    if len(asked):
        kept = [value[np.isin(_find_buckets(value, pivots), asked)] for value in _iterate_group(chunks, group)]
        between = np.sort(np.concatenate(kept))
    starts = dict(zip(asked.tolist(), (np.cumsum(counts[asked]) - counts[asked]).tolist(), strict=True))
    statistics = np.array(
        [
            pivots[bucket // 2] if bucket % 2 else between[starts[bucket] + rank - (ends[bucket] - counts[bucket])]
            for rank, bucket in zip(ranks.tolist(), buckets.tolist(), strict=True)
        ]
    )
    low, high = statistics[np.searchsorted(ranks, below)], statistics[np.searchsorted(ranks, above)]
    return _blend(low, high, fraction)


def _find_buckets(value: np.ndarray, pivots: np.ndarray) -> np.ndarray:
    """Return 2 i for values between pivots i - 1 and i, and 2 i + 1 for those at pivot i."""
    place = np.searchsorted(pivots, value)
    is_at = pivots[np.minimum(place, len(pivots) - 1)] == value
    buckets: np.ndarray = 2 * place + is_at
    return buckets


def _iterate_group(chunks: Chunks, group: int) -> Iterator[np.ndarray]:
    """Yield the values of one group, chunk by chunk."""
    for group_of, value in chunks():
        yield value[group_of == group]


def _count_in(value: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return how many values are in each bin of one group's edges, i64 (E + 1,); none where it has no edges."""
    if np.isnan(edges).all():
        return np.zeros(len(edges) + 1, dtype=np.int64)
    return np.bincount(find_bins(value, np.zeros(len(value), dtype=np.int64), edges[None]), minlength=len(edges) + 1)


def _count_bins(ordered: np.ndarray, count: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return how many of each group's sorted values are in each bin of its edges, i64 (G, E + 1)."""
    low = np.broadcast_to((np.cumsum(count) - count)[:, None], edges.shape).copy()
    high = low + count[:, None]
    start = low.copy()
    while (low < high).any():  # binary search for every edge at once
        middle = (low + high) // 2
        is_below = ordered[np.minimum(middle, len(ordered) - 1)] < edges
        low, high = np.where(is_below & (low < high), middle + 1, low), np.where(is_below, high, middle)
    position = np.concatenate([np.zeros_like(count)[:, None], low - start, count[:, None]], axis=1)
    bins = np.diff(position, axis=1)
    for i in np.flatnonzero(np.isnan(edges).any(axis=1)):  # beside infinite values: not sorted, so not to be searched
        bins[i] = _count_in(ordered[start[i, 0] : start[i, 0] + count[i]], edges[i])
    return bins


def interpolate(ordered: np.ndarray, count: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return f64 (G, P): the linear quantiles of groups whose sorted values stand one after the other.

    The formula is numpy's (method "linear" of numpy.quantile, Hyndman and Fan 1996, type 7) with its
    two-sided interpolation, because edges must not depend on the library.
    """
    start = (np.cumsum(count) - count)[:, None]
    below, above, fraction = _find_ranks(count[:, None], probabilities)
    return _blend(ordered[start + below], ordered[start + above], fraction)


def _find_ranks(count: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which of `count` sorted values a quantile lies between, and how far from the first to the second."""
    position = (count - 1) * probabilities
    below = np.floor(position).astype(np.int64)
    return below, np.minimum(below + 1, count - 1), position - below


def _blend(low: np.ndarray, high: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # between infinities
        difference = high - low
        return np.where(fraction >= 0.5, high - difference * (1 - fraction), low + difference * fraction)


def find_bins(value: np.ndarray, group: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return i32 (N,): how many edges of its group, a row of `edges` f64 (G, E), are <= each value.

    So bins are left-closed as numpy.digitize's: those between tied edges stay empty, and a constant
    category has all its values in the last. NaN is in bin 0.
    """
    width = 1 << int(edges.shape[1]).bit_length()
    padded = np.full((len(edges), width), np.nan)  # NaN is never <= a value
    padded[:, : edges.shape[1]] = edges
    flat = padded.ravel()
    base = group.astype(np.int64) * width - 1
    bins = np.zeros(len(value), dtype=np.int64)
    step = width // 2
    while step:  # binary search in all rows at once: the last position whose edge is <= value
        bins += step * (flat[base + bins + step] <= value)
        step //= 2
    return bins.astype(np.int32)
