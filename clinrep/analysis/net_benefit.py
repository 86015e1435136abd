"""Net benefit of acting on a model's probabilities, many weightings at once.

Shapes: R weightings (bootstrap replicates), G groups of stays with one and the same probability, T thresholds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clinrep.analysis.metrics import Floats, Tally

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


def compute_net_benefit(tally: Tally, thresholds: Floats) -> Floats:
    """Return (T, R) the net benefit of treating the stays whose probability is at or above each threshold.

    True positives minus false positives times the odds of the threshold, as a share of all stays (Vickers and
    Elkin, Medical Decision Making 26 (2006) 565-574).
    """
    num_flagged = count_flagged_groups(tally.probabilities, thresholds)
    last, is_any = np.maximum(num_flagged - 1, 0), (num_flagged > 0)[:, None]
    true, false = (counts[:, last].T * is_any for counts in (tally.true_positives, tally.false_positives))
    num_stays = tally.true_positives[:, -1] + tally.false_positives[:, -1]
    benefit: Floats = (true - false * (thresholds / (1 - thresholds))[:, None]) / num_stays
    return benefit


def count_flagged_groups(probabilities: Floats, thresholds: Floats) -> NDArray[np.intp]:
    """Return (T,) how many of the falling probabilities (G,) are at or above each threshold."""
    return np.searchsorted(-probabilities, -thresholds, side="right")


def compute_treat_all(prevalence: float, thresholds: Floats) -> Floats:
    """Return (T,) the net benefit of treating every stay; treating none has 0."""
    benefit: Floats = prevalence - (1 - prevalence) * thresholds / (1 - thresholds)
    return benefit
