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
MAX_START_SHIFT = 1.0
"""Up to this change the polynomial is a better start for a search than the estimate."""
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


def solve(expansion: Expansion, sums: Floats) -> tuple[Floats, Floats]:
    """Return (R, 2) intercept and slope from the weighted sums (R, C), NaN where the polynomial does not reach.

    And (R, 2) where to begin a search for those: what the polynomial says if it is of some use, or the estimate.
    """
    change = np.zeros((len(sums), 2))
    step = np.full_like(change, np.inf)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for _ in range(NUM_STEPS):
            lost_0, lost_1, a, b, c = _evaluate(sums, change)
            gradient = sums[:, 0] - lost_0, sums[:, 1] - lost_1
            above = np.stack([c * gradient[0] - b * gradient[1], a * gradient[1] - b * gradient[0]], axis=1)
            step = above / (a * c - b**2)[:, None]
            change += step
            if not (np.abs(step) > 1e-12).any():
                break
        shift = np.max([np.abs(change[:, 0] + change[:, 1] * x) for x in expansion.reach], axis=0)
        is_fine = (np.abs(step).max(axis=1) <= 1e-8) & (shift <= MAX_SHIFT)
        slopes = change[:, 1] / expansion.scale
        found = expansion.estimate + np.stack([change[:, 0] - slopes * expansion.center, slopes], axis=1)
    starts = np.where((shift <= MAX_START_SHIFT)[:, None], found, expansion.estimate)
    found[~is_fine] = np.nan
    return found, starts


def _list_terms() -> Floats:
    """Return (M C, 5) the coefficients of what `_evaluate` returns, on products of monomials and columns."""
    coefficients = np.zeros((len(MONOMIALS), len(COLUMNS), 5))
    for output, (power, integral) in enumerate([(0, 1), (1, 1), (0, 0), (1, 0), (2, 0)]):
        for order in range(1, ORDER + 1):
            degree = order - 1 + integral
            for j in range(degree + 1):
                at = MONOMIALS.index((degree - j, j)), COLUMNS.index((order, j + power)), output
                coefficients[at] += math.comb(degree, j) / math.factorial(degree)
    return coefficients.reshape(-1, 5)


MONOMIALS = [(degree - j, j) for degree in range(ORDER + 1) for j in range(degree + 1)]
_TERMS = _list_terms()


def _evaluate(sums: Floats, change: Floats) -> Floats:
    """Return (5, R) what both gradients lose by `change`, and their derivatives there: a, b, c of [[a, b], [b, c]]."""
    monomials = np.stack([change[:, 0] ** i * change[:, 1] ** j for i, j in MONOMIALS], axis=1)
    products = monomials[:, :, None] * sums[:, None, :]
    found: Floats = (products.reshape(len(sums), -1) @ _TERMS).T
    return found
