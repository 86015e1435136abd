"""p-values: of a difference with known variance, of bootstrap replicates, and adjusted for how many there are.

Shapes: R replicates, K comparisons.
"""

from __future__ import annotations

import math

import numpy as np

from clinrep.analysis.metrics import Floats


def compute_normal_p(difference: float, variance: float) -> float:
    """Return the two-sided p-value of a normal difference; NaN where there is a difference but no variance.

    Two models of the same ranking differ by 0 without variance: p is 1.
    """
    if variance > 1e-15:  # what rounding leaves of a variance of 0
        return math.erfc(abs(difference) / math.sqrt(2 * variance))
    return 1.0 if abs(difference) < 1e-12 else math.nan


def compute_bootstrap_p(differences: Floats) -> float:
    """Return the two-sided p-value of replicates (R,) of a difference: how far out in them 0 lies.

    2 (1 + min(#{d <= 0}, #{d >= 0})) / (1 + R), at most 1: twice the smaller tail beyond 0, in agreement with the
    percentile interval (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 15.4), observed
    value counted with the replicates so that it is never 0 (Davison and Hinkley, Bootstrap Methods and their
    Application, 1997, equation 4.11). Undefined replicates are left out.
    """
    defined = differences[np.isfinite(differences)]
    # 0 up to rounding: replicates of one ranking and its copy differ in the last bits
    is_zero = np.abs(defined) < 1e-12
    smaller = min(int((is_zero | (defined < 0)).sum()), int((is_zero | (defined > 0)).sum()))
    return min(1.0, 2 * (1 + smaller) / (1 + defined.size))


def adjust_holm(p_values: Floats) -> Floats:
    """Return (K,) p-values of one family by Holm, Scandinavian Journal of Statistics 6 (1979) 65-70; NaN stays NaN."""
    adjusted = np.full(p_values.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    steps = p_values[order] * (order.size - np.arange(order.size))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted
