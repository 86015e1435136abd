"""Section of the report: predictions recalibrated on a site's own stays, beside the raw ones.

Fitted on the site's val split (or train, if set so), judged on its test split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from clinrep.analysis.inputs import FIT_SPLIT, Site
from clinrep.analysis.metrics import METRICS, Floats
from clinrep.analysis.performance import (
    FEW_EVENTS,
    describe_ece_interval,
    describe_intervals,
    mark_few_events,
    pivot_scores,
)
from clinrep.analysis.probes import NO_PROBE, Predicted
from clinrep.analysis.recalibration import compute_logits, recalibrate
from clinrep.analysis.scores import explain_too_few, group_predicted, score_group
from clinrep.analysis.study import Section, Study
from clinrep.analysis.tables import PrintedTable, to_words
from clinrep.distributed import derive_seed
from clinrep.run import show_progress

SHOWN = ("auroc", "brier", "ece", "calibration_slope", "calibration_intercept")
RAW = "as predicted"
Map = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Fitted:
    """One way of recalibration of one model at one site; a reason where there is none."""

    apply: Map | None
    reason: str = ""


def fit_platt(labels: NDArray[np.bool_], probabilities: Floats) -> Fitted:
    """Return intercept + slope x logit as a map of probabilities, by maximum likelihood (Platt 1999, on the logit)."""
    everyone = np.ones((1, labels.size))
    intercepts, slopes = recalibrate(labels, compute_logits(probabilities), everyone)
    if not np.isfinite(slopes[0]):
        return Fitted(None, "not fitted: the probabilities are all alike or separate the classes")
    return Fitted(partial(_apply_line, float(intercepts[0]), float(slopes[0])))


def _apply_line(intercept: float, slope: float, probabilities: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-(intercept + slope * compute_logits(probabilities)))))


def fit_isotonic(labels: NDArray[np.bool_], probabilities: Floats) -> Fitted:
    """Return the rising function nearest to the labels (Zadrozny and Elkan, KDD 2002), beyond its range its ends."""
    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(probabilities, labels)
    return Fitted(lambda values: np.asarray(model.predict(values), dtype=np.float64))


# name in the table -> how it is fitted on labels and probabilities
RECALIBRATIONS: dict[str, Callable[[NDArray[np.bool_], Floats], Fitted]] = {
    "Platt": fit_platt,
    "isotonic": fit_isotonic,
}


def predict_split(study: Study, site: Site, item: Predicted, split: str) -> tuple[Floats | None, str]:
    """Return what the model of `item` says of the site's labelled stays of a split, in their order, or why nothing."""
    stays = site.select_labelled(item.outcome, split)
    if split == FIT_SPLIT and item.run is not None and not item.run.is_applied:
        return None, "the classifier learned from these stays"
    if item.representation is None:
        rows = site.predictions.get(item.outcome, {}).get(item.model)
        if rows is None:
            return None, f"no predictions of {split}"
        of_split = rows.filter(pl.col("split") == split).select("subject_id", "probability")
        joined = stays.subject_ids.to_frame().join(of_split, on="subject_id", how="left", maintain_order="left")
        num_missing = joined["probability"].null_count()
        if num_missing == stays.labels.size:
            return None, f"no predictions of {split}"
        if num_missing:
            return None, f"predictions of some labelled stays of {split} are missing"
        return joined["probability"].cast(pl.Float64).to_numpy(), ""
    vectors = site.representations.get(split, {}).get(item.representation)
    wanted = (item.outcome, item.representation, item.probe)
    fitted = next((one for one in study.probes if (one.outcome, one.representation, one.name) == wanted), None)
    if vectors is None or fitted is None or fitted.probe is None:
        return None, item.reason or f"no representations of {split}"
    if split == FIT_SPLIT and site.name == study.config.fitted_site:
        return None, "the probe was fitted on these stays"
    return np.asarray(fitted.probe.predict_proba(vectors.select(stays.subject_ids))[:, 1]), ""


