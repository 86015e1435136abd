"""Outcome ~ path length + maximum jump + anomaly score: the measures of each stay, joined by id, and the fits.

N stays, K terms: the intercept and the regressors.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinrep import artifacts
from clinrep.analysis.anomalies import select_main
from clinrep.analysis.checks import require_same_subjects, require_unique
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import FIT_SPLIT, TEST_SPLIT, Site
from clinrep.analysis.logits import Logit, estimate_logit, explain_no_fit, fit_logit, predict_logit
from clinrep.analysis.metrics import Floats
from clinrep.analysis.scores import explain_no_interval, explain_too_few
from clinrep.analysis.study import Study, compute_once
from clinrep.run import show_progress

logger = logging.getLogger("clinrep")

REGRESSORS = ("path_length", "max_jump", "anomaly_score")


@dataclass(frozen=True)
class Measured:
    """The labelled stays of one site, outcome and split that have all measures, N in order of subject_id."""

    subject_ids: pl.Series
    labels: NDArray[np.bool_]
    patients: NDArray[np.intp]
    """(N,) number of each stay's patient; not every number need occur."""
    regressors: dict[str, Floats]
    """Name in `REGRESSORS` -> (N,)."""
    num_left_out: int
    """Labelled stays without a jump, whose sequence is one token."""
    left_out_patients: tuple[int, int]
    """Whose stays these are: with the event, and without."""

    def tells_few(self, least: int) -> bool:
        """Return whether the numbers of stays here, beside those of all labelled ones in other tables, tell of few."""
        kept = (np.unique(self.patients[kind]).size for kind in (self.labels, ~self.labels))
        has_few_kept = any(self.left_out_patients) and any(count < least for count in kept)
        return has_few_kept or any(0 < count < least for count in self.left_out_patients)

    def take(self, rows: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], dict[str, Floats]]:
        """Return labels and regressors of some stays."""
        return self.labels[rows], {name: values[rows] for name, values in self.regressors.items()}


def read_measures(site: Site, study: Study) -> pl.DataFrame | None:
    """Return subject_id, split and the columns of `REGRESSORS` of each stay; None where stage 03 wrote none.

    The test split, and the train split where its trajectories and anomaly scores are there.

    Raises:
        InputError: a split has trajectories of some of its stays but not of all, or of others.
    """
    directory = Path(study.config.representations_dir[site.name])
    if not artifacts.find_parts("trajectories", directory):
        return None
    where = f"{directory}/trajectories.parquet"
    table = artifacts.read_table("trajectories", directory).select("subject_id", "split", "path_length", "max_jump")
    require_unique(table, ["subject_id"], where)
    scores = select_main(study.anomalies, study.config).filter(pl.col("site") == site.name)
    measures = []
    for split in (TEST_SPLIT, FIT_SPLIT):
        rows = table.filter(pl.col("split") == split).drop("split")
        scored = scores.filter(pl.col("split") == split).select("subject_id", anomaly_score="score")
        if split != TEST_SPLIT and not (rows.height and scored.height):
            continue
        expected = site.stays.filter(pl.col("split") == split)["subject_id"]
        whose = f"the {split} split of the timelines"
        require_same_subjects(rows["subject_id"], expected, f"{where}, split {split}", whose)
        require_same_subjects(scored["subject_id"], expected, f"anomaly scores of {site.name}, split {split}", whose)
        joined = rows.join(scored, on="subject_id").sort("subject_id")
        measures.append(joined.with_columns(pl.col("max_jump").cast(pl.Float64), split=pl.lit(split)))
    return pl.concat(measures)


def select_measured(site: Site, measures: pl.DataFrame, outcome: str, split: str) -> Measured:
    """Return the labelled stays of a split with their measures."""
    stays = site.select_labelled(outcome, split)
    rows = stays.subject_ids.to_frame().join(
        measures.filter(pl.col("split") == split), on="subject_id", how="left", maintain_order="left"
    )
    is_whole = rows.select(pl.all_horizontal(pl.col(REGRESSORS).is_not_null())).to_series().to_numpy()
    without, labels = stays.patients[~is_whole], stays.labels[~is_whole]
    return Measured(
        stays.subject_ids.filter(pl.Series(is_whole)),
        stays.labels[is_whole],
        stays.patients[is_whole],
        {name: rows[name].to_numpy()[is_whole].astype(np.float64) for name in REGRESSORS},
        int((~is_whole).sum()),
        (np.unique(without[labels]).size, np.unique(without[~labels]).size),
    )


