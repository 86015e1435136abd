"""What the figures draw, against scikit-learn and by hand."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from clinrep.analysis.calibration import compute_wilson_interval, group_by_probability
from clinrep.analysis.embeddings import PANEL_POINTS, draw_embeddings, place_labels
from clinrep.analysis.metrics import rank
from clinrep.analysis.roc import compute_roc


def test_area_under_the_drawn_curve_is_the_auroc():
    rng = np.random.default_rng(0)
    labels, probabilities = rng.random(80) < 0.3, np.round(rng.random(80), 1)
    x, y = compute_roc(rank(labels, probabilities))
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(labels, probabilities))


def test_calibration_groups_by_hand():
    probabilities = np.array([0.1, 0.1, 0.1, 0.4, 0.8, 0.9])
    labels = np.array([False, False, True, False, True, True])
    means, shares, counts = group_by_probability(labels, probabilities, 2)
    assert means == pytest.approx([0.1, 0.7])
    assert shares == pytest.approx([1 / 3, 2 / 3])
    assert counts.tolist() == [3, 3]


def test_calibration_never_separates_ties():
    means, shares, counts = group_by_probability(np.array([True, False, True, False]), np.full(4, 0.3), 2)
    assert (means.tolist(), shares.tolist(), counts.tolist()) == ([0.3], [0.5], [4])


def test_wilson_interval_of_a_known_case():
    # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3: 81/263 and 0/20
    low, high = compute_wilson_interval(np.array([81 / 263, 0.0]), np.array([263, 20]))
    assert low == pytest.approx([0.2553, 0.0], abs=5e-5)
    assert high == pytest.approx([0.3662, 0.1611], abs=5e-5)


def test_bins_are_joined_in_their_order():
    """Q10 comes after Q9, whatever the order of the rows."""
    names = ["Q10", "Q2", "LAB_x", "Q9"]
    table = pl.DataFrame(
        {
            "token": names,
            "kind": ["bin", "bin", "labs", "bin"],
            "embedding": pl.Series([[10.0, 0], [2, 0], [0, 7], [9, 0]], dtype=pl.Array(pl.Float32, 2)),
        }
    )
    figure, caption = draw_embeddings(table)
    assert [text.get_text() for text in figure.axes[1].texts] == ["Q2", "Q9", "Q10"]
    assert "all 4 tokens" in caption


def test_calibration_puts_a_probability_on_an_edge_into_the_upper_group():
    _, _, counts = group_by_probability(np.zeros(4, bool), np.array([0.1, 0.2, 0.2, 0.9]), 2)
    assert counts.tolist() == [1, 3]


def test_labels_of_points_at_one_place_do_not_meet():
    points = np.array([[0.0, 0.0], [0.01, 0.0], [0.0, 0.01], [1.0, 1.0]])
    at = points * PANEL_POINTS + place_labels(points)
    distances = np.linalg.norm(at[:, None] - at, axis=2) + 1e9 * np.eye(4)
    assert distances.min() > 9  # points: a line of text of this size
