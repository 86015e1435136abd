"""Differences between models on the same stays, and of one model between sites, with intervals and p-values."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from clinrep.analysis.bootstrap import compute_interval
from clinrep.analysis.classifier_runs import CLASSIFIER
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.delong import compute_auroc_covariance
from clinrep.analysis.metrics import METRICS, Floats, Ranking
from clinrep.analysis.probes import NO_PROBE, Predicted
from clinrep.analysis.replicates import ModelGroup, estimate_statistic, replicate_statistic
from clinrep.analysis.significance import adjust_holm, compute_bootstrap_p, compute_normal_p
from clinrep.config import lookup

COMPARED = ("auroc", "auprc", "brier")
AUROC = COMPARED.index("auroc")
DELONG, BOOTSTRAP = "DeLong", "bootstrap"

_RESULT = {
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "test": pl.String,
    "p": pl.Float64,
    "reason": pl.String,
}
MODEL_SCHEMA = {
    "site": pl.String,
    "outcome": pl.String,
    "metric": pl.String,
    "model": pl.String,
    "probe": pl.String,
    "reference_model": pl.String,
    "reference_probe": pl.String,
    "is_printed": pl.Boolean,
    **_RESULT,
}
SITE_SCHEMA = {
    "site": pl.String,
    "reference_site": pl.String,
    "outcome": pl.String,
    "metric": pl.String,
    "model": pl.String,
    "probe": pl.String,
    **_RESULT,
}


def name_model(model: str, probe: str) -> str:
    """Return the name that `comparison_reference` takes, for example `logistic_regression on backbone layer 4 mean`."""
    return model if probe == NO_PROBE else f"{probe} on {model}"


def check_reference(predicted: list[Predicted], config: AnalyzeConfig) -> None:
    """Refuse a `comparison_reference` that is no model of any site and outcome; InputError lists the known."""
    if config.comparison_reference is not None:
        known = {name_model(item.model, item.probe): item for item in predicted}
        lookup(known, config.comparison_reference, "model (comparison_reference)")


def choose_reference(items: list[Predicted], config: AnalyzeConfig) -> int | None:
    """Return which model of one site and outcome the others are compared with; None where the named one is not there.

    Without a name: the first fine-tuned classifier (of the main runs, and without URT, where there are such), else the
    first probe, else the first model; one without probabilities only where all are.
    """
    if config.comparison_reference is not None:
        names = [name_model(item.model, item.probe) for item in items]
        return names.index(config.comparison_reference) if config.comparison_reference in names else None

    def order(index: int) -> tuple[bool, ...]:
        item, run = items[index], items[index].run
        is_classifier = item.probe == NO_PROBE and item.model.startswith(CLASSIFIER)
        is_second = run is not None and (not run.is_main or run.is_urt)
        return item.probabilities is None, not is_classifier, is_second, item.probe == NO_PROBE

    return min(range(len(items)), key=order)


def compute_compared(ranking: Ranking, weights: Floats) -> Floats:
    """Return (K, R) the compared metrics under weights (R, N), in the order of `COMPARED`."""
    tally = ranking.tally(weights)
    return np.stack([METRICS[name].compute(tally) for name in COMPARED])


@dataclass(frozen=True)
class Evaluated:
    """The compared metrics of the models of one group."""

    group: ModelGroup
    estimates: Floats
    """(M, K)"""
    replicates: Floats | None
    """(M, K, R); None where there are too few events for intervals."""
    covariance: Floats
    """(M, M) of the AUROCs; NaN for a model without numbers."""


def evaluate_group(group: ModelGroup, config: AnalyzeConfig) -> Evaluated:
    """Compute what the comparisons of a group need, once."""
    covariance = np.full((len(group.items), len(group.items)), np.nan)
    ranked = [index for index, ranking in enumerate(group.rankings) if ranking is not None]
    if ranked:
        rankings = [ranking for ranking in group.rankings if ranking is not None]
        covariance[np.ix_(ranked, ranked)] = compute_auroc_covariance(rankings, group.labels, group.patients)[1]
    estimates = estimate_statistic(group, compute_compared)
    return Evaluated(group, estimates, replicate_statistic(group, compute_compared, config), covariance)


def compare_models(evaluated: Evaluated, config: AnalyzeConfig) -> list[dict[str, Any]]:
    """Return rows of `MODEL_SCHEMA`: each metric of each pair of models of a group, those with the reference first.

    A difference is model minus reference; of two models neither of which is the reference, later minus earlier.
    """
    group, covariance = evaluated.group, evaluated.covariance
    reference = choose_reference(group.items, config)
    numbers = range(len(group.items))
    pairs = [(index, reference) for index in numbers if reference is not None and index != reference]
    pairs += [
        (later, earlier) for earlier, later in itertools.combinations(numbers, 2) if reference not in (earlier, later)
    ]
    rows = []
    for (position, metric), (one, other) in itertools.product(enumerate(COMPARED), pairs):
        variance = covariance[one, one] + covariance[other, other] - 2 * covariance[one, other]
        reason = group.explain(one) or group.explain(other) or group.no_interval
        sides = (evaluated, one), (evaluated, other)
        item, against = group.items[one], group.items[other]
        rows.append(
            {
                "site": group.site,
                "outcome": group.outcome,
                "metric": metric,
                "model": item.model,
                "probe": item.probe,
                "reference_model": against.model,
                "reference_probe": against.probe,
                "is_printed": other == reference,
                **_subtract(*sides, position, variance, reason, config),
            }
        )
    return rows


def _is_one_model(
    sides: tuple[Evaluated, Evaluated], indices: list[dict[tuple[str, str], int]], model: tuple[str, str]
) -> bool:
    """Return whether a name is of one model at both sites: classifiers that learned at each are two."""
    runs = [side.group.items[index[model]].run for side, index in zip(sides, indices, strict=True)]
    return any(run is None or run.is_applied for run in runs)


def compare_sites(one: Evaluated, other: Evaluated, config: AnalyzeConfig) -> list[dict[str, Any]]:
    """Return rows of `SITE_SCHEMA`: each metric of each model that both groups have, `one` minus `other`.

    The patients are others, so the replicates of the two sites are drawn independently and variances add.
    """
    sides = (one, other)
    indices = [{(item.model, item.probe): at for at, item in enumerate(side.group.items)} for side in sides]
    shared = [model for model in indices[0] if model in indices[1] and _is_one_model(sides, indices, model)]
    rows = []
    for (position, metric), model in itertools.product(enumerate(COMPARED), shared):
        at = [index[model] for index in indices]
        located = list(zip(sides, at, strict=True))
        variance = sum(side.covariance[index, index] for side, index in located)
        reasons = [(side.group, side.group.explain(index) or side.group.no_interval) for side, index in located]
        reason = next((f"{group.site}: {reason}" for group, reason in reasons if reason), "")
        rows.append(
            {
                "site": one.group.site,
                "reference_site": other.group.site,
                "outcome": one.group.outcome,
                "metric": metric,
                "model": model[0],
                "probe": model[1],
                **_subtract(located[0], located[1], position, variance, reason, config),
            }
        )
    return rows


def adjust_p(frame: pl.DataFrame, family: list[str], name: str, chosen: pl.Series | None = None) -> pl.DataFrame:
    """Return the frame with column `name`: Holm's adjustment of `p` in each family, of the chosen rows or all."""
    p_values = frame["p"].cast(pl.Float64).fill_null(np.nan).to_numpy().copy()
    if chosen is not None:
        p_values[~chosen.to_numpy()] = np.nan
    adjusted = np.full(p_values.size, np.nan)
    for rows in frame.with_row_index("row").partition_by(family):
        at = rows["row"].to_numpy()
        adjusted[at] = adjust_holm(p_values[at])
    return frame.with_columns(pl.Series(name, adjusted).fill_nan(None))


