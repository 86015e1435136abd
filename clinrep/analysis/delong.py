"""Variance of AUROCs without resampling: DeLong's, for patients with several stays.

Shapes: M models, N stays, P patients.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clinrep.analysis.metrics import Floats, Ranking


def compute_placements(ranking: Ranking) -> Floats:
    """Return (N,) each stay's placement, in the stays' own order.

    For a stay with the event the share of stays without it that it outranks, for one without the share of stays
    with the event that outrank it, ties counting half: the structural components of DeLong, DeLong and
    Clarke-Pearson, Biometrics 44 (1988) 837-845, from one sorting as midranks in Sun and Xu, IEEE Signal
    Processing Letters 21 (2014) 1389-1393. Their mean over either class is the AUROC.
    """
    num_stays = ranking.order.size
    tally = ranking.tally(np.ones((1, num_stays)))
    above = tally.true_positives[0] - 0.5 * tally.positives[0]
    below = tally.false_positives[0, -1] - tally.false_positives[0] + 0.5 * tally.negatives[0]
    group = np.repeat(np.arange(ranking.starts.size), np.diff(np.r_[ranking.starts, num_stays]))
    placements = np.empty(num_stays)
    placements[ranking.order] = np.where(
        ranking.labels, below[group] / tally.false_positives[0, -1], above[group] / tally.true_positives[0, -1]
    )
    return placements


def compute_auroc_covariance(
    rankings: Sequence[Ranking], labels: NDArray[np.bool_], patients: NDArray[np.intp]
) -> tuple[Floats, Floats]:
    """Return (M,) the AUROCs and (M, M) their covariance, stays of a patient being dependent.

    Obuchowski, Biometrics 53 (1997) 567-578, equations 3 to 6 and their extension to several tests: placements are
    summed within each patient before they are squared. Equals DeLong's where every patient has one stay. NaN
    where the event, or its absence, is found in fewer than two patients.

    Args:
        rankings: one for each model, of the same N stays.
        labels: (N,) in the stays' own order, at least one of either kind.
        patients: (N,) number of each stay's patient, 0..P-1.
    """
    placements = np.array([compute_placements(ranking) for ranking in rankings])
    aurocs = placements[:, labels].mean(axis=1)
    centred = placements - aurocs[:, None]
    num_patients = int(patients.max()) + 1
    sums = {}
    factors = {}
    for is_event in (True, False):
        chosen = labels == is_event
        total = int(chosen.sum())
        sums[is_event] = np.array(
            [np.bincount(patients[chosen], row[chosen], minlength=num_patients) / total for row in centred]
        )
        factors[is_event] = _correct(np.unique(patients[chosen]).size)
    events, others = sums[True], sums[False]
    # einsum, not @: BLAS rounds by the number of rows and threads
    crossed = np.einsum("ip,jp->ij", events, others)
    covariance = factors[True] * np.einsum("ip,jp->ij", events, events)
    covariance += factors[False] * np.einsum("ip,jp->ij", others, others)
    covariance += _correct(np.unique(patients).size) * (crossed + crossed.T)
    return aurocs, covariance


def _correct(num_clusters: int) -> float:
    """Return I / (I - 1), which makes a variance from I clusters unbiased."""
    return num_clusters / (num_clusters - 1) if num_clusters > 1 else float("nan")
