"""The numbers of the known-risk report: every model beside the filtered oracle, on the same bootstrap replicates.

Shapes: R replicates, N stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinrep.analysis.bootstrap import (
    CHUNK_WEIGHTS,
    bootstrap_metrics,
    compute_interval,
    draw_patient_counts,
    find_patients_with_event,
)
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.metrics import Floats, compute_auroc, rank
from clinrep.analysis.recalibration import average, compute_logits, recalibrate, regress_risk
from clinrep.distributed import derive_seed
from clinrep.run import show_progress

ORACLE = "filtered oracle"
SCHEMA = {
    "outcome": pl.String,
    "stays": pl.String,
    "model": pl.String,
    "metric": pl.String,
    "estimate": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "num_subjects": pl.UInt64,
    "num_events": pl.UInt64,
}


@dataclass(frozen=True)
class Question:
    """Labelled test stays of one outcome and what each model says of them; one model is `ORACLE`."""

    outcome: str
    stays: str
    """Which stays: all of test, or those with a zero-shot answer."""
    labels: NDArray[np.bool_]
    """(N,)"""
    patients: NDArray[np.intp]
    """(N,) 0..P-1."""
    models: dict[str, Floats]
    """(N,) probabilities by model."""
    num_samples: dict[str, int] = field(default_factory=dict)
    """Of models whose probabilities are shares of random continuations: how many."""

    @property
    def risks(self) -> Floats:
        """The best possible probabilities: what calibration is judged by."""
        return self.models[ORACLE]


def score_questions(questions: list[Question], config: AnalyzeConfig) -> pl.DataFrame:
    """Return one row a question, model and metric, with `SCHEMA`, in their order."""
    frames = []
    for question in show_progress(questions, config, "bootstrap"):
        seed = derive_seed(config.seed, f"bootstrap/{question.outcome}/{question.stays}")
        frames.append(score(question, config.num_bootstraps, config.confidence_level, seed))
    return pl.concat(frames)


def score(question: Question, num_replicates: int, level: float, seed: int) -> pl.DataFrame:
    """Return one row a model and metric, with `SCHEMA`; null is what a model has not, or cannot be told.

    Metrics: auroc; auroc_difference (model minus oracle, paired); slope and intercept of the logistic
    recalibration of labels (none of shares of continuations, which hold 0 and 1); bias (mean probability minus
    risk); mean_absolute_error to the risk; risk_slope (least squares of the risk on the probability, corrected
    for the noise of shares); mean_probability; mean_risk.
    """
    everyone = np.ones((1, question.labels.size))
    estimates = {name: values[:, 0] for name, values in _measure(question, everyone, {}).items()}
    rankings = [rank(question.labels, probabilities) for probabilities in question.models.values()]
    aurocs = [float(compute_auroc(ranking.tally(everyone))[0]) for ranking in rankings]
    replicates = bootstrap_metrics(rankings, question.patients, num_replicates, seed, ["auroc"])[:, 0]
    oracle = list(question.models).index(ORACLE)
    resampled = _resample(question, num_replicates, seed, estimates)
    rows = []
    for number, model in enumerate(question.models):
        found = {"auroc": (aurocs[number], replicates[number])}
        difference = aurocs[number] - aurocs[oracle], replicates[number] - replicates[oracle]
        found["auroc_difference"] = difference
        for index, metric in enumerate(_LOCAL):
            found[metric] = float(estimates[model][index]), resampled[model][index]
        rows += [_make_row(question, model, metric, *values, level) for metric, values in found.items()]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


_LOCAL = (
    *("intercept", "slope", "bias", "mean_absolute_error", "risk_slope"),
    *("mean_probability", "mean_risk"),
)


def _measure(question: Question, weights: NDArray[Any], starts: dict[str, Floats]) -> dict[str, Floats]:
    """Return for each model the metrics of `_LOCAL`, (metrics, R), under weights (R, N)."""
    found = {}
    for model, probabilities in question.models.items():
        num_samples = question.num_samples.get(model)
        pair = np.full((2, len(weights)), np.nan)
        if num_samples is None:
            logits = compute_logits(probabilities)
            pair = np.stack(recalibrate(question.labels, logits, weights, starts.get(model)))
        off = probabilities - question.risks
        rest = [
            average(off, weights),
            average(np.abs(off), weights),
            regress_risk(question.risks, probabilities, weights, num_samples),
            average(probabilities, weights),
            average(question.risks, weights),
        ]
        found[model] = np.concatenate([pair, np.stack(rest)])
    return found


def _resample(
    question: Question, num_replicates: int, seed: int, estimates: dict[str, Floats]
) -> dict[str, NDArray[np.float64]]:
    """Return (metrics, R) by model, on the replicates that `bootstrap_metrics` draws with the same seed."""
    starts = {model: values[:2] for model, values in estimates.items() if np.isfinite(values[:2]).all()}
    chunk_rows = max(1, CHUNK_WEIGHTS // max(question.labels.size, 1))
    has_event = find_patients_with_event(question.labels, question.patients)
    pieces: dict[str, list[Floats]] = {model: [] for model in question.models}
    for counts in draw_patient_counts(has_event, num_replicates, seed, chunk_rows):
        for model, values in _measure(question, counts[:, question.patients], starts).items():
            pieces[model].append(values)
    return {model: np.concatenate(values, axis=1) for model, values in pieces.items()}


def _make_row(
    question: Question, model: str, metric: str, estimate: float, replicates: Floats, level: float
) -> dict[str, Any]:
    interval = compute_interval(replicates, level)
    low, high = interval or (None, None)
    return {
        "outcome": question.outcome,
        "stays": question.stays,
        "model": model,
        "metric": metric,
        "estimate": estimate if np.isfinite(estimate) else None,
        "low": low,
        "high": high,
        "num_subjects": question.labels.size,
        "num_events": int(question.labels.sum()),
    }
