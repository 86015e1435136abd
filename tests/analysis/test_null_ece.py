"""The interval of the calibration error where there is none, where there is one, and what it is judged by."""

import numpy as np
import pytest
from scipy.special import expit, ndtr

from clinrep.analysis.metrics import METRICS, rank
from clinrep.analysis.null_ece import compute_design_effect, draw_null_ece
from clinrep.analysis.scores import score_group
from tests.analysis.comparing import make_config, make_predicted


def simulate(rng, num_patients, slope, max_stays=1, shared=0.0):
    """Return labels, probabilities whose log-odds are `slope` times the true ones, and patients.

    Labels of a patient's stays go together by `shared`, the correlation of normal variables behind them.
    """
    patients = np.repeat(np.arange(num_patients), rng.integers(1, max_stays + 1, num_patients))
    logits = rng.normal(-2, 0.9, num_patients)[patients] + rng.normal(0, 0.44, patients.size)
    hidden = np.sqrt(shared) * rng.normal(size=num_patients)[patients]
    hidden += np.sqrt(1 - shared) * rng.normal(size=patients.size)
    return ndtr(hidden) < expit(logits), expit(slope * logits), patients


def compute_ece(labels, probabilities):
    return METRICS["ece"].compute(rank(labels, probabilities).tally(np.ones((1, labels.size))))[0]


def score_samples(num_samples, slope, max_stays, shared):
    """Return (num_samples, 3) estimate, low and high of the ECE as the score table has them, of 400 patients each."""
    rng, config = np.random.default_rng(0), make_config(num_bootstraps=100)
    found = np.empty((num_samples, 3))
    for sample in range(num_samples):
        labels, probabilities, patients = simulate(rng, 400, slope, max_stays, shared)
        items = make_predicted(labels, {"model": probabilities}, patients)
        (row,) = (row for row in score_group(items, sample, config) if row["metric"] == "ece")
        found[sample] = row["estimate"], row["low"], row["high"]
    assert ((found[:, 1] >= 0) & (found[:, 1] <= found[:, 0]) & (found[:, 0] <= found[:, 2])).all()
    assert (found[:, 2] <= 1).all()
    return found


@pytest.mark.parametrize(("max_stays", "shared"), [(1, 0), (4, 0.6)])
def test_the_interval_of_a_calibrated_model_holds_zero(max_stays, shared):
    """By the basic interval alone 0 is in some 60 % of them. Binomial error of 150 samples: 2 %."""
    low = score_samples(150, 1, max_stays, shared)[:, 1]
    assert (low == 0).mean() >= 0.9


def test_the_interval_of_a_miscalibrated_model_excludes_zero_and_covers_the_truth():
    truth = compute_ece(*simulate(np.random.default_rng(1), 1_000_000, 2)[:2])
    _, low, high = score_samples(150, 2, 1, 0).T
    assert (low > 0).mean() > 0.95
    assert 0.87 <= ((low <= truth) & (truth <= high)).mean() <= 0.99


def test_draws_are_of_labels_from_the_probabilities_in_the_bins_of_the_sample():
    rng = np.random.default_rng(3)
    _, probabilities, patients = simulate(rng, 300, 1)
    found = draw_null_ece(rank(rng.random(300) < 0.3, probabilities), patients, 5, 2000)
    loop = [compute_ece(rng.random(300) < probabilities, probabilities) for _ in range(2000)]
    assert np.quantile(found, [0.1, 0.5, 0.95]) == pytest.approx(np.quantile(loop, [0.1, 0.5, 0.95]), rel=0.05)


def test_the_same_seed_gives_the_same_bytes():
    labels, probabilities, patients = simulate(np.random.default_rng(4), 200, 1, 3)
    ranking = rank(labels, probabilities)
    assert draw_null_ece(ranking, patients, 5).tobytes() == draw_null_ece(ranking, patients, 5).tobytes()
    assert (draw_null_ece(ranking, patients, 5) != draw_null_ece(ranking, patients, 6)).any()


def test_the_design_effect_is_the_number_of_copies_and_1_with_one_stay_a_patient():
    labels, probabilities, patients = simulate(np.random.default_rng(5), 500, 1.5)
    assert compute_design_effect(rank(labels, probabilities), patients) == pytest.approx(1)
    copies = [np.repeat(values, 3) for values in (labels, probabilities, patients)]
    assert compute_design_effect(rank(*copies[:2]), copies[2]) == pytest.approx(3)
    perfect = rank(labels, labels.astype(float))
    assert compute_design_effect(perfect, patients) == 1
    assert draw_null_ece(perfect, patients, 1).max() == 0
