"""The score table: every metric of every model with its interval, or the reason why there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinrep.analysis.bootstrap import bootstrap_metrics, compute_interval
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import Site
from clinrep.analysis.metrics import METRICS, rank
from clinrep.analysis.null_ece import draw_null_ece
from clinrep.analysis.probes import Predicted
from clinrep.analysis.subgroups import assign_subgroups
from clinrep.analysis.suppression import MIN_CELL_COUNT, format_small
from clinrep.distributed import derive_seed
from clinrep.run import show_progress

ALL = "all"  # the subgroup of every stay

_SCHEMA = {
    "site": pl.String,
    "model": pl.String,
    "probe": pl.String,
    "outcome": pl.String,
    "subgroup": pl.String,
    "metric": pl.String,
    "estimate": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "num_subjects": pl.UInt64,
    "num_events": pl.UInt64,
    "reason": pl.String,
}


def score_predictions(
    predicted: list[Predicted], sites: list[Site], anomalies: pl.DataFrame, config: AnalyzeConfig
) -> pl.DataFrame:
    """Return table `scores` and a column `reason` (str or null: why estimate or interval is null).

    The order is that of `predicted`; of each site and outcome all stays first, then the subgroups.
    """
    subgroups = assign_subgroups(sites, anomalies, config)
    tasks: list[tuple[str, list[Predicted]]] = []
    for items in group_predicted(predicted):
        tasks.append((ALL, items))
        groups = subgroups[items[0].site].group_by("attribute", "subgroup", maintain_order=True)
        tasks += [(str(name), select_stays(items, rows["subject_id"])) for (_, name), rows in groups]
    rows = []
    for subgroup, items in show_progress(tasks, config, "bootstrap"):
        where = f"bootstrap/{items[0].site}/{items[0].outcome}"
        seed = derive_seed(config.seed, where if subgroup == ALL else f"{where}/{subgroup}")
        if subgroup == ALL or items[0].labels.size:
            rows += [row | {"subgroup": subgroup} for row in score_group(items, seed, config)]
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def group_predicted(predicted: list[Predicted]) -> list[list[Predicted]]:
    """Return the predictions of each site and outcome together, in order of first appearance."""
    groups: dict[tuple[str, str], list[Predicted]] = {}
    for item in predicted:
        groups.setdefault((item.site, item.outcome), []).append(item)
    return list(groups.values())


def select_stays(items: list[Predicted], subject_ids: pl.Series) -> list[Predicted]:
    """Return the predictions of those labelled test stays that are among `subject_ids`."""
    is_in = items[0].subject_ids.is_in(subject_ids.implode()).to_numpy()
    patients = np.unique(items[0].patients[is_in], return_inverse=True)[1]
    return [
        replace(
            item,
            subject_ids=item.subject_ids.filter(pl.Series(is_in)),
            labels=item.labels[is_in],
            patients=patients,
            probabilities=None if item.probabilities is None else item.probabilities[is_in],
        )
        for item in items
    ]


def explain_too_few(num_subjects: int, num_events: int, least: int, min_cell_count: int = MIN_CELL_COUNT) -> str:
    """Return why there are too few stays with or without the event, or '' where there are enough.

    How few is not said but with `min_cell_count` 0, only below what: a count here may be one that tables hide, being
    of few patients or telling of few.
    """
    for words, count in (("too few events", num_events), ("too few non-events", num_subjects - num_events)):
        if count < least:
            return f"{words} ({_tell_below(count, least, min_cell_count)})"
    return ""


def _tell_below(count: int, least: int, min_cell_count: int) -> str:
    return format_small(count, max(least, min_cell_count) if min_cell_count else 0)


def explain_no_interval(
    labels: NDArray[np.bool_], patients: NDArray[np.intp], least: int, min_cell_count: int = MIN_CELL_COUNT
) -> str:
    """Return why the bootstrap has too little to draw from, or '': `least` stays, and as many patients, of either kind.

    Patients are what is drawn: many events of a few of them would give a narrow interval that means nothing.
    """
    reason = explain_too_few(labels.size, int(labels.sum()), least, min_cell_count)
    for words, is_kind in (("with the event", labels), ("without the event", ~labels)):
        num_patients = np.unique(patients[is_kind]).size
        if not reason and num_patients < least:
            reason = f"too few patients {words} ({_tell_below(num_patients, least, min_cell_count)})"
    return reason


def score_group(items: list[Predicted], seed: int, config: AnalyzeConfig) -> list[dict[str, Any]]:
    """Return the rows, without subgroup, of all models on the same stays, on the same bootstrap replicates."""
    labels, patients = items[0].labels, items[0].patients
    counts = {"num_subjects": labels.size, "num_events": int(labels.sum())}
    no_estimate = explain_too_few(
        labels.size, counts["num_events"], config.min_events_for_estimate, config.min_cell_count
    )
    no_interval = explain_no_interval(labels, patients, config.min_events_for_interval, config.min_cell_count)
    rankings = {
        index: rank(labels, item.probabilities, config.num_calibration_bins)
        for index, item in enumerate(items)
        if item.probabilities is not None and not no_estimate
    }
    replicates, noises = {}, {}
    if rankings and not no_interval:
        values = bootstrap_metrics(list(rankings.values()), patients, config.num_bootstraps, seed)
        replicates = dict(zip(rankings, values, strict=True))
        for index, ranking in rankings.items():
            noises[index] = float(np.quantile(draw_null_ece(ranking, patients, seed), config.confidence_level))
    rows = []
    for index, item in enumerate(items):
        common: dict[str, Any] = {"site": item.site, "model": item.model, "probe": item.probe, "outcome": item.outcome}
        tally = rankings[index].tally(np.ones((1, labels.size))) if index in rankings else None
        for position, (name, metric) in enumerate(METRICS.items()):
            row = common | counts | {"metric": name, "estimate": None, "low": None, "high": None}
            row["reason"] = no_estimate or item.reason or None
            if tally is not None:
                estimate = float(metric.compute(tally)[0])
                drawn = replicates[index][position] if index in replicates else None
                noise = noises.get(index) if metric.is_reflected else None
                row |= _judge(estimate, drawn, noise, no_interval, config)
            rows.append(row)
    return rows


def _judge(
    estimate: float,
    replicates: NDArray[np.float64] | None,
    noise: float | None,
    no_interval: str,
    config: AnalyzeConfig,
) -> dict[str, Any]:
    """Return estimate, low, high and reason of one metric; `noise` is None but for a basic interval."""
    if not np.isfinite(estimate):
        return {"estimate": None, "reason": "not defined: the probabilities are all alike or separate the classes"}
    if replicates is None:
        return {"estimate": estimate, "reason": no_interval or None}
    if noise is None:
        interval = compute_interval(replicates, config.confidence_level)
    else:
        interval = compute_interval(replicates, config.confidence_level, estimate, noise)
    low, high = interval or (None, None)
    reason = None if interval else "too few patients with the event to resample"
    return {"estimate": estimate, "low": low, "high": high, "reason": reason}
