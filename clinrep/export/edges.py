"""Which quantile edges of one category may leave, and what takes the place of the others: E edges, E + 1 bins."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal

import numpy as np


@dataclass(frozen=True)
class BinPeople:
    """How many people, at least, have values in the bins of one category; i64 (E + 1,) each."""

    within: np.ndarray
    """In this bin."""
    at_most: np.ndarray
    """In this bin or one below it."""
    at_least: np.ndarray
    """In this bin or one above it."""

    def subtract(self, values: np.ndarray) -> BinPeople:
        """Return who is left at least when each of `values` i64 (E + 1,) may be of another person."""
        below, above = np.cumsum(values), np.cumsum(values[::-1])[::-1]
        parts = (self.within - values, self.at_most - below, self.at_least - above)
        return BinPeople(*(np.maximum(part, 0) for part in parts))


def find_exportable(
    edges: np.ndarray, bin_counts: np.ndarray, probabilities: np.ndarray, people: BinPeople, least: int
) -> np.ndarray:
    """Return which edges rest on enough values and people on both sides, bool (E,).

    Above an edge are the values at or above it, below it those under it: `least` values of `least` people each.
    Where fewer are under an edge because many values are equal to it (a scale that starts at 0), those count
    instead: of an edge of n values at probability p, as numpy.quantile defines it, floor((n - 1) p) + 1 values are
    at or under it. Then the bin that begins with the edge must be of `least` people.

    Args:
        edges: f64 (E,), never decreasing; one that is no finite number is never exportable.
        bin_counts: i64 (E + 1,), train values in each bin.
        probabilities: f64 (E,) of the edges.
        people: of the same bins.
        least: fewest values and people.
    """
    total = int(bin_counts.sum())
    is_fine = np.zeros(len(edges), dtype=bool)
    for first in range(len(edges)):
        if not np.isfinite(edges[first]) or (first and edges[first] == edges[first - 1]):
            continue
        run = np.flatnonzero(edges == edges[first])
        last = int(run[-1])
        num_below = int(bin_counts[: first + 1].sum())
        num_at = int(np.floor((total - 1) * probabilities[last])) + 1 - num_below
        is_low = num_below >= least and people.at_most[first] >= least
        is_low |= num_at >= least and people.within[last + 1] >= least
        is_high = total - num_below >= least and people.at_least[last + 1] >= least
        is_fine[run] = is_low and is_high
    return is_fine


def fill_edges(edges: np.ndarray, is_exportable: np.ndarray) -> np.ndarray:
    """Return `edges` with each that may not leave equal to the next lower that may, or the lowest; at least one may.

    Tied edges leave the bins between them empty, so the bins on both sides of a hidden edge become one.
    """
    kept = np.flatnonzero(is_exportable)
    place = np.searchsorted(kept, np.arange(len(edges)), side="right") - 1
    filled: np.ndarray = edges[kept[np.maximum(place, 0)]]
    return filled


def merge_bins(values: np.ndarray, edges: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """Return the counts i64 (E + 1,) of the bins of `filled` edges, from those of the bins of `edges`."""
    lowest = np.concatenate([[-np.inf], edges])
    merged = np.zeros_like(values)
    np.add.at(merged, np.searchsorted(filled, lowest, side="right"), values)
    return merged


def round_down(values: np.ndarray, digits: int | None) -> np.ndarray:
    """Return values f64 rounded towards minus infinity to so many significant digits of how they are written."""
    if digits is None:
        return values
    return np.array([_round_one(value, digits) for value in values.tolist()], dtype=np.float64)


def round_count(counts: np.ndarray, least: int) -> np.ndarray:
    """Return counts i64 rounded to the nearest multiple of `least`, so that no difference of two tells a small one."""
    if least < 2:
        return counts
    return (counts + least // 2) // least * least


def _round_one(value: float, digits: int) -> float:
    number = Decimal(repr(value))
    if not number:
        return 0.0
    return float(number.quantize(Decimal((0, (1,), number.adjusted() - digits + 1)), rounding=ROUND_FLOOR))
