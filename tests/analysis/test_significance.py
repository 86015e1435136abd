"""p-values against scipy and statsmodels, by hand, and under the null."""

import numpy as np
import pytest
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests

from clinrep.analysis.significance import adjust_holm, compute_bootstrap_p, compute_normal_p


def test_normal_p_is_scipys():
    for difference, variance in ((0.03, 0.0004), (-0.5, 0.02), (0.0, 1.0)):
        assert compute_normal_p(difference, variance) == pytest.approx(2 * norm.sf(abs(difference) / variance**0.5))


def test_no_variance_gives_one_for_no_difference_and_nothing_for_some():
    assert compute_normal_p(0.0, 0.0) == 1
    assert np.isnan(compute_normal_p(0.1, 0.0))
    assert np.isnan(compute_normal_p(0.1, float("nan")))


def test_bootstrap_p_by_hand():
    # of nine replicates two are at or below 0: 2 (1 + 2) / 10
    assert compute_bootstrap_p(np.array([-0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])) == pytest.approx(0.6)
    assert compute_bootstrap_p(np.linspace(1, 2, 999)) == pytest.approx(2 / 1000)
    assert compute_bootstrap_p(-np.linspace(1, 2, 999)) == pytest.approx(2 / 1000)
    assert compute_bootstrap_p(np.full(99, 1e-17)) == 1  # the same model twice, up to rounding
    assert compute_bootstrap_p(np.r_[np.linspace(1, 2, 999), np.nan]) == pytest.approx(2 / 1000)


def test_holm_is_that_of_statsmodels():
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 30):
        p_values = np.round(rng.random(size) ** 3, 2)  # with ties
        np.testing.assert_allclose(adjust_holm(p_values), multipletests(p_values, method="holm")[1])


def test_holm_leaves_out_what_was_not_tested():
    adjusted = adjust_holm(np.array([0.01, np.nan, 0.04]))
    assert adjusted[[0, 2]] == pytest.approx([0.02, 0.04])
    assert np.isnan(adjusted[1])
