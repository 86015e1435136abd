"""Weighted performance metrics, many weightings at once.

Shapes: R weightings (bootstrap replicates), N stays, G groups of stays with one and the same probability, B bins of
the calibration error, C columns of sums.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinrep.analysis.recalibration import compute_logits, recalibrate
from clinrep.analysis.slopes import Expansion, expand, solve

Floats = NDArray[np.float64]
NUM_BINS = 10


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
    num_bins: int = NUM_BINS
    """Of the expected calibration error: B or, for ties, more than there are."""

    def tally(self, weights: NDArray[Any]) -> Tally:
        """Sum the weights (R, N), columns already in `order`, as each metric needs it."""
        return Tally(self, weights.astype(np.float64, copy=False))

    @cached_property
    def stay_probabilities(self) -> Floats:
        """(N,) in `order`."""
        return np.repeat(self.probabilities, np.diff(np.r_[self.starts, self.order.size]))

    @cached_property
    def has_event(self) -> NDArray[np.bool_]:
        """(G,) whether a group of ties has a stay with the event."""
        return np.logical_or.reduceat(self.labels, self.starts)

    @cached_property
    def merged(self) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Starts and `has_event` of the groups when neighbours without an event are one: all that ranks need."""
        is_kept = self.has_event.copy()
        is_kept[1:] |= self.has_event[:-1]
        is_kept[:1] = True
        return self.starts[is_kept], self.has_event[is_kept]

    @cached_property
    def bins(self) -> NDArray[np.intp]:
        """(B + 1,) ends of the bins in `order`: between quantiles of the probabilities, ties never separated."""
        edges = np.unique(np.quantile(self.stay_probabilities, np.linspace(0, 1, self.num_bins + 1)[1:-1]))
        bins = np.searchsorted(edges, self.stay_probabilities, side="right")
        return np.r_[0, 1 + np.flatnonzero(bins[1:] != bins[:-1]), bins.size]

    @cached_property
    def expansion(self) -> Expansion | None:
        """The recalibration near that of the plain sample; None where there is none."""
        return expand(self.labels, self.stay_probabilities)

    @cached_property
    def columns(self) -> Floats:
        """(N, C) what linear metrics sum: squared error, residual, and the columns of the expansion."""
        residuals = self.labels - self.stay_probabilities
        slopes = np.empty((residuals.size, 0)) if self.expansion is None else self.expansion.columns
        return np.column_stack([residuals**2, residuals, slopes])


class Sums:
    """What the metrics read of a ranking under R weightings: `Tally` from weights of stays, others in their ways."""

    ranking: Ranking

    @property
    def merged(self) -> tuple[Floats, Floats]:
        """Weights (R, G) with and without the event by merged group."""
        raise NotImplementedError

    @property
    def total(self) -> Floats:
        """(R,) weight of all."""
        raise NotImplementedError

    @property
    def squared_errors(self) -> Floats:
        """(R,) weighted sums of the squared errors."""
        raise NotImplementedError

    @property
    def bin_residuals(self) -> Floats:
        """(R, B) weighted sums of label minus probability in each bin."""
        raise NotImplementedError

    @property
    def expansion_sums(self) -> Floats:
        """(R, C) weighted sums of the columns of the expansion."""
        raise NotImplementedError

    def weigh_stays(self, rows: NDArray[np.intp]) -> Floats:
        """Return (r, N) some weightings of the stays in the ranking's order."""
        raise NotImplementedError

    @cached_property
    def recalibration(self) -> Floats:
        """(R, 2) intercept and slope of the labels on the logits; NaN where there are none."""
        expansion, ranking = self.ranking.expansion, self.ranking
        found, starts = np.full((2, len(self.total), 2), [[[np.nan]], [[0]]])
        if expansion is None and (len(found) == 1 or not 0 < ranking.labels.sum() < ranking.labels.size):
            return found
        if expansion is not None:
            found, starts = solve(expansion, self.expansion_sums)
        rest = np.flatnonzero(~np.isfinite(found[:, 1]))
        if rest.size:
            data = ranking.labels, compute_logits(ranking.stay_probabilities), self.weigh_stays(rest)
            found[rest] = np.stack(recalibrate(*data, starts[rest]), axis=1)
        return found


