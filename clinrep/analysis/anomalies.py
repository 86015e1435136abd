"""How unlike the training stays a stay is, by its representation: inliers and outliers.

N stays, M train stays that are kept for reference, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import FIT_SPLIT, Representation, Site
from clinrep.analysis.metrics import Floats
from clinrep.config import InputError, lookup
from clinrep.distributed import derive_seed
from clinrep.run import show_progress

logger = logging.getLogger("clinrep")

Floats32 = NDArray[np.float32]

SCHEMA = {
    "site": pl.String,
    "subject_id": pl.String,
    "split": pl.String,
    "method": pl.String,
    "score": pl.Float64,
    "is_outlier": pl.Boolean,
}
CHUNK_STAYS = 8192  # distances of so many stays at a time, in double precision


@dataclass(frozen=True)
class AnomalyModel:
    """A score fitted on train, higher for stranger stays; an outlier has more than `threshold`."""

    score: Callable[[Floats32], Floats]
    """Vectors (N, D) of stays that were not fitted on -> (N,)."""
    train_scores: Floats
    """(N,) of the stays it was fitted on, none of which counts as its own neighbour."""
    threshold: float


def fit_isolation_forest(vectors: Floats32, config: AnalyzeConfig, seed: int) -> AnomalyModel:
    """Return the score of Liu, Ting and Zhou (ICDM 2008), in (0, 1); an outlier has more than 0.5, as there.

    scikit-learn's defaults, as in the manuscript: 100 trees of 256 stays.
    """
    forest = IsolationForest(random_state=seed % 2**32).fit(vectors)

    def score(values: Floats32) -> Floats:
        scores: Floats = -forest.score_samples(values)
        return scores

    return AnomalyModel(score, score(vectors), threshold=0.5)


def fit_mahalanobis(vectors: Floats32, config: AnalyzeConfig, seed: int) -> AnomalyModel:
    """Return the Mahalanobis distance from the mean of train, of standardized vectors.

    The covariance is shrunk towards a multiple of the identity as far as Ledoit and Wolf say (Journal of
    Multivariate Analysis 88 (2004) 365-411), so it can be inverted where there are fewer stays than dimensions.
    """
    scaler = StandardScaler().fit(vectors.astype(np.float64))
    covariance = LedoitWolf().fit(scaler.transform(vectors.astype(np.float64)))

    def score(values: Floats32) -> Floats:
        distances: Floats = np.sqrt(covariance.mahalanobis(scaler.transform(values.astype(np.float64))))
        return distances

    train_scores = _score_in_chunks(score, vectors)
    return AnomalyModel(score, train_scores, float(np.quantile(train_scores, config.anomalies.outlier_quantile)))


def fit_knn_distance(vectors: Floats32, config: AnalyzeConfig, seed: int) -> AnomalyModel:
    """Return the Euclidean distance to the k-th nearest train stay, of standardized vectors.

    (Ramaswamy, Rastogi and Shim, SIGMOD 2000.) Of more train stays than `max_reference_stays`, distances are to a
    random sample. A stay of train is no neighbour of its own.
    """
    settings, num_train = config.anomalies, len(vectors)
    k = settings.num_neighbors
    if num_train <= k:
        raise InputError(f"anomalies.num_neighbors is {k} but train has {num_train} stays; name fewer neighbours")
    scaler = StandardScaler().fit(vectors.astype(np.float64))
    size = min(num_train, settings.max_reference_stays)
    reference = np.sort(np.random.default_rng(seed).choice(num_train, size, replace=False))
    neighbors = NearestNeighbors(n_neighbors=k, algorithm="brute")
    neighbors.fit(scaler.transform(vectors[reference].astype(np.float64)))

    def score(values: Floats32) -> Floats:
        distances: Floats = neighbors.kneighbors(scaler.transform(values.astype(np.float64)))[0][:, -1]
        return distances

    train_scores = _score_in_chunks(score, vectors)
    train_scores[reference] = neighbors.kneighbors()[0][:, -1]  # without arguments: none is its own neighbour
    return AnomalyModel(score, train_scores, float(np.quantile(train_scores, settings.outlier_quantile)))


METHOD_WORDS = {
    "isolation_forest": "isolation forest",
    "mahalanobis": "Mahalanobis distance",
    "knn_distance": "distance to the k-th nearest neighbour",
}

# name -> a function of train vectors (N, D), settings and seed that returns the fitted score
ANOMALIES: dict[str, Callable[[Floats32, AnalyzeConfig, int], AnomalyModel]] = {
    "isolation_forest": fit_isolation_forest,
    "mahalanobis": fit_mahalanobis,
    "knn_distance": fit_knn_distance,
}


def choose_representation(site: Site) -> Representation:
    """Return the representation that anomaly scores read: the deepest layer's last token, or else its first pooling."""
    keys = list(site.representations[FIT_SPLIT])
    deepest = max(layer for layer, _ in keys)
    poolings = sorted(pooling for layer, pooling in keys if layer == deepest)
    return deepest, "last_token" if "last_token" in poolings else poolings[0]


def score_anomalies(sites: list[Site], config: AnalyzeConfig) -> pl.DataFrame:
    """Return a row a method of the settings and stay that has a representation, of every split that was extracted.

    Columns site, subject_id, split, method, score (higher for stranger), is_outlier. Fitted on the train split of
    the fitted site.

    Raises:
        InputError: an unknown method, or one that needs more train stays.
    """
    methods = {name: lookup(ANOMALIES, name, "anomaly method") for name in config.anomaly_methods}
    fitted = next(site for site in sites if site.name == config.fitted_site)
    key = choose_representation(fitted)
    vectors = fitted.representations[FIT_SPLIT][key].values
    frames = [pl.DataFrame(schema=SCHEMA)]
    for method, fit in show_progress(methods.items(), config, "anomalies", total=len(methods)):
        # the name of the seed is that of the one method there once was: its scores stay what they were
        name = "anomalies" if method == "isolation_forest" else f"anomalies/{method}"
        model = fit(vectors, config, derive_seed(config.seed, name))
        frames += [
            _score_split(model, method, site, split, key, is_fitted=site is fitted and split == FIT_SPLIT)
            for site in sites
            for split in site.representations
        ]
    return pl.concat(frames)


def select_main(anomalies: pl.DataFrame, config: AnalyzeConfig) -> pl.DataFrame:
    """Return the rows of the method that says who is an inlier and who an outlier: the first of the settings."""
    return anomalies.filter(pl.col("method") == config.anomaly_methods[0])


def _score_split(
    model: AnomalyModel, method: str, site: Site, split: str, key: Representation, is_fitted: bool
) -> pl.DataFrame:
    vectors = site.representations[split][key]
    scores = model.train_scores if is_fitted else _score_in_chunks(model.score, vectors.values)
    is_outlier = scores > model.threshold
    logger.info("%s %s: %d of %d stays are outliers (%s)", site.name, split, is_outlier.sum(), scores.size, method)
    columns = {
        "site": np.full(scores.size, site.name),
        "subject_id": vectors.subject_ids,
        "split": np.full(scores.size, split),
        "method": np.full(scores.size, method),
        "score": scores,
        "is_outlier": is_outlier,
    }
    return pl.DataFrame(columns, schema=SCHEMA)


def _score_in_chunks(score: Callable[[Floats32], Floats], vectors: Floats32) -> Floats:
    starts = range(0, len(vectors), CHUNK_STAYS)
    return np.concatenate([np.zeros(0), *(score(vectors[start : start + CHUNK_STAYS]) for start in starts)])
