"""The score table: every metric of every model with its interval, or the reason why there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from clinrep.analysis.bootstrap import bootstrap_metrics, compute_interval
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.metrics import METRICS, rank
from clinrep.analysis.probes import Predicted
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


def score_predictions(predicted: list[Predicted], config: AnalyzeConfig) -> pl.DataFrame:
    """Return table `scores` and a column `reason` (str or null: why estimate or interval is null).

    The order is that of `predicted`.
    """
    groups: dict[tuple[str, str], list[Predicted]] = {}
    for item in predicted:
        groups.setdefault((item.site, item.outcome), []).append(item)
    rows = []
    for (site, outcome), items in show_progress(groups.items(), config, "bootstrap", total=len(groups)):
        seed = derive_seed(config.seed, f"bootstrap/{site}/{outcome}")
        rows += _score_group(items, seed, config)
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def explain_too_few(num_subjects: int, num_events: int, least: int) -> str:
    """Return why there are too few stays with or without the event, or '' where there are enough."""
    if num_events < least:
        return f"too few events ({num_events})"
    if num_subjects - num_events < least:
        return f"too few non-events ({num_subjects - num_events})"
    return ""


def _score_group(items: list[Predicted], seed: int, config: AnalyzeConfig) -> list[dict[str, Any]]:
    """Return the rows of all models of one site and outcome, on the same bootstrap replicates."""
    labels, patients = items[0].labels, items[0].patients
    num_subjects, num_events = labels.size, int(labels.sum())
    no_estimate = explain_too_few(num_subjects, num_events, config.min_events_for_estimate)
    no_interval = explain_too_few(num_subjects, num_events, config.min_events_for_interval)
    rankings = {
        index: rank(labels, item.probabilities)
        for index, item in enumerate(items)
        if item.probabilities is not None and not no_estimate
    }
    replicates = {}
    if rankings and not no_interval:
        values = bootstrap_metrics(list(rankings.values()), patients, config.num_bootstraps, seed)
        replicates = dict(zip(rankings, values, strict=True))
    rows = []
    for index, item in enumerate(items):
        common: dict[str, Any] = {"site": item.site, "model": item.model, "probe": item.probe, "outcome": item.outcome}
        common |= {"subgroup": ALL, "num_subjects": num_subjects, "num_events": num_events}
        for position, (name, metric) in enumerate(METRICS.items()):
            row = common | {"metric": name, "estimate": None, "low": None, "high": None}
            row["reason"] = no_estimate or item.reason or None
            if index in rankings:
                ranking = rankings[index]
                row["estimate"] = float(metric.compute(ranking.tally(np.ones((1, num_subjects))))[0])
                row["reason"] = no_interval or None
            if index in replicates:
                interval = compute_interval(replicates[index][position], config.confidence_level)
                row["low"], row["high"] = interval or (None, None)
                row["reason"] = None if interval else "too few patients with the event to resample"
            rows.append(row)
    return rows