def fit_recalibrations(study: Study, site: Site, item: Predicted) -> dict[str, Fitted]:
    """Return each way of `RECALIBRATIONS` fitted on the site's split of the settings, never on test."""
    split, least = study.config.recalibration_split, study.config.min_events_for_recalibration
    labels = site.select_labelled(item.outcome, split).labels
    reason = explain_too_few(labels.size, int(labels.sum()), least, study.config.min_cell_count)
    probabilities = None
    if reason:
        reason = f"{reason} in {split}"
    else:
        probabilities, reason = predict_split(study, site, item, split)
    if probabilities is None:
        return dict.fromkeys(RECALIBRATIONS, Fitted(None, reason))
    return {name: fit(labels, probabilities) for name, fit in RECALIBRATIONS.items()}


def build_recalibration_section(study: Study) -> Section:
    """Return the scores of raw and recalibrated predictions on the same bootstrap replicates."""
    config = study.config
    deepest = max((item.representation[0] for item in study.predicted if item.representation), default=0)
    drawn = [
        item
        for item in study.predicted
        if (item.representation is None and item.probe == NO_PROBE)  # what baselines say of val is not kept
        or (item.representation is not None and item.representation[0] == deepest)
    ]
    rows = []
    for items in show_progress(group_predicted(drawn), config, "recalibration"):
        rows += _score_recalibrated(study, items)
    title = "Recalibration at each site"
    if not rows:
        return Section("recalibration", title, "There are no predictions.")
    scores = mark_few_events(pl.DataFrame(rows, infer_schema_length=None), study)
    scores = scores.with_columns(pl.col("num_subjects", "num_events").cast(pl.UInt64))
    return Section("recalibration", title, tables=[_build_table(study, scores)])


def _score_recalibrated(study: Study, items: list[Predicted]) -> list[dict[str, Any]]:
    """Return the rows of one site and outcome, with `recalibration`; the replicates are those of the score table."""
    site = next(one for one in study.sites if one.name == items[0].site)
    names, versions = [], []
    for item in items:
        ways = {RAW: Fitted(lambda values: values)} | fit_recalibrations(study, site, item)
        for name, way in ways.items():
            can_apply = way.apply is not None and item.probabilities is not None
            values = way.apply(item.probabilities) if can_apply else None  # type: ignore[misc, arg-type]
            names.append(name)
            versions.append(replace(item, probabilities=values, reason=item.reason or way.reason))
    seed = derive_seed(study.config.seed, f"bootstrap/{site.name}/{items[0].outcome}")
    rows = score_group(versions, seed, study.config)
    labelled = [name for name in names for _ in METRICS]
    return [row | {"recalibration": name} for name, row in zip(labelled, rows, strict=True)]


def _build_table(study: Study, scores: pl.DataFrame) -> PrintedTable:
    config = study.config
    numbers = study.people.hide_scored(scores).select(
        "site", "model", "probe", "outcome", "recalibration", "metric", pl.exclude("site", "model", "probe", "outcome",
        "recalibration", "metric"),
    )  # fmt: skip
    keys = ["site", "outcome", "num_subjects", "num_events", "model", "probe", "recalibration"]
    printed = pivot_scores(numbers.filter(pl.col("metric").is_in(SHOWN)), keys, config)
    headings = {
        "outcome": "Outcome",
        "num_subjects": "Stays",
        "num_events": "Events",
        "model": "Model",
        "recalibration": "Recalibration",
        **{name: f"{METRICS[name].label} ({config.level_ci})" for name in SHOWN},
    }
    words, num_keys = to_words(printed, headings)
    split = {"val": "validation", "train": "train"}[config.recalibration_split]
    caption = (
        f"Predictions as they are, and recalibrated on the {split} split of the site they are judged at: Platt, a "
        "logistic regression on the log-odds, and isotonic regression. Judged on that site's test split, with "
        f"{describe_intervals(config)} {describe_ece_interval(config)} "
        "The same replicates serve all rows of a site and outcome; the recalibration is "
        f"not fitted anew in them. It needs {config.min_events_for_recalibration} stays with the event in that split "
        f"and as many without. Isotonic probabilities of 0 and 1 count as 1e-7 and 1 - 1e-7 for slope and intercept. "
        f"{FEW_EVENTS}: from stays of fewer than {config.few_events} patients with the event, or without."
    )
    return PrintedTable("recalibration", "Recalibration", caption, numbers, words, num_keys + 4)
