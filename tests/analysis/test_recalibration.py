"""Recalibration and risk slopes against scikit-learn, simulation with known answers, and hand calculation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from clinrep.analysis.recalibration import average, compute_logits, recalibrate, regress_risk

NUM_STAYS = 400


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_recalibration_is_unpenalized_logistic_regression_under_every_weighting(rng):
    logits = rng.normal(-1, 1.5, NUM_STAYS)
    labels = rng.random(NUM_STAYS) < 1 / (1 + np.exp(-(0.4 + 0.6 * logits)))
    weights = np.vstack([np.ones(NUM_STAYS), rng.integers(0, 4, (3, NUM_STAYS))])
    intercepts, slopes = recalibrate(labels, logits, weights)
    for row, weighting in enumerate(weights):
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
        model.fit(logits[:, None], labels, sample_weight=weighting)
        assert slopes[row] == pytest.approx(model.coef_[0, 0], abs=1e-4)
        assert intercepts[row] == pytest.approx(model.intercept_[0], abs=1e-4)
    # from a start near the answer, as the bootstrap uses it, the answer is the same
    again = recalibrate(labels, logits, weights, np.array([intercepts[0], slopes[0]]))
    np.testing.assert_allclose(again, [intercepts, slopes], atol=1e-8)


def test_overconfident_probabilities_have_the_slope_of_their_exaggeration(rng):
    risks = rng.beta(1, 6, 200_000)
    labels = rng.random(risks.size) < risks
    everyone = np.ones((1, risks.size))
    intercept, slope = recalibrate(labels, compute_logits(risks), everyone)
    assert abs(slope[0] - 1) < 0.02
    assert abs(intercept[0]) < 0.04
    _, halved = recalibrate(labels, 2 * compute_logits(risks), everyone)
    assert abs(halved[0] - 0.5) < 0.01


@pytest.mark.parametrize("case", ["one class", "one logit", "separated"])
def test_no_maximum_is_nan(case, rng):
    logits = np.full(50, 0.3) if case == "one logit" else rng.normal(size=50)
    labels = np.ones(50, bool) if case == "one class" else logits > 0
    if case == "one logit":
        labels = np.arange(50) % 3 == 0
    intercept, slope = recalibrate(labels, logits, np.ones((1, 50)))
    assert np.isnan(slope[0])
    assert np.isnan(intercept[0])


def test_certain_probabilities_have_finite_logits():
    assert np.isfinite(compute_logits(np.array([0.0, 1.0]))).all()
    assert compute_logits(np.array([0.5]))[0] == pytest.approx(0)


def test_risk_slope_is_least_squares(rng):
    probabilities, noise = rng.random(NUM_STAYS), rng.normal(0, 0.1, NUM_STAYS)
    risks = 0.2 + 0.7 * probabilities + noise
    weights = np.vstack([np.ones(NUM_STAYS), rng.integers(0, 3, NUM_STAYS)])
    found = regress_risk(risks, probabilities, weights)
    for row, weighting in enumerate(weights):
        expected = np.polyfit(probabilities, risks, 1, w=np.sqrt(weighting))[0]
        assert found[row] == pytest.approx(expected, rel=1e-6)
    assert np.isnan(regress_risk(risks, np.full(NUM_STAYS, 0.3), weights)).all()


def test_the_noise_of_few_continuations_is_taken_off(rng):
    risks = rng.beta(1, 4, 100_000)
    shares = rng.binomial(10, risks) / 10
    everyone = np.ones((1, risks.size))
    assert regress_risk(risks, shares, everyone)[0] < 0.75  # attenuated
    assert abs(regress_risk(risks, shares, everyone, num_samples=10)[0] - 1) < 0.02
    # a model whose own probabilities are half the risk: a slope of 2, seen through the same noise
    halves = rng.binomial(10, risks / 2) / 10
    assert abs(regress_risk(risks, halves, everyone, num_samples=10)[0] - 2) < 0.06


def test_average_is_weighted():
    np.testing.assert_allclose(average(np.array([1.0, 3.0]), np.array([[1, 1], [3, 1]])), [2.0, 1.5])
