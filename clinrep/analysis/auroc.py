"""The AUROC of several models on the same stays, with intervals: for tables that need no other metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinrep.analysis.bootstrap import bootstrap_metrics, compute_interval
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.metrics import Floats, compute_auroc, rank
from clinrep.analysis.scores import explain_no_interval, explain_too_few


def score_auroc(
    labels: NDArray[np.bool_],
    patients: NDArray[np.intp],
    probabilities: Mapping[Any, Floats],
    config: AnalyzeConfig,
    seed: int,
) -> list[dict[str, Any]]:
    """Return for each model `estimate`, `low`, `high`, `num_subjects`, `num_events`, and `reason` for what is null.

    And `num_patients` and `num_event_patients`, whose stays these are.

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
    counts |= {"num_patients": np.unique(patients).size, "num_event_patients": np.unique(patients[labels]).size}
    reason = explain_too_few(num_subjects, num_events, config.min_events_for_estimate, config.min_cell_count)
    if reason or not probabilities:
        return [{"model": model, **_EMPTY, **counts, "reason": reason} for model in probabilities]
    is_few = bool(explain_no_interval(labels, patients, config.min_cell_count))
    rankings = [rank(labels, values) for values in probabilities.values()]
    reason = explain_no_interval(labels, patients, config.min_events_for_interval, config.min_cell_count)
    replicates = np.full((len(rankings), config.num_bootstraps), np.nan)
    if not reason:
        numbers = np.unique(patients, return_inverse=True)[1]
        replicates = bootstrap_metrics(rankings, numbers, config.num_bootstraps, seed, ["auroc"])[:, 0]
    rows = []
    for model, ranking, values in zip(probabilities, rankings, replicates, strict=True):
        estimate = float(compute_auroc(ranking.tally(np.ones((1, num_subjects))))[0])
        interval = None if reason else compute_interval(values, config.confidence_level)
        low, high = interval or (None, None)
        if is_few:  # more digits would tell how many
            estimate = round(estimate, 3)
            low, high = (None if value is None else round(value, 3) for value in (low, high))
        words = reason or (None if interval else "too few patients with the event to resample")
        rows.append({"model": model, "estimate": estimate, "low": low, "high": high, **counts, "reason": words})
    return rows


_EMPTY: dict[str, None] = {"estimate": None, "low": None, "high": None}
