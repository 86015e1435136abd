"""Probes on representations, and predictions of probes and classifiers in one form."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from clinrep.analysis.classifier_runs import ClassifierRun
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import FIT_SPLIT, TEST_SPLIT, Representation, Site, describe_representation
from clinrep.analysis.predictions import ZERO_SHOT
from clinrep.config import lookup
from clinrep.distributed import derive_seed
from clinrep.run import show_progress

logger = logging.getLogger("clinrep")

NO_PROBE = "none"


@dataclass(frozen=True)
class Predicted:
    """What one model says of the N labelled test stays of one site and outcome, in order of subject_id."""

    site: str
    model: str
    probe: str
    outcome: str
    subject_ids: pl.Series
    """(N,)"""
    labels: NDArray[np.bool_]
    patients: NDArray[np.intp]
    """(N,) 0..P-1, one number a patient."""
    probabilities: NDArray[np.float64] | None
    """(N,) of the event; None where the probe could not be fitted."""
    reason: str = ""
    """Why there are no probabilities."""
    representation: Representation | None = None
    """What the probe reads; None for a classifier."""
    run: ClassifierRun | None = None
    """What the classifier learned from; None for a probe and zero-shot."""


@dataclass(frozen=True)
class FittedProbe:
    """One probe fitted on the train split of the fitted site."""

    outcome: str
    representation: Representation
    name: str
    """Name in `PROBES`."""
    probe: Any
    """Fitted scikit-learn classifier; None where it could not be fitted."""
    reason: str
    """Why it could not."""


def build_logistic_regression(config: AnalyzeConfig, seed: int) -> Pipeline:
    """Return the probe of the manuscript (sections 4.3, Table 3): standardized, L2, Newton steps."""
    settings = config.logistic_regression
    return make_pipeline(
        StandardScaler(),
        LogisticRegression(
            C=settings.c, max_iter=settings.max_iterations, solver="newton-cholesky", tol=1e-6, random_state=seed
        ),
    )


# name -> a function of settings and seed that returns an unfitted scikit-learn classifier
PROBES: dict[str, Callable[[AnalyzeConfig, int], Any]] = {
    "logistic_regression": build_logistic_regression,
}


def predict_test(sites: list[Site], outcomes: list[str], probes: list[FittedProbe]) -> list[Predicted]:
    """Return the classifiers' and the probes' predictions, by site, then outcome, classifiers first."""
    order = [(site.name, outcome) for site in sites for outcome in outcomes]
    predicted = _collect_predictions(sites, outcomes)
    predicted += [_apply(probe, site) for probe in probes for site in sites]
    return sorted(predicted, key=lambda item: order.index((item.site, item.outcome)))


def _collect_predictions(sites: list[Site], outcomes: list[str]) -> list[Predicted]:
    """Return the fine-tuned classifiers' and zero-shot predictions on test, where there are some."""
    collected = []
    for site, outcome in itertools.product(sites, outcomes):
        if not site.predictions.get(outcome, {}).keys() - {ZERO_SHOT}:
            logger.info("%s: no fine-tuned predictions of %s", site.name, outcome)
        stays = site.select_labelled(outcome, TEST_SPLIT)
        for model, predictions in site.predictions.get(outcome, {}).items():
            rows = stays.subject_ids.to_frame().join(
                predictions.select("subject_id", pl.col("probability").cast(pl.Float64)),
                on="subject_id",
                how="left",
                maintain_order="left",
            )
            probabilities = rows["probability"].to_numpy()
            collected.append(
                Predicted(
                    *(site.name, model, NO_PROBE, outcome),
                    *(stays.subject_ids, stays.labels, stays.patients, probabilities),
                    run=site.classifier_runs.get(outcome, {}).get(model),
                )
            )
    return collected


def fit_probes(sites: list[Site], outcomes: list[str], config: AnalyzeConfig) -> list[FittedProbe]:
    """Fit every probe on the fitted site's train split, by outcome, then representation.

    Raises:
        InputError: an unknown probe.
    """
    builders = {name: lookup(PROBES, name, "probe") for name in config.probes}
    fitted_site = next(site for site in sites if site.name == config.fitted_site)
    representations = fitted_site.representations[FIT_SPLIT]
    tasks = list(itertools.product(outcomes, representations, builders))
    probes = []
    for outcome, key, name in show_progress(tasks, config, "probes"):
        seed = derive_seed(config.seed, f"probe/{name}/{outcome}/{key}")
        probe, reason = _fit(builders[name](config, seed), fitted_site, outcome, key)
        if reason:
            logger.warning(
                "%s on %s for %s: %s", name, describe_representation(fitted_site.source, key), outcome, reason
            )
        probes.append(FittedProbe(outcome, key, name, probe, reason))
    return probes


def _fit(probe: Any, site: Site, outcome: str, key: Representation) -> tuple[Any, str]:
    """Return the fitted probe, or None and the reason where train has only one class."""
    stays = site.select_labelled(outcome, FIT_SPLIT)
    num_events = int(stays.labels.sum())
    if num_events in (0, stays.labels.size):
        lacking = "with the event" if num_events == 0 else "without the event"
        return None, f"not fitted: no stay {lacking} in train"
    vectors = site.representations[FIT_SPLIT][key].select(stays.subject_ids)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        probe.fit(vectors, stays.labels)
    for warning in caught:
        logger.warning("%s on layer %d %s for %s: %s", type(probe[-1]).__name__, *key, outcome, warning.message)
    return probe, ""


def _apply(fitted: FittedProbe, site: Site) -> Predicted:
    stays = site.select_labelled(fitted.outcome, TEST_SPLIT)
    probabilities, key = None, fitted.representation
    if fitted.probe is not None and stays.labels.size:
        vectors = site.representations[TEST_SPLIT][key].select(stays.subject_ids)
        probabilities = fitted.probe.predict_proba(vectors)[:, 1]
    return Predicted(
        site.name,
        describe_representation(site.source, key),
        fitted.name,
        fitted.outcome,
        stays.subject_ids,
        stays.labels,
        stays.patients,
        probabilities,
        fitted.reason,
        representation=key,
    )
