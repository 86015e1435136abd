"""Bootstrap by patient, all replicates of all models at once.

Shapes: R replicates, P patients, N stays, K metrics, M models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from clinrep.analysis.metrics import METRICS, Floats, Ranking

# A chunk of replicates holds at most so many weights: arrays of this size stay in a core's cache,
# which measures faster than larger ones, and bound memory at any number of stays.
CHUNK_WEIGHTS = 500_000

# Replicates in which a metric is undefined (no stay with the event, or none without) are left out;
# with more of them than this share, the rest no longer describes the sampling distribution.
MAX_UNDEFINED = 0.05


def draw_patient_counts(
    num_patients: int, num_replicates: int, seed: int, chunk_rows: int
) -> Iterator[NDArray[np.uint32]]:
    """Yield (rows, P) how often each patient is drawn, P draws with replacement a replicate."""
    generator = np.random.default_rng(seed)
    for first in range(0, num_replicates, chunk_rows):
        rows = min(chunk_rows, num_replicates - first)
        drawn = generator.integers(num_patients, size=(rows, num_patients))
        drawn += np.arange(rows)[:, None] * num_patients
        counts = np.bincount(drawn.ravel(), minlength=rows * num_patients)
        yield counts.reshape(rows, num_patients).astype(np.uint32)


def bootstrap_metrics(
    rankings: Sequence[Ranking], patients: NDArray[np.intp], num_replicates: int, seed: int
) -> Floats:
    """Return (M, K, R) every metric of every model in every replicate; K in the order of METRICS.

    A replicate draws patients, and each drawn patient brings all of his or her stays, because
    stays of one patient are not independent. All models see the same replicates, so that
    differences between them are paired. Undefined values are NaN.

    Args:
        rankings: one for each model, of the same N stays.
        patients: (N,) number of each stay's patient, 0..P-1.
        num_replicates: R.
        seed: of the generator.
    """
    num_patients = int(patients.max()) + 1
    chunk_rows = max(1, CHUNK_WEIGHTS // max(patients.size, 1))
    values = np.full((len(rankings), len(METRICS), num_replicates), np.nan)
    first = 0
    for counts in draw_patient_counts(num_patients, num_replicates, seed, chunk_rows):
        last = first + counts.shape[0]
        for model, ranking in enumerate(rankings):
            tally = ranking.tally(counts[:, patients[ranking.order]])
            for index, metric in enumerate(METRICS.values()):
                values[model, index, first:last] = metric.compute(tally)
        first = last
    return values


def compute_interval(values: Floats, level: float) -> tuple[float, float] | None:
    """Return the percentile interval of the defined replicates (R,), or None if too many are undefined."""
    defined = values[np.isfinite(values)]
    if defined.size < (1 - MAX_UNDEFINED) * values.size:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
