"""Baselines without a neural network: models on what a modality reads of the timelines.

N stays, F features.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import FIT_SPLIT, TEST_SPLIT, Labelled, Site
from clinrep.analysis.metrics import Floats
from clinrep.analysis.probe_models import PlainProbe, Probe, build_light_gbm
from clinrep.analysis.probes import Predicted, fit_probe
from clinrep.analysis.recalibration import compute_logits
from clinrep.analysis.stay_inputs import StayInputs
from clinrep.config import lookup
from clinrep.distributed import derive_seed
from clinrep.run import show_progress

logger = logging.getLogger("clinrep")

VAL_SPLIT = "val"
COHORT_SECTION = "cohort_by_anomaly"  # it tells how many tokens the stays have
ReadInputs = Callable[[dict[str, str], list[str]], dict[str, StayInputs]]


def read_inputs(read: ReadInputs, config: AnalyzeConfig) -> dict[str, StayInputs]:
    """Return what `read`, the modality's function, finds in every site's timelines; {} where nothing needs it."""
    for name in config.baseline.probes:
        lookup(BASELINE_PROBES, name, "baseline.probes")
    is_needed = config.baselines or config.sections is None or COHORT_SECTION in config.sections
    return read(config.timelines_dir, config.baselines) if is_needed else {}


def predict_baselines(
    sites: list[Site], outcomes: list[str], inputs: dict[str, StayInputs], config: AnalyzeConfig
) -> list[Predicted]:
    """Return what each baseline, fitted on the fitted site's train split, says of every site's test stays."""
    fitted = next(site for site in sites if site.name == config.fitted_site)
    tasks = [(outcome, *pair) for outcome in outcomes for pair in _list_models(config)]
    predicted = []
    for outcome, name, probe_name in show_progress(tasks, config, "baselines"):
        seed = derive_seed(config.seed, f"baseline/{name}/{probe_name}/{outcome}")
        probe, reason = fit_baseline(fitted, inputs[fitted.name], outcome, name, probe_name, config, seed)
        for site in sites:
            stays, own = site.select_labelled(outcome, TEST_SPLIT), inputs[site.name]
            features, probabilities = own.features[name], None
            if probe is not None and stays.labels.size:
                probabilities = probe.predict_proba(features.values[own.find_rows(stays.subject_ids)])[:, 1]
            who = (stays.subject_ids, stays.labels, stays.patients)
            predicted.append(Predicted(site.name, features.model, probe_name, outcome, *who, probabilities, reason))
    return predicted


def fit_baseline(
    site: Site, inputs: StayInputs, outcome: str, name: str, probe_name: str, config: AnalyzeConfig, seed: int
) -> tuple[Probe | None, str]:
    """Return the model of one baseline, fitted on a site's train split, or None and why it could not be."""
    features = inputs.features[name]
    stays = {split: site.select_labelled(outcome, split) for split in (FIT_SPLIT, VAL_SPLIT)}
    values = {split: features.values[inputs.find_rows(one.subject_ids)] for split, one in stays.items()}
    what = f"{probe_name} on {features.model} for {outcome}"
    probe, reason = fit_probe(
        BASELINE_PROBES[probe_name](config, seed, values[VAL_SPLIT], stays[VAL_SPLIT], what),
        *(values[FIT_SPLIT], stays[FIT_SPLIT], what),
    )
    if reason:
        logger.warning("%s: %s", what, reason)
    return probe, reason


def _list_models(config: AnalyzeConfig) -> list[tuple[str, str]]:
    return [(name, probe) for name in config.baselines for probe in config.baseline.probes]


class ChosenOnVal(PlainProbe):
    """Logistic regression on sparse features, its L2 penalty the one with the least log loss on val.

    Features are divided by their standard deviation in train and not centred, so that they stay sparse: the
    intercept, which no penalty holds, takes up the difference, so the fit is that of standardized features.
    Features that train does not have are left out.
    """

    def __init__(self, config: AnalyzeConfig, seed: int, val_values: csr_matrix, val: Labelled, what: str) -> None:
        """Keep val, whose stays choose the penalty."""
        self._config, self._seed, self._val_values, self._val, self._what = config, seed, val_values, val, what

    def fit(self, vectors: Any, labels: NDArray[np.bool_], patients: NDArray[np.intp] | None = None) -> PlainProbe:
        """Fit train with each penalty and keep the best."""
        self._is_used = np.flatnonzero(np.asarray(abs(vectors).sum(axis=0)).ravel())
        used, settings = vectors[:, self._is_used].astype(np.float64), self._config.baseline
        can_choose = self._val.labels.size > 0
        if not can_choose:
            logger.warning("%s: val has no labelled stay, so the strongest penalty is taken", self._what)
        best = np.inf
        for c in sorted(settings.c) if can_choose else [min(settings.c)]:
            solver = LogisticRegression(
                C=c, max_iter=self._config.logistic_regression.max_iterations, tol=1e-6, random_state=self._seed
            )
            model = make_pipeline(StandardScaler(with_mean=False), solver).fit(used, labels)
            loss = _compute_log_loss(self._val.labels, self._predict(model, self._val_values)) if can_choose else 0.0
            if loss < best:
                best, self.model, self.c = loss, model, c
        logger.info("%s: C = %g, log loss %.4f on val", self._what, self.c, best)
        return self

    def predict_proba(self, vectors: Any) -> Floats:
        """Return (N, 2), the event second."""
        events = self._predict(self.model, vectors)
        return np.stack([1 - events, events], axis=1)

    def _predict(self, model: Any, vectors: csr_matrix) -> Floats:
        events: Floats = model.predict_proba(vectors[:, self._is_used].astype(np.float64))[:, 1]
        return events


def _compute_log_loss(labels: NDArray[np.bool_], probabilities: Floats) -> float:
    logits = compute_logits(probabilities)
    return float(np.logaddexp(0, np.where(labels, -logits, logits)).mean())


def _build_light_gbm(config: AnalyzeConfig, seed: int, values: csr_matrix, val: Labelled, what: str) -> PlainProbe:
    return build_light_gbm(config, seed)


# name -> a function of settings, seed, features and stays of val, and words for the log, that returns an unfitted probe
BASELINE_PROBES: dict[str, Callable[[AnalyzeConfig, int, csr_matrix, Labelled, str], Probe]] = {
    "logistic_regression": ChosenOnVal,
    "light_gbm": _build_light_gbm,
}
