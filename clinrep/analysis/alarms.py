"""Section of the report: what an alarm that flags a given share of stays finds and misses.

Shapes: R weightings (bootstrap replicates), N stays, G groups of them with one and the same probability, A alarm rates.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinrep.analysis.bootstrap import compute_interval
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.metrics import Floats, Ranking
from clinrep.analysis.replicates import ModelGroup, estimate_statistic, group_models, replicate_statistic
from clinrep.analysis.safe_cuts import HIDDEN_REASON, find_safe_cuts
from clinrep.analysis.scores import ALL
from clinrep.analysis.study import Section, Study
from clinrep.analysis.suppression import HIDDEN
from clinrep.analysis.tables import PrintedTable, format_score, print_model, print_outcome, to_words
from clinrep.run import show_progress

# name -> printed name, in the order of the rows that `compute_alarms` returns; the last is 1 / PPV
ALARM_METRICS = {
    "sensitivity": "Sensitivity",
    "ppv": "PPV",
    "specificity": "Specificity",
    "number_needed_to_evaluate": "NNE",
}
NUM_COMPUTED = 3

_SCHEMA = {
    "site": pl.String,
    "outcome": pl.String,
    "alarm_rate": pl.Float64,
    "model": pl.String,
    "probe": pl.String,
    "subgroup": pl.String,
    "threshold": pl.Float64,
    "metric": pl.String,
    "estimate": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "reason": pl.String,
}


def build_alarm_section(study: Study) -> Section:
    """Return the table of alarms at the rates of the settings."""
    config = study.config
    groups = show_progress(group_models(study.predicted, config), config, "alarms")
    rows = [row for group in groups for row in _describe_group(group, config)]
    return Section("alarms", "Alarms at fixed rates", tables=[_build_table(rows, study)])


def count_alarms(ranking: Ranking, weights: Floats, rates: Floats) -> tuple[Floats, Floats]:
    """Return true and false alarms, each (A, R), when the share `rates` (A,) of all weight (R, N) is flagged.

    The highest probabilities are flagged first. Of stays with one and the same probability, where the rate is
    reached among them, the share that is still wanted counts: what is expected when they are flagged in random
    order. So every model has exactly that rate of alarms, however coarse its probabilities are. The columns of
    `weights` are in the ranking's order.
    """
    edges: NDArray[np.intp] = np.r_[ranking.starts, ranking.order.size]  # (G + 1,)
    flagged = _sum_from_start(weights)
    flagged = flagged if edges.size == flagged.shape[1] else flagged[:, edges]
    with_event = np.flatnonzero(ranking.labels)
    events = _sum_from_start(np.take(weights, with_event, axis=1))
    num_events = np.atleast_1d(np.searchsorted(with_event, edges))  # (G + 1,) stays with the event above each group
    wanted = rates[:, None] * flagged[:, -1]
    # all rows in one search: shifted so that they follow each other
    rows = np.arange(len(weights))
    shifts = rows * (flagged.max() + 1)
    flagged += shifts[:, None]
    found = np.searchsorted(flagged.ravel(), (wanted + shifts).ravel(), side="right")
    # (A, R) the group that the rate cuts
    cut: NDArray[np.intp] = np.clip(found.reshape(wanted.shape) - rows * edges.size - 1, 0, edges.size - 2)
    above, weight = flagged[rows, cut] - shifts, flagged[rows, cut + 1] - flagged[rows, cut]
    share = np.clip(np.divide(wanted - above, weight, out=np.zeros_like(weight), where=weight > 1e-9), 0, 1)
    true_above = events[rows, num_events[cut]]
    true_alarms = true_above + share * (events[rows, num_events[cut + 1]] - true_above)
    return true_alarms, wanted - true_alarms


def _sum_from_start(weights: Floats) -> Floats:
    """Return (R, N + 1) the sums of the first 0, 1, ... N columns."""
    sums = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def compute_alarms(ranking: Ranking, weights: Floats, rates: Floats) -> Floats:
    """Return (3 A, R): sensitivity, positive predictive value, specificity at the first rate, then at the next.

    NaN where a weighting has no stay with the event, or none without.
    """
    true_alarms, false_alarms = count_alarms(ranking, weights, rates)
    total = weights.sum(axis=1)
    num_events = np.take(weights, np.flatnonzero(ranking.labels), axis=1).sum(axis=1)
    num_others = total - num_events
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.stack(
            [true_alarms / num_events, true_alarms / (rates[:, None] * total), 1 - false_alarms / num_others], axis=1
        )
    values[..., (num_events <= 0) | (num_others <= 0)] = np.nan
    return values.reshape(-1, values.shape[-1])


def find_threshold(ranking: Ranking, rate: float) -> float:
    """Return the probability at which the rate is reached: all above it are flagged, of those at it some or all."""
    last = _count_flagged(rate, ranking.order.size) - 1
    return float(ranking.probabilities[np.searchsorted(ranking.starts, last, side="right") - 1])


def _count_flagged(rate: float, num_stays: int) -> int:
    """Return how many stays are flagged, one of them perhaps in part."""
    return max(1, int(np.ceil(rate * num_stays - 1e-9)))  # 1e-9: 0.07 x 100 is 7 and not 8


def _describe_group(group: ModelGroup, config: AnalyzeConfig) -> list[dict[str, Any]]:
    """Return rows of `_SCHEMA`: every metric at every rate of every model, one rate of a model without numbers."""
    rates = np.array(sorted(config.alarm_rates))
    compute = partial(compute_alarms, rates=rates)
    estimates = estimate_statistic(group, compute)
    replicates = replicate_statistic(group, compute, config)
    is_shown = [_find_shown(group, index, rates, config) for index in range(len(group.items))]
    rows = []
    for at, rate in enumerate(rates.tolist()):
        for index, item in enumerate(group.items):
            common: dict[str, Any] = dict.fromkeys(_SCHEMA) | {"site": group.site, "outcome": group.outcome}
            common |= {"model": item.model, "probe": item.probe, "subgroup": ALL, "reason": group.explain(index)}
            ranking = group.rankings[index]
            if ranking is None:
                rows += [common | {"metric": metric} for metric in ALARM_METRICS if at == 0]
                continue
            common |= {"alarm_rate": rate, "reason": None}
            if rate * group.num_subjects < 1:
                common["reason"] = "less than one alarm"
            elif not is_shown[index][at]:
                common["reason"] = HIDDEN_REASON.format(least=config.min_cell_count)
            if common["reason"]:
                rows += [common | {"metric": metric} for metric in ALARM_METRICS]
                continue
            common["threshold"] = find_threshold(ranking, rate)
            chosen = slice(NUM_COMPUTED * at, NUM_COMPUTED * (at + 1))
            reason = group.no_interval or _explain_no_interval(
                rate * group.num_subjects, estimates[index, chosen], config
            )
            drawn = None if replicates is None or reason else replicates[index, chosen]
            rows += [common | row for row in _summarize(estimates[index, chosen], drawn, reason, config)]
    return rows


def _find_shown(group: ModelGroup, index: int, rates: Floats, config: AnalyzeConfig) -> NDArray[np.bool_]:
    """Return (A,) at which rates the numbers of a model show no small cell."""
    ranking = group.rankings[index]
    if ranking is None:
        return np.ones(rates.size, bool)
    num_flagged = [_count_flagged(rate, group.num_subjects) for rate in rates]
    return find_safe_cuts(ranking, group.patients, num_flagged, config.min_cell_count)


def _explain_no_interval(num_alarms: float, estimates: Floats, config: AnalyzeConfig) -> str:
    """Return why replicates cannot say how sure the numbers are, or ''."""
    if num_alarms < config.min_events_for_interval:
        return "too few alarms"
    sensitivity, _, specificity = estimates
    lacking = {
        "no alarm with the event": sensitivity < 1e-12,
        "no event without an alarm": sensitivity > 1 - 1e-12,
        "no alarm without the event": specificity > 1 - 1e-12,
        "an alarm for every stay without the event": specificity < 1e-12,
    }
    # a replicate cannot draw what the sample lacks: the interval would be a point
    return next((words for words, is_so in lacking.items() if is_so), "")


def _summarize(estimates: Floats, drawn: Floats | None, reason: str, config: AnalyzeConfig) -> list[dict[str, Any]]:
    """Return metric, estimate, low, high and reason of the metrics of one model at one rate."""
    values: dict[str, tuple[float | None, float | None, float | None]] = {}
    for position, metric in enumerate(list(ALARM_METRICS)[:NUM_COMPUTED]):
        interval = None if drawn is None else compute_interval(drawn[position], config.confidence_level)
        values[metric] = (float(estimates[position]), *(interval or (None, None)))
    values["number_needed_to_evaluate"] = _invert(values["ppv"])
    reason = reason or "too few patients with the event to resample"
    return [
        {"metric": metric, "estimate": estimate, "low": low, "high": high, "reason": reason if low is None else None}
        for metric, (estimate, low, high) in values.items()
    ]


def _invert(ppv: tuple[float | None, float | None, float | None]) -> tuple[float | None, float | None, float | None]:
    """Return the number needed to evaluate, 1 / PPV, infinite for 0; the ends of the interval change places."""
    estimate, low, high = (None if value is None else 1 / value if value > 0 else np.inf for value in ppv)
    return estimate, high, low


def _build_table(rows: list[dict[str, Any]], study: Study) -> PrintedTable:
    config = study.config
    numbers = study.people.round_hidden(pl.DataFrame(rows, schema=_SCHEMA, orient="row"))
    keys = ["site", "outcome", "alarm_rate", "model", "probe", "threshold"]
    printed = numbers.select(
        *keys,
        "metric",
        cell=pl.struct("metric", "estimate", "low", "high", "reason").map_elements(_format_cell, pl.String),
    ).pivot("metric", index=keys, values="cell", maintain_order=True)
    printed = printed.with_columns(
        outcome=print_outcome(config),
        alarm_rate=pl.col("alarm_rate").map_elements(_format_rate, pl.String),
        model=print_model(),
        threshold=pl.col("threshold").map_elements(lambda value: f"{value:.3f}", pl.String),
    )
    headings = {"outcome": "Outcome", "alarm_rate": "Alarms", "model": "Model", "threshold": "Threshold"}
    headings |= {name: f"{label} ({config.level_ci})" for name, label in ALARM_METRICS.items()}
    words, num_keys = to_words(printed, headings)
    caption = (
        f"Alarms that flag a fixed share of the labelled stays of the test split, those of highest predicted "
        f"probability, with {config.level} percentile intervals of {config.num_bootstraps:,} "
        f"bootstrap replicates resampled by patient, in each of which the threshold is set anew for that share. "
        f"Threshold: the probability of the last stay flagged; where stays tie at it, the part of them that is needed "
        f"counts, as expected when ties are broken at random. It is set on the test stays themselves: before there are "
        f"any, only the rate can be chosen. PPV: positive predictive value. NNE: number needed to evaluate, 1 / PPV, "
        f"the stays flagged for each with the event."
    )
    return PrintedTable("alarms", "Alarms at fixed rates", caption, numbers, words, num_keys + 2)


def _format_cell(row: dict[str, Any]) -> str:
    if row["estimate"] is None and str(row["reason"]).startswith("hidden"):
        return HIDDEN
    if row["metric"] != "number_needed_to_evaluate" or row["estimate"] is None:
        return format_score(row)
    words = {name: _format_needed(row[name]) for name in ("estimate", "low", "high") if row[name] is not None}
    if row["low"] is None:
        return f"{words['estimate']}, no interval: {row['reason']}"
    return f"{words['estimate']} ({words['low']}\N{EN DASH}{words['high']})"


def _format_rate(rate: float) -> str:
    return f"{100 * rate:g}\N{NO-BREAK SPACE}%"


def _format_needed(value: float) -> str:
    return f"{value:.1f}" if np.isfinite(value) else "\N{INFINITY}"
