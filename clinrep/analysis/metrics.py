"""Weighted performance metrics, many weightings at once.

Shapes: R weightings (bootstrap replicates), N stays, G groups of stays with one and the same probability.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """Stays in order of falling probability, with tied ones in groups."""

    order: NDArray[np.intp]
    """(N,) positions of the stays, highest probability first."""
    starts: NDArray[np.intp]
    """(G,) where each group of ties begins in that order."""
    probabilities: Floats
    """(G,) probability of each group, falling."""
    labels: NDArray[np.bool_]
    """(N,) labels in that order."""

    def tally(self, weights: NDArray[np.generic]) -> Tally:
        """Sum the weights (R, N), columns already in `order`, by label and group."""
        positives = np.where(self.labels, weights, 0).astype(np.float64)
        negatives = np.where(self.labels, 0, weights).astype(np.float64)
        if self.starts.size < self.order.size:
            positives = np.add.reduceat(positives, self.starts, axis=1)
            negatives = np.add.reduceat(negatives, self.starts, axis=1)
        return Tally(self.probabilities, positives, negatives)


@dataclass(frozen=True)
class Tally:
    """Weight of stays with and without the event at each distinct probability, which falls along G."""

    probabilities: Floats
    """(G,)"""
    positives: Floats
    """(R, G)"""
    negatives: Floats
    """(R, G)"""

    @cached_property
    def true_positives(self) -> Floats:
        """(R, G) weight with the event at or above each probability."""
        return np.cumsum(self.positives, axis=1)

    @cached_property
    def false_positives(self) -> Floats:
        """(R, G) weight without the event at or above each probability."""
        return np.cumsum(self.negatives, axis=1)


def rank(labels: NDArray[np.bool_], probabilities: Floats) -> Ranking:
    """Return the ranking of N stays by their probabilities."""
    order = np.argsort(-probabilities, kind="stable")
    ordered = probabilities[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return Ranking(order, starts, ordered[starts], labels[order])


def compute_auroc(tally: Tally) -> Floats:
    """Return (R,) the chance that a stay with the event outranks one without, ties counting half.

    NaN where a weighting has no stay with the event or none without. The Mann-Whitney form of
    Hanley and McNeil, Radiology 143 (1982) 29-36.
    """
    above = tally.true_positives - 0.5 * tally.positives
    wins = np.einsum("rg,rg->r", above, tally.negatives)
    return _divide(wins, tally.true_positives[:, -1] * tally.false_positives[:, -1])


def compute_auprc(tally: Tally) -> Floats:
    """Return (R,) average precision: the sum over thresholds of precision times the rise in recall.

    No interpolation, as in scikit-learn's average_precision_score. NaN where a weighting has no
    stay with the event or none without.
    """
    precision = _divide(tally.true_positives, tally.true_positives + tally.false_positives)
    # groups of no weight have no precision and add nothing
    gain = np.einsum("rg,rg->r", np.nan_to_num(precision, copy=False), tally.positives)
    num_positives = tally.true_positives[:, -1]
    return _divide(gain, np.where(tally.false_positives[:, -1] > 0, num_positives, 0))


def compute_brier(tally: Tally) -> Floats:
    """Return (R,) the mean squared distance of probability and label, 0 for a perfect forecast."""
    # einsum, not @: BLAS rounds by the number of rows and threads
    with_event = np.einsum("rg,g->r", tally.positives, (1 - tally.probabilities) ** 2)
    missed = with_event + np.einsum("rg,g->r", tally.negatives, tally.probabilities**2)
    return _divide(missed, tally.true_positives[:, -1] + tally.false_positives[:, -1])


def _divide(above: Floats, below: Floats) -> Floats:
    """Return above / below, NaN where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)


@dataclass(frozen=True)
class Metric:
    """One entry of the metric table."""

    label: str
    """Printed name."""
    compute: Callable[[Tally], Floats]


METRICS: dict[str, Metric] = {
    "auroc": Metric("AUROC", compute_auroc),
    "auprc": Metric("AUPRC", compute_auprc),
    "brier": Metric("Brier score", compute_brier),
}
