"""The AUROC of several models on the same stays, with intervals: for tables that need no other metric."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinrep.analysis.bootstrap import CHUNK_WEIGHTS, compute_interval, draw_patient_counts
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.metrics import Floats, Ranking, compute_auroc, rank
from clinrep.analysis.scores import explain_too_few


def score_auroc(
    labels: NDArray[np.bool_],
    patients: NDArray[np.intp],
    probabilities: dict[str, Floats],
    config: AnalyzeConfig,
    seed: int,
) -> list[dict[str, Any]]:
    """Return for each model `estimate`, `low`, `high`, `num_subjects`, `num_events`, and `reason` for what is null.

    Intervals are percentiles of the bootstrap by patient; all models see the same replicates.

    Args:
        labels: (N,)
        patients: (N,) number of each stay's patient, any numbers.
        probabilities: model -> (N,)
        config: numbers of replicates and of the events that an estimate and an interval need.
        seed: of the replicates.
    """
    num_subjects, num_events = labels.size, int(labels.sum())
    counts = {"num_subjects": num_subjects, "num_events": num_events}
    reason = explain_too_few(num_subjects, num_events, config.min_events_for_estimate)
    if reason:
        return [{"model": model, **_EMPTY, **counts, "reason": reason} for model in probabilities]
    rankings = [rank(labels, values) for values in probabilities.values()]
    reason = explain_too_few(num_subjects, num_events, config.min_events_for_interval)
    replicates = np.full((len(rankings), config.num_bootstraps), np.nan)
    if not reason:
        _fill_replicates(replicates, rankings, patients, seed)
    rows = []
    for model, ranking, values in zip(probabilities, rankings, replicates, strict=True):
        estimate = float(compute_auroc(ranking.tally(np.ones((1, num_subjects))))[0])
        interval = None if reason else compute_interval(values, config.confidence_level)
        low, high = interval or (None, None)
        words = reason or (None if interval else "too few patients with the event to resample")
        rows.append({"model": model, "estimate": estimate, "low": low, "high": high, **counts, "reason": words})
    return rows


def _fill_replicates(replicates: Floats, rankings: list[Ranking], patients: NDArray[np.intp], seed: int) -> None:
    """Write the AUROC of every model and replicate into `replicates` (M, R)."""
    numbers = np.unique(patients, return_inverse=True)[1]
    chunk_rows, first = max(1, CHUNK_WEIGHTS // patients.size), 0
    for counts in draw_patient_counts(int(numbers.max()) + 1, replicates.shape[1], seed, chunk_rows):
        for index, ranking in enumerate(rankings):
            values = compute_auroc(ranking.tally(counts[:, numbers[ranking.order]]))
            replicates[index, first : first + len(counts)] = values
        first += len(counts)


_EMPTY: dict[str, None] = {"estimate": None, "low": None, "high": None}
