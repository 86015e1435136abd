"""Anomaly scores against scikit-learn, scipy and loops, and who is fitted on whom."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.covariance import ledoit_wolf
from sklearn.ensemble import IsolationForest

from clinrep.analysis import anomalies
from clinrep.analysis.anomalies import ANOMALIES, score_anomalies, select_main
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import read_sites
from clinrep.analysis.model_config import AnomalyConfig
from clinrep.config import InputError
from clinrep.distributed import derive_seed
from tests.analysis.fake_runs import FakeSite


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Two sites; `away` has fewer stays and every split."""
    root = tmp_path_factory.mktemp("sites")
    here = FakeSite(root / "here").write()
    away = FakeSite(root / "away", seed=3, num_stays=90, prefix="t").write()
    return AnalyzeConfig(
        output_dir=str(root / "out"),
        seed=5,
        timelines_dir={"here": str(here.timelines), "away": str(away.timelines)},
        representations_dir={"here": str(here.representations), "away": str(away.representations)},
        anomaly_methods=["mahalanobis", "isolation_forest", "knn_distance"],
        anomalies=AnomalyConfig(num_neighbors=4),
        show_progress=False,
    )


@pytest.fixture(scope="module")
def sites(config):
    return read_sites(config)


@pytest.fixture(scope="module")
def scored(sites, config):
    return score_anomalies(sites, config)


def get(scored, site, split, method):
    """Return scores and flags in the order of the site's vectors."""
    ids = site.representations[split][2, "last_token"].subject_ids.to_frame()
    rows = scored.filter(site=site.name, split=split, method=method)
    joined = ids.join(rows, on="subject_id", how="left", maintain_order="left")
    return joined["score"].to_numpy(), joined["is_outlier"].to_numpy()


def vectors(site, split):
    return site.representations[split][2, "last_token"].values


def test_every_stay_of_every_split_and_site_has_a_row_a_method(sites, scored):
    assert scored.columns == ["site", "subject_id", "split", "method", "score", "is_outlier"]
    expected = pl.concat([site.stays.select(pl.lit(site.name).alias("site"), "subject_id", "split") for site in sites])
    for method in ANOMALIES:
        found = scored.filter(method=method).select("site", "subject_id", "split")
        assert found.sort("site", "subject_id").equals(expected.sort("site", "subject_id"))


def test_isolation_forest_is_scikit_learns_and_says_what_its_predict_says(sites, scored):
    forest = IsolationForest(random_state=derive_seed(5, "anomalies") % 2**32).fit(vectors(sites[0], "train"))
    for site in sites:
        score, is_outlier = get(scored, site, "test", "isolation_forest")
        np.testing.assert_allclose(score, -forest.score_samples(vectors(site, "test")))
        np.testing.assert_array_equal(is_outlier, forest.predict(vectors(site, "test")) == -1)


def test_mahalanobis_equals_scipy_with_the_shrunk_covariance(sites, scored, config):
    train = vectors(sites[0], "train").astype(float)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    precision = np.linalg.inv(ledoit_wolf((train - mean) / deviation)[0])
    for site in sites:
        rows = (vectors(site, "test") - mean) / deviation
        expected = [mahalanobis(row, np.zeros(len(mean)), precision) for row in rows]
        np.testing.assert_allclose(get(scored, site, "test", "mahalanobis")[0], expected, rtol=1e-6)


def test_knn_distance_equals_a_brute_force_and_a_train_stay_is_not_its_own_neighbour(sites, scored):
    train = vectors(sites[0], "train").astype(float)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    scaled = (train - mean) / deviation
    for site in sites:
        rows = (vectors(site, "test") - mean) / deviation
        expected = np.sort(cdist(rows, scaled), axis=1)[:, 3]
        np.testing.assert_allclose(get(scored, site, "test", "knn_distance")[0], expected, rtol=1e-6)
    own = np.sort(cdist(scaled, scaled) + np.diag(np.full(len(train), np.inf)), axis=1)[:, 3]
    np.testing.assert_allclose(get(scored, sites[0], "train", "knn_distance")[0], own, rtol=1e-6)


@pytest.mark.parametrize("method", ["mahalanobis", "knn_distance"])
def test_the_threshold_is_a_quantile_of_the_fitted_train_split_alone(sites, scored, method):
    train, is_outlier = get(scored, sites[0], "train", method)
    threshold = np.quantile(train, 0.95)
    np.testing.assert_array_equal(is_outlier, train > threshold)
    for site, split in [(sites[0], "test"), (sites[1], "train"), (sites[1], "val")]:
        score, flags = get(scored, site, split, method)
        np.testing.assert_array_equal(flags, score > threshold)


def test_other_stays_than_those_of_train_change_no_score_of_the_rest(sites, scored, config):
    """The leak to look for: scaling, covariance, neighbours or thresholds that saw test or another site."""
    alone = score_anomalies(sites[:1], config)
    assert alone.equals(scored.filter(site="here"))


def test_of_many_train_stays_a_seeded_sample_is_kept(sites, config):
    few = replace(config, anomalies=AnomalyConfig(num_neighbors=2, max_reference_stays=30))
    train = vectors(sites[0], "train")
    one, again, other = (ANOMALIES["knn_distance"](train, few, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.train_scores, again.train_scores)
    assert not np.array_equal(one.train_scores, other.train_scores)
    reference = np.sort(np.random.default_rng(1).choice(len(train), 30, replace=False))
    scaled = (train - train.mean(axis=0, dtype=float)) / train.std(axis=0, dtype=float)
    distances = cdist(scaled, scaled[reference])
    distances[reference, np.arange(30)] = np.inf
    np.testing.assert_allclose(one.train_scores, np.sort(distances, axis=1)[:, 1], rtol=1e-6)


def test_chunks_change_nothing(sites, scored, config, monkeypatch):
    monkeypatch.setattr(anomalies, "CHUNK_STAYS", 7)
    again = score_anomalies(sites, config)
    np.testing.assert_allclose(again["score"], scored["score"], rtol=1e-9)


def test_the_first_method_says_who_is_an_outlier(scored, config):
    main = select_main(scored, config)
    assert main["method"].unique().to_list() == ["mahalanobis"]
    assert not main.select("site", "subject_id").is_duplicated().any()


def test_unknown_methods_and_too_few_stays_are_refused(sites, config):
    with pytest.raises(InputError, match=r"anomaly method.*isolation_forest"):
        score_anomalies(sites, replace(config, anomaly_methods=["isolation_tree"]))
    many = replace(config, anomalies=AnomalyConfig(num_neighbors=500, max_reference_stays=501))
    with pytest.raises(InputError, match="num_neighbors is 500 but train has 85 stays"):
        score_anomalies(sites, many)
