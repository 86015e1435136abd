"""Probes on representations, and predictions of probes and classifiers in one form."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from clinrep.analysis.classifier_runs import ClassifierRun
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import FIT_SPLIT, TEST_SPLIT, Labelled, Representation, Site, describe_representation
from clinrep.analysis.predictions import ZERO_SHOT
from clinrep.analysis.probe_models import PROBES, CannotFitError
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
    """Fitted entry of `PROBES`, with predict_proba; None where it could not be fitted."""
    reason: str
    """Why it could not."""


def predict_test(
    sites: list[Site], outcomes: list[str], probes: list[FittedProbe], others: Sequence[Predicted] = ()
) -> list[Predicted]:
    """Return all predictions by site, then outcome: the classifiers', the probes', and `others` (the baselines')."""
    order = [(site.name, outcome) for site in sites for outcome in outcomes]
    predicted = _collect_predictions(sites, outcomes)
    predicted += [_apply(probe, site) for probe in probes for site in sites]
    predicted += others
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
        stays = fitted_site.select_labelled(outcome, FIT_SPLIT)
        vectors = representations[key].select(stays.subject_ids)
        probe, reason = fit_probe(builders[name](config, seed), vectors, stays, f"{name} on {key} for {outcome}")
        if reason:
            logger.warning(
                "%s on %s for %s: %s", name, describe_representation(fitted_site.source, key), outcome, reason
            )
        probes.append(FittedProbe(outcome, key, name, probe, reason))
    return probes


def fit_probe(probe: Any, inputs: Any, stays: Labelled, what: str) -> tuple[Any, str]:
    """Return an entry of `PROBES` fitted on the inputs (N, D) of N stays, or None and the reason where it cannot be."""
    num_events = int(stays.labels.sum())
    if num_events in (0, stays.labels.size):
        lacking = "with the event" if num_events == 0 else "without the event"
        return None, f"not fitted: no stay {lacking} in train"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        try:
            probe.fit(inputs, stays.labels, stays.patients)
        except CannotFitError as error:
            return None, f"not fitted: {error}"
    for warning in caught:
        logger.warning("%s: %s", what, warning.message)
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
