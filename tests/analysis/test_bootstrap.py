"""The bootstrap against a loop that resamples patients and calls scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from clinrep.analysis import bootstrap
from clinrep.analysis.bootstrap import bootstrap_metrics, compute_interval, draw_patient_counts
from clinrep.analysis.metrics import rank


def make_stays(num_patients=40, stays_each=2, seed=0):
    rng = np.random.default_rng(seed)
    patients = rng.permutation(np.repeat(np.arange(num_patients), stays_each))
    labels = rng.random(patients.size) < 0.4
    probabilities = np.round(0.5 * rng.random(patients.size) + 0.4 * labels, 1)
    return labels, probabilities, patients


def test_replicates_equal_a_loop_that_repeats_whole_patients():
    labels, probabilities, patients = make_stays()
    values = bootstrap_metrics([rank(labels, probabilities)], patients, 30, seed=7)[0]
    counts = np.concatenate(list(draw_patient_counts(40, 30, 7, chunk_rows=30)))
    for replicate, count in enumerate(counts):
        rows = np.concatenate([np.flatnonzero(patients == patient) for patient in np.repeat(np.arange(40), count)])
        expected = [score(labels[rows], probabilities[rows]) for score in
                    (roc_auc_score, average_precision_score, brier_score_loss)]  # fmt: skip
        np.testing.assert_allclose(values[:, replicate], expected, rtol=1e-12)


def test_counts_are_draws_with_replacement():
    counts = np.concatenate(list(draw_patient_counts(50, 4000, 3, chunk_rows=7)))
    assert counts.shape == (4000, 50)
    assert (counts.sum(axis=1) == 50).all()
    # a multinomial count of P draws at 1/P: mean 1, variance 1 - 1/P
    assert counts.mean(axis=0) == pytest.approx(np.ones(50), abs=0.1)
    assert counts.var() == pytest.approx(1 - 1 / 50, rel=0.02)


def test_chunks_do_not_change_the_numbers(monkeypatch):
    labels, probabilities, patients = make_stays()
    whole = bootstrap_metrics([rank(labels, probabilities)], patients, 50, seed=1)
    monkeypatch.setattr(bootstrap, "CHUNK_WEIGHTS", 3 * labels.size)
    np.testing.assert_array_equal(bootstrap_metrics([rank(labels, probabilities)], patients, 50, seed=1), whole)


def test_models_share_replicates():
    labels, probabilities, patients = make_stays()
    one, other = rank(labels, probabilities), rank(labels, 1 - probabilities)
    values = bootstrap_metrics([one, other], patients, 50, seed=1)
    np.testing.assert_allclose(values[0, 0], 1 - values[1, 0], rtol=1e-12)


def test_copies_of_a_patients_stay_do_not_narrow_the_interval():
    labels, probabilities, patients = make_stays(stays_each=1)
    once = bootstrap_metrics([rank(labels, probabilities)], patients, 400, seed=1)[0, 0]
    labels, probabilities, patients = (np.repeat(values, 9) for values in (labels, probabilities, patients))
    copied = bootstrap_metrics([rank(labels, probabilities)], patients, 400, seed=1)[0, 0]
    np.testing.assert_allclose(copied, once, rtol=1e-12)


def test_interval_is_of_the_defined_replicates_unless_too_few():
    values = np.r_[np.arange(100.0), np.full(5, np.nan)]
    assert compute_interval(values, 0.95) == pytest.approx((2.475, 96.525))
    assert compute_interval(np.r_[values, np.nan], 0.95) is None


def test_interval_covers_the_truth():
    """Of 200 samples of 60 patients with true AUROC 0.5, about 95 % of intervals hold it."""
    rng = np.random.default_rng(0)
    covered = 0
    for sample in range(200):
        labels, probabilities = np.arange(60) < 25, rng.random(60)
        values = bootstrap_metrics([rank(labels, probabilities)], np.arange(60), 200, seed=sample)[0, 0]
        low, high = compute_interval(values, 0.95)
        covered += low <= 0.5 <= high
    assert 0.89 <= covered / 200 <= 0.99
