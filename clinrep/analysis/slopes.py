"""Slope and intercept of the recalibration of many weightings, as a polynomial near those of the plain sample.

Shapes: R weightings (bootstrap replicates), N stays, C columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from clinrep.analysis.recalibration import Floats, compute_logits, recalibrate

ORDER = 3
"""Degree of the expansion."""
COLUMNS = [(0, power) for power in range(2)] + [
    (order, power) for order in range(1, ORDER + 1) for power in range(order + 2)
]
"""(C,) of each column: which derivative of the residual, times which power of the standardized logit."""
MAX_SHIFT = 0.3
"""Largest change of a fitted log-odds for which the polynomial is used: what it leaves out is then at most a part in
3,000 (0.3^4 / 4!) of what it holds; weightings that change more are fitted by `recalibrate`."""
NUM_STEPS = 8


@dataclass(frozen=True)
class Expansion:
    """The likelihood equations of labels on logits about their solution, in powers of what solution and weights change.

    The residual of a stay is y - p(a + b x); each derivative with respect to its log-odds is a function of p, so the
    equations of any weighting are weighted sums of C columns, and a bootstrap replicate costs C products a stay.
    """

    estimate: Floats
    """(2,) intercept and slope of the plain sample."""
    center: float
    scale: float
    """x = (logit - center) / scale."""
    reach: tuple[float, float]
    """x between which 99 % of the information lies."""
    columns: Floats
    """(N, C)"""


def expand(labels: np.ndarray, probabilities: Floats) -> Expansion | None:
    """Return the expansion, columns in the order of the stays, or None where there is no solution."""
    logits = compute_logits(probabilities)
    intercepts, slopes = recalibrate(labels, logits, np.ones((1, logits.size)))
    if not np.isfinite(slopes[0]):
        return None
    center, scale = float(logits.mean()), float(logits.std())
    x = (logits - center) / scale
    fitted = 1 / (1 + np.exp(-(intercepts[0] + slopes[0] * logits)))
    first = fitted * (1 - fitted)
    derivatives = [labels - fitted, first, first * (1 - 2 * fitted), first * (1 - 6 * first)]
    powers = [x**power for power in range(ORDER + 2)]
    columns = np.stack([derivatives[order] * powers[power] for order, power in COLUMNS], axis=1)
    order = np.argsort(x, kind="stable")
    information = np.cumsum(first[order])
    places = np.searchsorted(information, np.array([0.005, 0.995]) * information[-1])
    low, high = x[order][np.minimum(places, x.size - 1)]
    return Expansion(np.array([intercepts[0], slopes[0]]), center, scale, (float(low), float(high)), columns)


def solve(expansion: Expansion, sums: Floats) -> Floats:
    """Return (R, 2) intercept and slope from the weighted sums (R, C); NaN where the polynomial does not reach."""
    moments = {key: sums[:, index] for index, key in enumerate(COLUMNS)}
    change = np.zeros((len(sums), 2))
    step = np.full_like(change, np.inf)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for _ in range(NUM_STEPS):
            gradient = [moments[0, a] - _evaluate(moments, change, a, 1) for a in range(2)]
            a, b, c = (_evaluate(moments, change, power, 0) for power in range(3))
            above = np.stack([c * gradient[0] - b * gradient[1], a * gradient[1] - b * gradient[0]], axis=1)
            step = above / (a * c - b**2)[:, None]
            change += step
        shift = np.max([np.abs(change[:, 0] + change[:, 1] * x) for x in expansion.reach], axis=0)
        is_fine = (np.abs(step).max(axis=1) <= 1e-8) & (shift <= MAX_SHIFT)
        slopes = change[:, 1] / expansion.scale
        found = expansion.estimate + np.stack([change[:, 0] - slopes * expansion.center, slopes], axis=1)
    found[~is_fine] = np.nan
    return np.asarray(found)


def _evaluate(moments: dict[tuple[int, int], Floats], change: Floats, power: int, integral: int) -> Floats:
    """Return (R,) what the gradient loses by `change` (integral 1), or its derivative there (integral 0)."""
    total = np.zeros(len(change))
    for order in range(1, ORDER + 1):
        degree = order - 1 + integral
        for j in range(degree + 1):
            term = math.comb(degree, j) * change[:, 0] ** (degree - j) * change[:, 1] ** j
            total += term * moments[order, j + power] / math.factorial(degree)
    return total
