"""Net benefit of acting on a model's probabilities, many weightings at once.

Shapes: R weightings (bootstrap replicates), N stays, T thresholds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clinrep.analysis.metrics import Floats, Ranking

NUM_STEPS = 100
STEP_OF_LIMIT = 0.05
HIGHEST_CHOSEN = 0.5
TIMES_PREVALENCE = 5


def choose_thresholds(prevalence: float, limit: float | None) -> Floats:
    """Return (T,) threshold probabilities from 0 to `limit`, evenly spaced.

    Without a limit it is five times the prevalence, rounded up to a multiple of 0.05, at most 0.5: a treatment that
    nobody would give to all is worth considering around the prevalence, and for rare events nothing is left
    to be seen far above it.
    """
    if limit is None:
        # 1e-9: five times 0.1 is not to become 0.55
        steps = np.ceil(TIMES_PREVALENCE * prevalence / STEP_OF_LIMIT - 1e-9)
        limit = float(np.clip(steps * STEP_OF_LIMIT, STEP_OF_LIMIT, HIGHEST_CHOSEN))
    return np.linspace(0, limit, NUM_STEPS + 1)


def compute_net_benefit(ranking: Ranking, weights: Floats, thresholds: Floats) -> Floats:
    """Return (T, R) the net benefit of treating the stays whose probability is at or above each threshold.

    True positives minus false positives times the odds of the threshold, as a share of all stays (Vickers and
    Elkin, Medical Decision Making 26 (2006) 565-574). The columns of `weights` (R, N) are in the ranking's order.
    """
    num_flagged = count_flagged(ranking, thresholds)
    with_event = np.flatnonzero(ranking.labels)
    flagged = _sum_leading(weights, num_flagged)
    true = _sum_leading(np.take(weights, with_event, axis=1), np.searchsorted(with_event, num_flagged))
    odds = thresholds / (1 - thresholds)
    benefit: Floats = ((true - (flagged - true) * odds) / weights.sum(axis=1)[:, None]).T
    return benefit


def _sum_leading(weights: Floats, counts: NDArray[np.intp]) -> Floats:
    """Return (R, T) the sums of the first so many columns of weights (R, N), each column read once."""
    edges = np.unique(np.r_[0, counts])
    sums = np.zeros((len(weights), edges.size))
    if edges.size > 1:
        parts = np.add.reduceat(weights[:, : edges[-1]], edges[:-1], axis=1)
        sums[:, 1:] = np.cumsum(parts, axis=1)
    return sums[:, np.searchsorted(edges, counts)]


def count_flagged(ranking: Ranking, thresholds: Floats) -> NDArray[np.intp]:
    """Return (T,) how many stays have a probability at or above each threshold."""
    ends = np.r_[ranking.starts, ranking.order.size]
    return ends[np.searchsorted(-ranking.probabilities, -thresholds, side="right")]


def compute_treat_all(prevalence: float, thresholds: Floats) -> Floats:
    """Return (T,) the net benefit of treating every stay; treating none has 0."""
    benefit: Floats = prevalence - (1 - prevalence) * thresholds / (1 - thresholds)
    return benefit