def _subtract(
    one: tuple[Evaluated, int],
    other: tuple[Evaluated, int],
    position: int,
    variance: float,
    reason: str,
    config: AnalyzeConfig,
) -> dict[str, Any]:
    """Return the columns of `_RESULT` of one metric of two models; AUROCs are tested by their difference's variance."""
    first, second = (side.estimates[index, position] if side.estimates.size else np.nan for side, index in (one, other))
    result: dict[str, Any] = dict.fromkeys(_RESULT)
    result |= {"difference": first - second if np.isfinite(first - second) else None, "reason": reason or None}
    drawn = [None if side.replicates is None else side.replicates[index, position] for side, index in (one, other)]
    if reason or drawn[0] is None or drawn[1] is None:
        return result
    differences = drawn[0] - drawn[1]
    interval = compute_interval(differences, config.confidence_level)
    if interval is None:
        return result | {"reason": "too few patients with the event to resample"}
    result |= {"low": interval[0], "high": interval[1]}
    if position != AUROC:
        return result | {"test": BOOTSTRAP, "p": compute_bootstrap_p(differences)}
    p = compute_normal_p(first - second, variance)
    if np.isnan(p):
        return result | {"reason": "no p-value: the difference has no variance"}
    return result | {"test": DELONG, "p": p}
