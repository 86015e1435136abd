"""Metrics against scikit-learn and by hand."""

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from clinrep.analysis.metrics import METRICS, rank


def score_bins(labels, probabilities, sample_weight):
    """Return the ECE in a loop over ten bins of equal numbers of stays of the plain sample."""
    edges = np.unique(np.quantile(probabilities, np.arange(1, 10) / 10))
    bins = np.searchsorted(edges, probabilities, side="right")
    error = 0.0
    for number in np.unique(bins):
        inside, weights = bins == number, sample_weight * (bins == number)
        if weights.sum():
            gap = np.average(labels[inside], weights=weights[inside]) - np.average(probabilities, weights=weights)
            error += weights.sum() * abs(gap)
    return error / sample_weight.sum()


def fit_statsmodels(position):
    """Return a function: statsmodels' logistic regression of labels on logits, intercept (0) or slope (1)."""

    def fit(labels, probabilities, sample_weight):
        inputs = sm.add_constant(np.log(probabilities / (1 - probabilities)))
        model = sm.GLM(labels.astype(float), inputs, family=sm.families.Binomial(), freq_weights=sample_weight)
        return model.fit(tol=1e-12).params[position]

    return fit


REFERENCES = {
    "auroc": roc_auc_score,
    "auprc": average_precision_score,
    "brier": brier_score_loss,
    "ece": score_bins,
    "calibration_slope": fit_statsmodels(1),
    "calibration_intercept": fit_statsmodels(0),
}


def compute(name, labels, probabilities, weights):
    ranking = rank(labels, probabilities)
    return METRICS[name].compute(ranking.tally(weights[:, ranking.order]))


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("decimals", [1, 15], ids=["ties", "no ties"])
def test_equals_scikit_learn_for_every_weighting(name, decimals):
    rng = np.random.default_rng(0)
    labels = rng.random(60) < 0.3
    probabilities = np.round(rng.uniform(0.05, 0.95, 60), decimals)
    weights = rng.integers(0, 4, size=(25, 60))  # zeros too: patients that were not drawn
    expected = [REFERENCES[name](labels, probabilities, sample_weight=row) for row in weights]
    # slope and intercept by a polynomial where it is near enough
    tolerance = {"rtol": 2e-4, "atol": 2e-4} if name.startswith("calibration") else {"rtol": 1e-12}
    np.testing.assert_allclose(compute(name, labels, probabilities, weights), expected, **tolerance)


def test_four_rows_by_hand():
    labels = np.array([True, False, True, False])
    probabilities = np.array([0.9, 0.5, 0.5, 0.1])
    ones = np.ones((1, 4))
    # pairs (event, none): 0.9 beats both; 0.5 ties one and beats one -> 3.5 of 4
    assert compute("auroc", labels, probabilities, ones)[0] == 3.5 / 4
    # thresholds 0.9: precision 1, recall 1/2; 0.5: precision 2/3, recall 1
    assert compute("auprc", labels, probabilities, ones)[0] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert compute("brier", labels, probabilities, ones)[0] == pytest.approx((0.01 + 0.25 + 0.25 + 0.01) / 4)
    # two bins: above and below the median, where both of 0.5 are above: |2/3 - 1.9/3| and |0 - 0.1|
    ranking = rank(labels, probabilities, num_bins=2)
    assert METRICS["ece"].compute(ranking.tally(ones))[0] == pytest.approx((3 * abs(2 / 3 - 1.9 / 3) + 0.1) / 4)


def test_merging_groups_without_the_event_leaves_the_ranks_as_they_are():
    labels = np.array([False, False, True, False, False, False, True])
    ranking = rank(labels, np.array([0.9, 0.8, 0.7, 0.7, 0.4, 0.3, 0.2]))
    starts, has_event = ranking.merged
    assert starts.tolist() == [0, 2, 4, 6]
    assert has_event.tolist() == [False, True, False, True]


@pytest.mark.parametrize("weights", [[[1, 0, 1, 0]], [[0, 1, 0, 1]]], ids=["only events", "no event"])
def test_one_class_is_undefined_where_both_are_needed(weights):
    labels = np.array([True, False, True, False])
    probabilities = np.array([0.9, 0.5, 0.5, 0.1])
    assert np.isnan(compute("auroc", labels, probabilities, np.array(weights)))
    assert np.isnan(compute("auprc", labels, probabilities, np.array(weights)))
    assert np.isfinite(compute("brier", labels, probabilities, np.array(weights)))