@dataclass(frozen=True)
class Tally(Sums):
    """The sums from weights of the stays, columns in the ranking's order; each is made once."""

    ranking: Ranking
    weights: Floats
    """(R, N)"""

    @cached_property
    def positives(self) -> Floats:
        """(R, G) weight with the event at each probability."""
        return _sum_groups(np.where(self.ranking.labels, self.weights, 0), self.ranking.starts)

    @cached_property
    def negatives(self) -> Floats:
        """(R, G) weight without the event at each probability."""
        return _sum_groups(np.where(self.ranking.labels, 0, self.weights), self.ranking.starts)

    @cached_property
    def true_positives(self) -> Floats:
        """(R, G) weight with the event at or above each probability."""
        return np.cumsum(self.positives, axis=1)

    @cached_property
    def false_positives(self) -> Floats:
        """(R, G) weight without the event at or above each probability."""
        return np.cumsum(self.negatives, axis=1)

    @cached_property
    def merged(self) -> tuple[Floats, Floats]:
        """Weights (R, G) with and without the event by merged group."""
        starts, has_event = self.ranking.merged
        at = np.flatnonzero(self.ranking.labels)
        positives = np.zeros((len(self.weights), starts.size))
        if at.size:
            events = np.take(self.weights, at, axis=1)
            positives[:, has_event] = _sum_groups(events, np.searchsorted(at, starts[has_event]))
        negatives = self.weights.copy()
        negatives[:, at] = 0
        return positives, _sum_groups(negatives, starts)

    @cached_property
    def total(self) -> Floats:
        """(R,) weight of all stays."""
        return np.asarray(self.weights.sum(axis=1))

    @cached_property
    def sums(self) -> Floats:
        """(R, B, C) weighted sums of the ranking's columns in each bin."""
        columns, ends = self.ranking.columns, self.ranking.bins
        parts = [self.weights[:, start:end] @ columns[start:end] for start, end in itertools.pairwise(ends)]
        return np.stack(parts, axis=1)

    @property
    def squared_errors(self) -> Floats:
        """(R,) weighted sums of the squared errors."""
        return np.asarray(self.sums[:, :, 0].sum(axis=1))

    @property
    def bin_residuals(self) -> Floats:
        """(R, B) weighted sums of label minus probability in each bin."""
        return self.sums[:, :, 1]

    @property
    def expansion_sums(self) -> Floats:
        """(R, C) weighted sums of the columns of the expansion."""
        return np.asarray(self.sums[:, :, 2:].sum(axis=1))

    def weigh_stays(self, rows: NDArray[np.intp]) -> Floats:
        """Return (r, N) some weightings of the stays in the ranking's order."""
        return self.weights[rows]


def _sum_groups(weights: Floats, starts: NDArray[np.intp]) -> Floats:
    """Return the sums (R, G) of the columns from each start to the next."""
    return weights if starts.size == weights.shape[1] else np.add.reduceat(weights, starts, axis=1)


def rank(labels: NDArray[np.bool_], probabilities: Floats, num_bins: int = NUM_BINS) -> Ranking:
    """Return the ranking of N stays by their probabilities."""
    order = np.argsort(-probabilities, kind="stable")
    ordered = probabilities[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return Ranking(order, starts, ordered[starts], labels[order], num_bins)


def compute_auroc(tally: Sums) -> Floats:
    """Return (R,) the chance that a stay with the event outranks one without, ties counting half.

    NaN where a weighting has no stay with the event or none without. The Mann-Whitney form of
    Hanley and McNeil, Radiology 143 (1982) 29-36.
    """
    positives, negatives = tally.merged
    above = np.cumsum(positives, axis=1)
    total = above[:, -1].copy()
    above -= 0.5 * positives
    return _divide(np.einsum("rg,rg->r", above, negatives), total * negatives.sum(axis=1))


def compute_auprc(tally: Sums) -> Floats:
    """Return (R,) average precision: the sum over thresholds of precision times the rise in recall.

    No interpolation, as in scikit-learn's average_precision_score. NaN where a weighting has no
    stay with the event or none without.
    """
    positives, negatives = tally.merged
    has_event = tally.ranking.merged[1]
    false = np.cumsum(negatives, axis=1)
    num_negatives = false[:, -1].copy()
    positives, false = positives[:, has_event], false[:, has_event]
    true = np.cumsum(positives, axis=1)
    # groups of no weight have no precision and add nothing
    precision = np.divide(true, true + false, out=np.zeros_like(true), where=true > 0)
    num_positives = true[:, -1] if true.shape[1] else np.zeros(len(true))
    return _divide(np.einsum("rg,rg->r", precision, positives), np.where(num_negatives > 0, num_positives, 0))


def compute_brier(tally: Sums) -> Floats:
    """Return (R,) the mean squared distance of probability and label, 0 for a perfect forecast."""
    return _divide(tally.squared_errors, tally.total)


def compute_ece(tally: Sums) -> Floats:
    """Return (R,) the expected calibration error: |share with the event - mean probability|, averaged over the bins.

    Naeini, Cooper and Hauskrecht (AAAI 2015), in bins of equal numbers of stays (Nguyen and O'Connor, EMNLP 2015,
    section 3), ties together; the bins are those of the plain sample under every weighting. Never negative, and so
    above its true value in small samples.
    """
    return _divide(np.abs(tally.bin_residuals).sum(axis=1), tally.total)


def compute_slope(tally: Sums) -> Floats:
    """Return (R,) the calibration slope: 1 for a right spread of probabilities, less where they are too extreme.

    Of the logistic regression of labels on logits (Cox, Biometrika 45 (1958) 562-565). NaN where there is none.
    """
    return tally.recalibration[:, 1]


def compute_intercept(tally: Sums) -> Floats:
    """Return (R,) the intercept of that regression: 0 where the probabilities are right."""
    return tally.recalibration[:, 0]


def _divide(above: Floats, below: Floats) -> Floats:
    """Return above / below, NaN where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)


@dataclass(frozen=True)
class Metric:
    """One entry of the metric table."""

    label: str
    """Printed name."""
    compute: Callable[[Sums], Floats]
    is_reflected: bool = False
    """Whether its interval is the basic one, from 0 on where chance alone gives as much (`compute_interval`)."""


METRICS: dict[str, Metric] = {
    "auroc": Metric("AUROC", compute_auroc),
    "auprc": Metric("AUPRC", compute_auprc),
    "brier": Metric("Brier score", compute_brier),
    "ece": Metric("ECE", compute_ece, is_reflected=True),
    "calibration_slope": Metric("Calibration slope", compute_slope),
    "calibration_intercept": Metric("Calibration intercept", compute_intercept),
}
