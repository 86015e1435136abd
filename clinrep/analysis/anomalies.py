"""How unlike the training stays a stay is, by its representation: inliers and outliers."""

from __future__ import annotations

import numpy as np
import polars as pl
from sklearn.ensemble import IsolationForest

from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import FIT_SPLIT, Representation, Site
from clinrep.distributed import derive_seed

SCHEMA = {
    "site": pl.String,
    "subject_id": pl.String,
    "split": pl.String,
    "score": pl.Float64,
    "is_outlier": pl.Boolean,
}


def choose_representation(site: Site) -> Representation:
    """Return the representation that anomaly scores read: the deepest layer's last token, or else its first pooling."""
    keys = list(site.representations[FIT_SPLIT])
    deepest = max(layer for layer, _ in keys)
    poolings = sorted(pooling for layer, pooling in keys if layer == deepest)
    return deepest, "last_token" if "last_token" in poolings else poolings[0]


def score_anomalies(sites: list[Site], config: AnalyzeConfig) -> pl.DataFrame:
    """Return a row a stay that has a representation: site, subject_id, split, score, is_outlier.

    Isolation forest (Liu, Ting and Zhou, ICDM 2008) fitted on the train split of the fitted site, scikit-learn's
    defaults: 100 trees of 256 stays. `score` is minus score_samples, in (0, 1), higher for stranger; an outlier has
    more than 0.5.
    """
    fitted = next(site for site in sites if site.name == config.fitted_site)
    key = choose_representation(fitted)
    forest = IsolationForest(random_state=derive_seed(config.seed, "anomalies") % 2**32)
    forest.fit(fitted.representations[FIT_SPLIT][key].values)
    frames = [pl.DataFrame(schema=SCHEMA)]
    for site in sites:
        for split, vectors in site.representations.items():
            scores = -forest.score_samples(vectors[key].values)
            frames.append(
                pl.DataFrame(
                    {
                        "site": np.full(scores.size, site.name),
                        "subject_id": vectors[key].subject_ids,
                        "split": np.full(scores.size, split),
                        "score": scores,
                        "is_outlier": scores > 0.5,
                    },
                    schema=SCHEMA,
                )
            )
    return pl.concat(frames)
