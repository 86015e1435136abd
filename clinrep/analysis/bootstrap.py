"""Bootstrap by patient, all replicates of all models at once.

Shapes: R replicates, P patients, N stays, K metrics, M models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from clinrep.analysis.metrics import METRICS, Floats, Ranking
from clinrep.analysis.patient_tally import Draws, PatientSums, PatientTally

# A chunk of replicates holds at most so many weights: arrays of this size stay in a core's cache,
# which measures faster than larger ones, and bound memory at any number of stays.
CHUNK_WEIGHTS = 500_000
# But so many replicates at least: sums run over those of one patient, which lie side by side.
MIN_CHUNK_ROWS = 16

# Replicates in which a metric is undefined (no stay with the event, or none without) are left out;
# with more of them than this share, the rest no longer describes the sampling distribution.
MAX_UNDEFINED = 0.05


def find_patients_with_event(labels: NDArray[np.bool_], patients: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return (P,) whether any of a patient's stays has the event: the strata of the bootstrap."""
    return np.bincount(patients, labels) > 0


def order_patients(has_event: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return (P,) the place of each patient when those with an event come first."""
    places = np.empty(has_event.size, dtype=np.intp)
    places[np.argsort(~has_event, kind="stable")] = np.arange(has_event.size)
    return places


def draw_patient_counts(
    has_event: NDArray[np.bool_], num_replicates: int, seed: int, chunk_rows: int
) -> Iterator[Floats]:
    """Yield (rows, P) the weights of the patients in each replicate, on average 1, together P.

    Stratified: as many patients with an event as there are, and as many without, are drawn with replacement, each
    among themselves, so that every replicate has both (Davison and Hinkley, Bootstrap Methods, 1997, section 3.2).
    That alone would take the share of patients with an event as known, and the intervals of what depends on it
    (Brier score, ECE, intercept, AUPRC) would be too narrow: so in each replicate the strata are weighted as if that
    share had been drawn too, binomially. Chunks of rows hold the same numbers whatever their size.
    """
    places = order_patients(has_event)
    for draws in draw_replicates(has_event.size, int(has_event.sum()), num_replicates, seed, chunk_rows):
        yield np.take(np.ascontiguousarray(draws.weights.T), places, axis=1)


def draw_replicates(
    num_patients: int, num_with: int, num_replicates: int, seed: int, chunk_rows: int
) -> Iterator[Draws]:
    """Yield, for so many replicates at a time, what `draw_patient_counts` does, in the order of `order_patients`."""
    sizes = num_with, num_patients - num_with
    generators = [np.random.default_rng([seed, number]) for number in range(3)]
    for first in range(0, num_replicates, chunk_rows):
        rows = min(chunk_rows, num_replicates - first)
        drawn = generators[2].binomial(num_patients, num_with / num_patients, size=rows)
        if 0 < num_with < num_patients:
            drawn = np.clip(drawn, 1, num_patients - 1)
        counts = np.empty((rows, num_patients), dtype=np.float32)
        for size, generator, start in zip(sizes, generators[:2], (0, num_with), strict=True):
            for row in range(rows if size else 0):  # one row at a time stays in the cache
                numbers = generator.integers(size, size=size, dtype=np.int32)
                counts[row, start : start + size] = np.bincount(numbers, minlength=size)
        scales = np.stack([drawn, num_patients - drawn]) / np.maximum(sizes, 1)[:, None]
        yield Draws(np.ascontiguousarray(counts.T), num_with, scales)


def bootstrap_metrics(
    rankings: Sequence[Ranking],
    patients: NDArray[np.intp],
    num_replicates: int,
    seed: int,
    names: Sequence[str] = tuple(METRICS),
) -> Floats:
    """Return (M, K, R) every metric of every model in every replicate; K in the order of `names`.

    A replicate draws patients, and each drawn patient brings all of his or her stays, because
    stays of one patient are not independent. All models see the same replicates, so that
    differences between them are paired. Undefined values are NaN.

    Args:
        rankings: one for each model, of the same N stays with the same labels.
        patients: (N,) number of each stay's patient, 0..P-1.
        num_replicates: R.
        seed: of the generator.
        names: metrics, as in METRICS.
    """
    values = np.full((len(rankings), len(names), num_replicates), np.nan)
    has_event = find_patients_with_event(rankings[0].labels, patients[rankings[0].order])
    num_patients, num_with = has_event.size, int(has_event.sum())
    rows = order_patients(has_event)[patients]
    sums = [PatientSums(ranking, rows, num_patients, num_with) for ranking in rankings]
    chunk_rows = max(MIN_CHUNK_ROWS, CHUNK_WEIGHTS // max(patients.size, 1))
    first = 0
    for draws in draw_replicates(num_patients, num_with, num_replicates, seed, chunk_rows):
        last = first + draws.scales.shape[1]
        for model, of_model in enumerate(sums):
            tally = PatientTally(of_model.ranking, draws, of_model)
            for index, name in enumerate(names):
                values[model, index, first:last] = METRICS[name].compute(tally)
        first = last
    return values


def compute_interval(
    values: Floats, level: float, reflected_at: float | None = None, noise: float = 0.0
) -> tuple[float, float] | None:
    """Return the percentile interval of the defined replicates (R,), or None if too many are undefined.

    With `reflected_at`, the estimate of something between 0 and 1 and above its true value in small samples:
    the basic interval (Davison and Hinkley, Bootstrap Methods, 1997, section 5.2), which takes off the bias that the
    replicates show, within 0 and 1 and never without the estimate.

    Such a statistic has a kink at 0, where the bootstrap fails (Andrews, Econometrica 68 (2000) 399-405): replicates of
    a calibration error of 0 exclude 0 in 40 % of samples. So an estimate of at most `noise`, the quantile of this level
    of what a true value of 0 gives, has an interval from 0 on: the interval excludes 0 where a test of it does.
    """
    defined = values[np.isfinite(values)]
    if defined.size < (1 - MAX_UNDEFINED) * values.size:
        return None
    low, high = (float(value) for value in np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]))
    if reflected_at is not None:
        low, high = max(0.0, 2 * reflected_at - high), max(reflected_at, min(1.0, 2 * reflected_at - low))
        low = 0.0 if reflected_at <= noise else low
    return low, high
