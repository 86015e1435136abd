"""How far probabilities are from labels and from known risks: many weightings at once.

Shapes: R weightings (bootstrap replicates), N stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_NEWTON_STEPS = 25
# A probability is moved this far from 0 and 1, so that its logit is finite: f32 holds none nearer to 1.
SMALLEST = 1e-7


def compute_logits(probabilities: Floats) -> Floats:
    """Return log(p / (1 - p)), of probabilities that are 0 or 1 the logit of the nearest allowed one."""
    inside = np.clip(probabilities, SMALLEST, 1 - SMALLEST)
    return np.log(inside) - np.log1p(-inside)


def recalibrate(
    labels: NDArray[np.bool_], logits: Floats, weights: NDArray[Any], start: Floats | None = None
) -> tuple[Floats, Floats]:
    """Return intercept and slope, each (R,), of the logistic regression of labels (N,) on logits (N,).

    logit P(label) = intercept + slope * logit: 0 and 1 where the probabilities are right (Cox, Biometrika 45
    (1958) 562-565); a slope below 1 means they are too extreme. Maximum likelihood by Newton's method, for
    each row of `weights` (R, N). `start` (2,) or (R, 2) is where to begin, near the answer where it is known. NaN where
    there is no maximum: all labels alike, all logits alike, or classes that a threshold separates.
    """
    weights = weights.astype(np.float64)
    beta = np.array(np.broadcast_to(np.zeros(2) if start is None else start, (len(weights), 2)))
    change = np.full(len(beta), np.inf)
    powers = np.stack([np.ones_like(logits), logits, logits**2], axis=1)
    wanted = weights @ (powers[:, :2] * labels[:, None])
    active = np.arange(len(beta))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for _ in range(NUM_NEWTON_STEPS):
            step = _find_newton_step(powers, weights, wanted[active], beta[active])
            beta[active] += step
            change[active] = np.abs(step).max(axis=1)
            is_left = change[active] > 1e-8  # NaN is no reason to go on
            if not is_left.any():
                break
            if not is_left.all():
                active, weights = active[is_left], weights[is_left]
        beta[~(change <= 1e-6)] = np.nan
    return beta[:, 0], beta[:, 1]


def _find_newton_step(powers: Floats, weights: Floats, wanted: Floats, beta: Floats) -> Floats:
    """Return (R, 2): the step of Newton's method from beta (R, 2).

    Args:
        powers: (N, 3) of the logits: 0, 1 and 2.
        weights: (R, N)
        wanted: (R, 2) weighted sums of labels, and of labels times logits.
        beta: (R, 2) intercepts and slopes.
    """
    fitted = beta @ powers[:, :2].T
    np.negative(fitted, out=fitted)
    np.exp(fitted, out=fitted)
    fitted += 1
    np.reciprocal(fitted, out=fitted)
    products = weights * fitted
    gradient = wanted - products @ powers[:, :2]
    np.subtract(1, fitted, out=fitted)
    products *= fitted
    a, b, c = (products @ powers).T
    # the inverse of a 2 x 2 matrix, written out
    above = np.stack([c * gradient[:, 0] - b * gradient[:, 1], a * gradient[:, 1] - b * gradient[:, 0]], axis=1)
    step: Floats = above / (a * c - b**2)[:, None]
    return step


def average(values: Floats, weights: NDArray[Any]) -> Floats:
    """Return (R,) the weighted means of values (N,)."""
    means: Floats = (weights @ values) / weights.sum(axis=1)
    return means


def regress_risk(risks: Floats, probabilities: Floats, weights: NDArray[Any], num_samples: int | None = None) -> Floats:
    """Return (R,) the slope of the least-squares line of known risks (N,) on probabilities (N,).

    1 where a difference in probability is, on average, one in risk. With `num_samples` each probability is
    a share of so many random continuations: such noise, independent of the risk, leaves the covariance as it
    is but adds p (1 - p) / num_samples to the variance, which would make the slope look too small. It is
    taken off, estimated without bias by share (1 - share) / (num_samples - 1) (the correction for attenuation
    of Fuller, Measurement Error Models, 1987, section 1.2). NaN where nothing is left of the variance.
    """
    mean_risk, mean = average(risks, weights), average(probabilities, weights)
    covariance = average(risks * probabilities, weights) - mean_risk * mean
    variance = average(probabilities**2, weights) - mean**2
    if num_samples is not None:
        variance = variance - average(probabilities * (1 - probabilities), weights) / (num_samples - 1)
    slopes: Floats = np.divide(covariance, variance, out=np.full(len(mean), np.nan), where=variance > 1e-15)
    return slopes
