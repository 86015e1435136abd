"""The probes: classifiers on vectors, by table.

N stays, D width. Each has fit(vectors (N, D), labels (N,), patients (N,)) and predict_proba(vectors) -> (N, 2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.metrics import Floats
from clinrep.config import lookup


class CannotFitError(Exception):
    """These stays are too few for this probe; says which are lacking."""


class Probe(Protocol):
    """What every entry of `PROBES` returns."""

    def fit(self, vectors: Any, labels: NDArray[np.bool_], patients: NDArray[np.intp]) -> Any:
        """Fit on train; `patients` (N,) says whose stay each is."""

    def predict_proba(self, vectors: Any) -> Floats:
        """Return (N, 2), the event second."""


class PlainProbe:
    """A scikit-learn classifier, which takes each stay as independent."""

    def __init__(self, model: Any) -> None:
        """Wrap an unfitted classifier."""
        self.model = model

    def fit(self, vectors: Any, labels: NDArray[np.bool_], patients: NDArray[np.intp] | None = None) -> PlainProbe:
        """Fit the classifier; patients are not asked for."""
        self.model.fit(vectors, labels)
        return self

    def predict_proba(self, vectors: Any) -> Floats:
        """Return (N, 2), the event second."""
        probabilities: Floats = self.model.predict_proba(vectors)
        return probabilities


# name in the settings -> scikit-learn's name
SCORINGS = {"log_loss": "neg_log_loss", "auroc": "roc_auc"}


class CrossValidatedProbe(PlainProbe):
    """Logistic regression whose penalty is chosen in train, with every patient's stays in one fold."""

    def __init__(self, config: AnalyzeConfig, seed: int) -> None:
        """Keep the settings."""
        self._config, self._seed = config, seed

    def fit(self, vectors: Any, labels: NDArray[np.bool_], patients: NDArray[np.intp] | None = None) -> PlainProbe:
        """Choose the penalty over the folds, then fit all stays with it.

        Raises:
            CannotFitError: too few patients with or without the event for a fold to have both.
        """
        assert patients is not None, "the folds are made of patients"
        settings = self._config.logistic_regression_cv
        folds = split_by_patient(labels, patients, settings.num_folds, self._seed)
        model = LogisticRegressionCV(
            Cs=settings.num_penalties,
            l1_ratios=(0,),
            cv=folds,
            scoring=lookup(SCORINGS, settings.scoring, "logistic_regression_cv.scoring"),
            solver="newton-cholesky",
            max_iter=self._config.logistic_regression.max_iterations,
            tol=1e-6,
            random_state=self._seed,
            use_legacy_attributes=False,
        )
        self.model = make_pipeline(StandardScaler(), model).fit(vectors, labels)
        return self


def split_by_patient(
    labels: NDArray[np.bool_], patients: NDArray[np.intp], num_folds: int, seed: int
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return (train rows, held-out rows) of each fold, stratified by label; a patient is in one fold.

    Raises:
        CannotFitError: a fold has no stay with, or none without, the event.
    """
    for name, is_one in (("with", labels), ("without", ~labels)):
        num_patients = np.unique(patients[is_one]).size
        if num_patients < num_folds:
            raise CannotFitError(f"too few patients {name} the event in train for {num_folds} folds")
    splitter = StratifiedGroupKFold(n_splits=num_folds, shuffle=True, random_state=seed)
    folds = list(splitter.split(np.zeros(labels.size), labels, patients))
    if any(np.unique(labels[rows]).size < 2 for fold in folds for rows in fold):
        raise CannotFitError(f"one of {num_folds} folds of patients has no stay with the event, or none without")
    return folds


class NeighborsProbe(PlainProbe):
    """The share of events among the k nearest stays, weighted by 1 / distance, and of one more with the prevalence.

    The one more is a neighbour of average weight whose label is train's share of events: (k share + prevalence) /
    (k + 1). It changes no ranking, and keeps probabilities off 0 and 1, where a log loss is infinite.
    """

    def __init__(self, num_neighbors: int) -> None:
        """Standardized inputs, Euclidean distances."""
        super().__init__(
            make_pipeline(StandardScaler(), KNeighborsClassifier(num_neighbors, weights="distance", algorithm="brute"))
        )
        self._num_neighbors = num_neighbors

    def fit(self, vectors: Any, labels: NDArray[np.bool_], patients: NDArray[np.intp] | None = None) -> PlainProbe:
        """Keep the stays.

        Raises:
            CannotFitError: fewer stays than neighbours.
        """
        if labels.size < self._num_neighbors:
            raise CannotFitError(f"fewer stays in train than the {self._num_neighbors} neighbours")
        self._prevalence = labels.mean()
        return super().fit(vectors, labels)

    def predict_proba(self, vectors: Any) -> Floats:
        """Return (N, 2), the event second, none of them 0 or 1."""
        shares = super().predict_proba(vectors)
        prior = np.array([1 - self._prevalence, self._prevalence])
        probabilities: Floats = (self._num_neighbors * shares + prior) / (self._num_neighbors + 1)
        return probabilities


def build_logistic_regression(config: AnalyzeConfig, seed: int) -> PlainProbe:
    """Return the probe of the manuscript (sections 4.3, Table 3): standardized, L2, Newton steps."""
    settings = config.logistic_regression
    model = LogisticRegression(
        C=settings.c, max_iter=settings.max_iterations, solver="newton-cholesky", tol=1e-6, random_state=seed
    )
    return PlainProbe(make_pipeline(StandardScaler(), model))


def build_light_gbm(config: AnalyzeConfig, seed: int) -> PlainProbe:
    """Return gradient-boosted trees (Ke et al., NeurIPS 2017) with the manuscript's settings, made reproducible."""
    from lightgbm import LGBMClassifier  # only here: a run without it need not load it

    settings = config.light_gbm
    model = LGBMClassifier(
        n_estimators=settings.num_trees,
        num_leaves=settings.num_leaves,
        learning_rate=settings.learning_rate,
        n_jobs=settings.num_threads,
        deterministic=True,
        force_row_wise=True,  # else the faster layout on the day decides how sums round
        random_state=seed,
        verbosity=-1,
    )
    return PlainProbe(model)


def build_k_nearest_neighbors(config: AnalyzeConfig, seed: int) -> PlainProbe:
    """Return the smoothed share of events among the nearest stays (Cover and Hart 1967)."""
    return NeighborsProbe(config.k_nearest_neighbors.num_neighbors)


# name -> a function of settings and seed that returns an unfitted probe
PROBES: dict[str, Callable[[AnalyzeConfig, int], Probe]] = {
    "logistic_regression": build_logistic_regression,
    "logistic_regression_cv": CrossValidatedProbe,
    "light_gbm": build_light_gbm,
    "k_nearest_neighbors": build_k_nearest_neighbors,
}