def explain_unfit(stays: Measured, config: AnalyzeConfig) -> str:
    """Return why no regression is fitted to these stays, or ''; none is to events of too few patients."""
    labels, least = stays.labels, config.min_cell_count
    too_few = explain_too_few(labels.size, int(labels.sum()), max(config.trajectories.min_events, least), least)
    too_few = too_few or explain_no_interval(labels, stays.patients, least, least)
    return f"no fit: {too_few}" if too_few else explain_no_fit(labels, stays.regressors)


@dataclass(frozen=True)
class Regression:
    """The regression of one site and outcome on its test stays."""

    site: Site
    outcome: str
    test: Measured
    reason: str
    """Why there is no fit; '' where there is."""
    logit: Logit | None

    def has_hidden(self, study: Study) -> bool:
        """Return whether some of its numbers of people, and so all that tells them, must not be shown."""
        is_hidden = study.people.hides_labelled(self.site.name, self.outcome)
        return is_hidden or self.test.tells_few(study.config.min_cell_count)


@compute_once
def read_all_measures(study: Study) -> dict[str, pl.DataFrame | None]:
    """Return what `read_measures` does of each site."""
    return {site.name: read_measures(site, study) for site in study.sites}


@compute_once
def fit_regressions(study: Study) -> list[Regression]:
    """Fit every outcome of every site that has trajectories."""
    measured = [(site, of_site) for site in study.sites if (of_site := read_all_measures(study)[site.name]) is not None]
    tasks = [(site, of_site, outcome) for site, of_site in measured for outcome in study.outcomes]
    fitted = []
    for site, of_site, outcome in show_progress(tasks, study.config, "trajectories"):
        test, logit = select_measured(site, of_site, outcome, TEST_SPLIT), None
        reason = explain_unfit(test, study.config)
        if not reason:
            level = study.config.confidence_level
            logit = fit_logit(test.labels, test.regressors, test.patients, level, outcome)
        fitted.append(Regression(site, outcome, test, reason, logit))
    return fitted


def predict_from_train(train: Measured, test: Measured, config: AnalyzeConfig) -> tuple[Floats | None, str]:
    """Return (N,) probabilities of the test stays by the fit on the train stays, or None and why there is none."""
    reason = explain_unfit(train, config)
    if reason:
        return None, f"{reason} in train"
    return predict_logit(estimate_logit(train.labels, train.regressors), test.regressors), ""


def deal_folds(labels: NDArray[np.bool_], patients: NDArray[np.intp], num_folds: int, seed: int) -> NDArray[np.intp]:
    """Return (N,) the fold of each stay: all stays of a patient in one, patients with an event dealt evenly."""
    names, numbers = np.unique(patients, return_inverse=True)
    has_event = np.bincount(numbers, weights=labels, minlength=names.size) > 0
    order = np.random.default_rng(seed).permutation(names.size)
    order = order[np.argsort(~has_event[order], kind="stable")]
    folds = np.empty(names.size, dtype=np.intp)
    folds[order] = np.arange(names.size) % num_folds
    return folds[numbers]


def predict_across_folds(test: Measured, num_folds: int, seed: int) -> tuple[Floats | None, str]:
    """Return (N,) probabilities, each by a fit on the folds its patient is not in, or None and why there are none."""
    folds = deal_folds(test.labels, test.patients, num_folds, seed)
    probabilities = np.empty(test.labels.size)
    for fold in range(num_folds):
        is_held = folds == fold
        labels, regressors = test.take(~is_held)
        reason = explain_too_few(labels.size, int(labels.sum()), 1) or explain_no_fit(labels, regressors)
        if reason:
            return None, f"{reason} (without fold {fold + 1} of {num_folds})"
        _, held = test.take(is_held)
        probabilities[is_held] = predict_logit(estimate_logit(labels, regressors), held)
    return probabilities, ""
