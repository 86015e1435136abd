"""What the figures draw, against scikit-learn and by hand."""

import itertools

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from clinrep.analysis.calibration import compute_wilson_interval, count_bars, group_by_probability
from clinrep.analysis.config import EmbeddingConfig
from clinrep.analysis.embeddings import PANEL_POINTS, draw_embeddings, find_bins, place_labels, project_by_tsne
from clinrep.analysis.metrics import rank
from clinrep.analysis.roc import compute_roc
from clinrep.artifacts import ArtifactError
from clinrep.config import InputError
from clinrep.modality import resolve
from tests.analysis.fake_runs import FakeSite


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


def test_calibration_groups_tell_of_no_few_people_of_either_class():
    """Share and size of a group are how many have the event."""
    rng = np.random.default_rng(0)
    probabilities, patients = rng.random(600), np.arange(600) // 2
    labels = rng.random(600) < probabilities**3
    _, shares, counts = group_by_probability(labels, probabilities, 10)
    assert ((shares * counts).round() < 11).any()
    means, shares, counts = group_by_probability(labels, probabilities, 10, patients, 11)
    assert counts.sum() == 600
    assert 2 < counts.size < 10
    assert (np.diff(means) > 0).all()
    order, ends = np.argsort(probabilities), np.r_[0, counts.cumsum()]
    for start, end in itertools.pairwise(ends):
        rows = order[start:end]
        for is_event in (True, False):
            num_people = np.unique(patients[rows[labels[rows] == is_event]]).size
            assert num_people == 0 or num_people >= 11


def test_one_small_bar_hides_another():
    bar = np.repeat(np.arange(4), [50, 3, 20, 30])
    assert count_bars(bar, np.arange(bar.size), 5, 11).tolist() == [50, 0, 0, 30, 0]
    assert count_bars(bar, np.arange(bar.size), 5, 0).tolist() == [50, 3, 20, 30, 0]


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
    figure, caption = draw_embeddings({"backbone": table}, EmbeddingConfig(), 0)
    assert [text.get_text() for text in figure.axes[1].texts] == ["Q2", "Q9", "Q10"]
    assert figure.axes[0].get_title() == "All 4 tokens"
    assert "joined from the lowest to the highest" in caption


def make_embeddings(names: list[str], kind: str = "labs") -> pl.DataFrame:
    values = np.random.default_rng(0).normal(size=(len(names), 4)).astype(np.float32)
    return pl.DataFrame({"token": names, "kind": [kind] * len(names),
                         "embedding": pl.Series(values, dtype=pl.Array(pl.Float32, 4))})  # fmt: skip


def test_fused_tokens_give_the_categories_with_most_bins_or_those_asked_for():
    names = [f"LAB_{name}_Q{bin_}" for name, bins in (("b", 3), ("a", 3), ("few", 2)) for bin_ in range(bins)]
    table = make_embeddings([*names, "TL_START", "GCS_Q"])
    found = find_bins(table, EmbeddingConfig(num_categories=2))
    assert found == {"LAB_a": [(0, 3), (1, 4), (2, 5)], "LAB_b": [(0, 0), (1, 1), (2, 2)]}
    assert list(find_bins(table, EmbeddingConfig(categories=["LAB_few"]))) == ["LAB_few"]
    with pytest.raises(InputError, match="LAB_few"):
        find_bins(table, EmbeddingConfig(categories=["LAB_gone"]))
    figure, caption = draw_embeddings({"backbone": table}, EmbeddingConfig(), 0)
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == [
        "LAB_a (Q0\N{EN DASH}Q2)", "LAB_b (Q0\N{EN DASH}Q2)", "LAB_few (Q0\N{EN DASH}Q1)"]  # fmt: skip
    assert "fused" in caption


def test_tsne_lowers_its_perplexity_says_so_and_every_model_is_drawn(caplog):
    tables = {"one": make_embeddings([f"T{index}" for index in range(31)]),
              "other": make_embeddings([f"Q{index}" for index in range(61)], "bin")}  # fmt: skip
    with caplog.at_level("WARNING", "clinrep"):
        figure, caption = draw_embeddings(tables, EmbeddingConfig(method="tsne", perplexity=20), 1)
    assert "one: perplexity 10; other: perplexity 20" in caption
    assert caplog.messages == ["embeddings.perplexity 20 is too many for 31 tokens: 10"]
    titles = [panel.get_title() for panel in figure.axes]
    assert titles == ["one: all 31 tokens", "one: quantile bins", "other: all 61 tokens", "other: quantile bins"]


def test_tsne_keeps_clusters_apart():
    rng = np.random.default_rng(2)
    clusters = np.repeat([0, 1], 40)
    points, used = project_by_tsne(rng.normal(size=(80, 6)) + 20 * clusters[:, None], 10, 3)
    middles = np.array([points[clusters == one].mean(axis=0) for one in (0, 1)])
    nearest = np.linalg.norm(points[:, None] - middles, axis=2).argmin(axis=1)
    assert used == 10
    assert (nearest == clusters).all()


def test_calibration_puts_a_probability_on_an_edge_into_the_upper_group():
    _, _, counts = group_by_probability(np.zeros(4, bool), np.array([0.1, 0.2, 0.2, 0.9]), 2)
    assert counts.tolist() == [1, 3]


def test_labels_of_points_at_one_place_do_not_meet():
    points = np.array([[0.0, 0.0], [0.01, 0.0], [0.0, 0.01], [1.0, 1.0]])
    at = points * PANEL_POINTS + place_labels(points)
    distances = np.linalg.norm(at[:, None] - at, axis=2) + 1e9 * np.eye(4)
    assert distances.min() > 9  # points: a line of text of this size


def test_stage_04_draws_another_model_beside_and_refuses_one_that_is_unfinished(tmp_path):
    site, other = FakeSite(tmp_path / "site").write(), FakeSite(tmp_path / "other", width=5).write()
    flags = ["--num_bootstraps=50", "--layers=[2]", "--poolings=[mean]", "--sections=[embeddings]", *site.flags("demo"),
             f"--embeddings.representations_dir.small={other.representations}"]  # fmt: skip
    resolve("04_analyze:main")([*flags, f"--output_dir={tmp_path / 'out'}"])
    assert (tmp_path / "out" / "figures" / "token_embeddings.pdf").is_file()
    (other.representations / "DONE").unlink()
    with pytest.raises(ArtifactError, match="holds no DONE"):
        resolve("04_analyze:main")([*flags, f"--output_dir={tmp_path / 'again'}"])
    assert not (tmp_path / "again").exists()
