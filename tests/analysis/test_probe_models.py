"""Each probe against scikit-learn or LightGBM used directly."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lightgbm
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.model_config import LightGbmConfig, LogisticRegressionCvConfig, NearestNeighborsConfig
from clinrep.analysis.probe_models import PROBES, CannotFitError, split_by_patient
from clinrep.config import InputError

CONFIG = AnalyzeConfig(output_dir="unused", timelines_dir={"a": "unused"}, representations_dir={"a": "unused"})
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data():
    """300 stays of 120 patients, whose stays are alike; some features matter."""
    rng = np.random.default_rng(0)
    patients = rng.integers(120, size=300)
    of_patient = rng.normal(size=(120, 6))
    vectors = 3 + (of_patient[patients] + 0.5 * rng.normal(size=(300, 6))) * np.array([1, 10, 1, 1, 100, 1])
    risk = 1 / (1 + np.exp(1 - of_patient[patients, 0] - of_patient[patients, 1]))
    labels = rng.random(300) < risk
    patients = np.unique(patients, return_inverse=True)[1]
    return vectors[:200], labels[:200], patients[:200], vectors[200:]


def standardize(train, rows):
    return (rows - train.mean(axis=0)) / train.std(axis=0)


def predict(name, data, config=CONFIG, seed=3):
    vectors, labels, patients, new = data
    probabilities = PROBES[name](config, seed).fit(vectors, labels, patients).predict_proba(new)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    return probabilities[:, 1]


@pytest.mark.parametrize("name", list(PROBES))
def test_the_same_seed_gives_the_same_bytes(name, data):
    assert predict(name, data).tobytes() == predict(name, data).tobytes()


def test_logistic_regression(data):
    vectors, labels, _, new = data
    model = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(standardize(vectors, vectors), labels)
    expected = model.predict_proba(standardize(vectors, new))[:, 1]
    np.testing.assert_allclose(predict("logistic_regression", data), expected, atol=1e-5)


@pytest.mark.parametrize(("scoring", "score"), [("log_loss", lambda y, p: -log_loss(y, p)), ("auroc", roc_auc_score)])
def test_cross_validated_logistic_regression_equals_a_search_by_hand(data, scoring, score):
    vectors, labels, patients, new = data
    config = replace(CONFIG, logistic_regression_cv=LogisticRegressionCvConfig(num_penalties=6, scoring=scoring))
    scaled = standardize(vectors, vectors)
    folds = split_by_patient(labels, patients, 5, seed=3)

    def fit(c, rows):
        return LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(scaled[rows], labels[rows])

    grid = np.logspace(-4, 4, 6)
    means = [
        np.mean([score(labels[out], fit(c, rows).predict_proba(scaled[out])[:, 1]) for rows, out in folds])
        for c in grid
    ]
    best = grid[int(np.argmax(means))]
    expected = fit(best, slice(None)).predict_proba(standardize(vectors, new))[:, 1]
    np.testing.assert_allclose(predict("logistic_regression_cv", data, config), expected, atol=1e-4)


def test_no_patient_is_in_two_folds_and_every_stay_is_held_out_once(data):
    _, labels, patients, _ = data
    folds = split_by_patient(labels, patients, 5, seed=1)
    for rows, out in folds:
        assert not set(patients[rows]) & set(patients[out])
        assert set(labels[rows]) == set(labels[out]) == {False, True}
    np.testing.assert_array_equal(np.sort(np.concatenate([out for _, out in folds])), np.arange(labels.size))


def test_too_few_patients_with_the_event_are_no_cross_validation(data):
    vectors, _, patients, _ = data
    labels = np.isin(patients, np.unique(patients)[:4])
    with pytest.raises(CannotFitError, match="too few patients with the event in train for 5 folds"):
        PROBES["logistic_regression_cv"](CONFIG, 0).fit(vectors, labels, patients)


def test_an_unknown_scoring_lists_the_known(data):
    config = replace(CONFIG, logistic_regression_cv=LogisticRegressionCvConfig(scoring="accuracy"))
    with pytest.raises(InputError, match="known: auroc, log_loss"):
        predict("logistic_regression_cv", data, config)


def test_light_gbm_equals_the_librarys_own_training(data):
    vectors, labels, _, new = data
    config = replace(CONFIG, light_gbm=LightGbmConfig(num_trees=30, num_leaves=7, learning_rate=0.05))
    settings = {
        "objective": "binary", "num_leaves": 7, "learning_rate": 0.05, "seed": 3, "verbosity": -1,
        "num_threads": 1, "deterministic": True, "force_row_wise": True,
    }  # fmt: skip
    booster = lightgbm.train(settings, lightgbm.Dataset(vectors, labels.astype(float)), num_boost_round=30)
    np.testing.assert_allclose(predict("light_gbm", data, config), booster.predict(new), rtol=1e-9)


def test_light_gbms_defaults_are_those_of_the_manuscript():
    parameters = PROBES["light_gbm"](CONFIG, 3).model.get_params()
    theirs = lightgbm.LGBMClassifier().get_params()
    ours = {"deterministic", "force_row_wise", "verbosity", "random_state", "n_jobs"}
    assert {name: parameters[name] for name in theirs.keys() - ours} == {
        name: theirs[name] for name in theirs.keys() - ours
    }


def test_nearest_neighbors_equal_a_brute_force_and_are_never_0_or_1(data):
    vectors, labels, _, new = data
    config = replace(CONFIG, k_nearest_neighbors=NearestNeighborsConfig(num_neighbors=5))
    distances = cdist(standardize(vectors, new), standardize(vectors, vectors))
    expected = []
    for row in distances:
        nearest = np.argsort(row)[:5]
        share = np.average(labels[nearest], weights=1 / row[nearest])
        expected.append((5 * share + labels.mean()) / 6)
    found = predict("k_nearest_neighbors", data, config)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.min() > 0
    assert found.max() < 1
    many = replace(CONFIG, k_nearest_neighbors=NearestNeighborsConfig(num_neighbors=201))
    with pytest.raises(CannotFitError, match="fewer stays in train than the 201 neighbours"):
        predict("k_nearest_neighbors", data, many)


def test_lightgbm_is_loaded_only_where_it_is_asked_for():
    code = "import sys; import clinrep.analysis.sections; assert 'lightgbm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
