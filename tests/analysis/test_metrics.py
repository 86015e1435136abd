"""Metrics against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from clinrep.analysis.metrics import METRICS, rank

REFERENCES = {"auroc": roc_auc_score, "auprc": average_precision_score, "brier": brier_score_loss}


def compute(name, labels, probabilities, weights):
    ranking = rank(labels, probabilities)
    return METRICS[name].compute(ranking.tally(weights[:, ranking.order]))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("decimals", [1, 15], ids=["ties", "no ties"])
def test_equals_scikit_learn_for_every_weighting(name, decimals):
    rng = np.random.default_rng(0)
    labels = rng.random(60) < 0.3
    probabilities = np.round(rng.random(60), decimals)
    weights = rng.integers(0, 4, size=(25, 60))  # zeros too: patients that were not drawn
    expected = [REFERENCES[name](labels, probabilities, sample_weight=row) for row in weights]
    np.testing.assert_allclose(compute(name, labels, probabilities, weights), expected, rtol=1e-12)


def test_four_rows_by_hand():
    labels = np.array([True, False, True, False])
    probabilities = np.array([0.9, 0.5, 0.5, 0.1])
    ones = np.ones((1, 4))
    # pairs (event, none): 0.9 beats both; 0.5 ties one and beats one -> 3.5 of 4
    assert compute("auroc", labels, probabilities, ones)[0] == 3.5 / 4
    # thresholds 0.9: precision 1, recall 1/2; 0.5: precision 2/3, recall 1
    assert compute("auprc", labels, probabilities, ones)[0] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert compute("brier", labels, probabilities, ones)[0] == pytest.approx((0.01 + 0.25 + 0.25 + 0.01) / 4)


@pytest.mark.parametrize("weights", [[[1, 0, 1, 0]], [[0, 1, 0, 1]]], ids=["only events", "no event"])
def test_one_class_is_undefined_where_both_are_needed(weights):
    labels = np.array([True, False, True, False])
    probabilities = np.array([0.9, 0.5, 0.5, 0.1])
    assert np.isnan(compute("auroc", labels, probabilities, np.array(weights)))
    assert np.isnan(compute("auprc", labels, probabilities, np.array(weights)))
    assert np.isfinite(compute("brier", labels, probabilities, np.array(weights)))
