"""Net benefit by hand and against a loop; thresholds; small cells."""

import itertools

import numpy as np
import pytest

from clinrep.analysis import decision_curves
from clinrep.analysis.decision_curves import PRINTED_EVERY, build_decision_section, compute_curves
from clinrep.analysis.metrics import rank
from clinrep.analysis.net_benefit import choose_thresholds, compute_net_benefit, compute_treat_all
from clinrep.analysis.people import People
from clinrep.analysis.replicates import group_models
from clinrep.analysis.safe_cuts import find_safe_cuts
from tests.analysis.comparing import make_config, make_predicted, make_study

LABELS = np.array([1, 0, 1, 0, 1, 0], bool)
PROBABILITIES = np.array([0.9, 0.8, 0.7, 0.4, 0.4, 0.1])


def test_net_benefit_by_hand():
    thresholds = np.array([0, 0.4, 0.5, 0.75, 0.95])
    # true and false positives: 3 and 3; 3 and 2 (the threshold itself is flagged); 2 and 1; 1 and 1; none
    expected = [3 / 6, 3 / 6 - 2 / 6 * 2 / 3, 2 / 6 - 1 / 6, 1 / 6 - 1 / 6 * 3, 0]
    assert compute_net_benefit(rank(LABELS, PROBABILITIES), np.ones((1, 6)), thresholds).ravel() == pytest.approx(
        expected
    )
    assert compute_treat_all(0.5, thresholds[:2]) == pytest.approx([0.5, 0.5 - 0.5 * 2 / 3])


def test_many_weightings_at_once_equal_a_loop():
    rng = np.random.default_rng(0)
    labels, probabilities = rng.random(40) < 0.4, np.round(rng.random(40), 1)
    ranking, counts = rank(labels, probabilities), rng.integers(0, 4, size=(9, 40))
    thresholds = choose_thresholds(0.4, None)
    found = compute_net_benefit(ranking, counts[:, ranking.order], thresholds)
    for row, weights in enumerate(counts):
        for at, threshold in enumerate(thresholds):
            flagged = weights * (probabilities >= threshold)
            expected = flagged[labels].sum() - flagged[~labels].sum() * threshold / (1 - threshold)
            assert found[at, row] == pytest.approx(expected / weights.sum())


@pytest.mark.parametrize(
    ("prevalence", "limit", "highest"),
    [(0.02, None, 0.1), (0.021, None, 0.15), (0.001, None, 0.05), (0.4, None, 0.5), (0.02, 0.3, 0.3), (0, None, 0.05)],
)
def test_thresholds_follow_the_prevalence(prevalence, limit, highest):
    thresholds = choose_thresholds(prevalence, limit)
    assert thresholds[0] == 0
    assert thresholds[-1] == pytest.approx(highest)


def make_stays(num_stays=600, seed=0):
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=num_stays)
    return risk + rng.normal(size=num_stays) > 1.5, 1 / (1 + np.exp(1.5 - 1.5 * risk))


def test_section_draws_and_prints(tmp_path):
    labels, probabilities = make_stays()
    config = make_config()
    predicted = make_predicted(labels, {"classifier": probabilities, "unfitted": None})
    predicted += make_predicted(np.arange(600) < 1, {"classifier": probabilities}, outcome="rare")
    section = build_decision_section(make_study(predicted, config, tmp_path))
    assert (tmp_path / "figures" / "decision_curves_here.pdf").is_file()
    assert "Not drawn: Rare: too few events" in section.figures[0].caption
    (table,) = section.tables
    numbers = table.numbers.filter(outcome="died", model="classifier")
    assert numbers.height == 101
    assert numbers["net_benefit"][0] == pytest.approx(labels.mean())  # all are treated at threshold 0
    assert (numbers["low"] <= numbers["net_benefit"]).all()
    assert (numbers["high"] >= numbers["net_benefit"]).all()
    assert table.words.height == 5 + 1 + 1  # thresholds, the unfitted model, the rare outcome


def test_an_outcome_of_fewer_people_than_may_be_told_is_neither_printed_nor_drawn(tmp_path):
    labels, probabilities = make_stays()
    predicted = make_predicted(labels, {"classifier": probabilities})
    predicted += make_predicted(np.arange(600) < 8, {"classifier": probabilities}, outcome="rare")
    section = build_decision_section(make_study(predicted, make_config(min_cell_count=11), tmp_path))
    assert "Not drawn: Rare: hidden: fewer than 11 people (min_cell_count)." in section.figures[0].caption
    numbers = section.tables[0].numbers.filter(outcome="rare")
    assert numbers.select("net_benefit", "low", "net_benefit_treat_all").null_count().row(0) == (101,) * 3


def test_what_is_shown_never_tells_a_small_number_of_people():
    labels, probabilities = make_stays()
    patients = np.arange(600) // 2
    predicted = make_predicted(labels, {"classifier": probabilities}, patients)
    (group,) = group_models(predicted, make_config())
    curves = compute_curves(group, make_config(min_cell_count=11))
    shown = curves.thresholds[curves.is_shown[0]]
    assert 3 < shown.size < 101
    edges = np.r_[0, shown, 1.1]
    for low, high in itertools.pairwise(edges):
        for kind in (labels, ~labels):
            between = np.unique(patients[kind & (probabilities >= low) & (probabilities < high)]).size
            assert between == 0 or between >= 11
    assert curves.is_shown[0][PRINTED_EVERY]  # those printed come first
    assert compute_curves(group, make_config()).is_shown[0].all()


def test_the_figure_has_no_number_that_the_table_hides(tmp_path, monkeypatch):
    """A PDF holds every vertex of a curve, and net benefit at two thresholds the counts between them."""
    labels, probabilities = make_stays()
    predicted = make_predicted(labels, {"classifier": probabilities, "other": np.roll(probabilities, 1)})
    figures = []
    monkeypatch.setattr(decision_curves, "save_figure", lambda figure, *words: figures.append((figure, words[-1])))
    study = make_study(predicted, make_config(min_cell_count=11), tmp_path)
    numbers = build_decision_section(study).tables[0].numbers
    ((figure, caption),) = figures
    for line, model in zip(figure.axes[0].lines[2:], ("classifier", "other"), strict=True):
        shown = numbers.filter(model=model).drop_nulls("net_benefit")
        assert 3 < shown.height < 101
        assert line.get_xdata().tolist() == shown["threshold"].to_list()
        assert line.get_ydata().tolist() == shown["net_benefit"].to_list()
    (band,) = figure.axes[0].collections
    drawn = set(numbers.filter(model="classifier").drop_nulls("low")["threshold"])
    assert set(band.get_paths()[0].vertices[:, 0]) == drawn
    assert "Curves with points are known at these alone" in caption


def test_the_figure_is_rounded_as_the_table_where_counts_are_hidden(tmp_path, monkeypatch):
    labels, probabilities = make_stays()
    study = make_study(make_predicted(labels, {"classifier": probabilities}), make_config(), tmp_path)
    for hidden in ("labelled", "events"):
        figures = []
        monkeypatch.setattr(decision_curves, "save_figure", lambda figure, *_, kept=figures: kept.append(figure))
        study.__dict__["people"] = People(frozenset({(hidden, "here", "died", "test")}), 0)
        numbers = build_decision_section(study).tables[0].numbers
        assert numbers["net_benefit"].equals(numbers["net_benefit"].round(3))
        for line in figures[0].axes[0].lines:
            assert list(line.get_ydata()) == list(np.round(line.get_ydata(), 3))


def test_safe_cuts_by_hand():
    """Patients 0 to 7 in falling order, every second with the event: two patients of a kind need four stays."""
    ranking = rank(np.arange(8) % 2 == 0, 1 - np.arange(8) / 10)
    patients = np.arange(8)
    assert find_safe_cuts(ranking, patients, [2, 4, 6, 8], 2).tolist() == [False, True, False, True]
    assert find_safe_cuts(ranking, patients, [2, 4, 6, 8], 3).tolist() == [False, False, False, True]
    assert find_safe_cuts(ranking, patients, [2, 4, 6, 8], 1).all()
    assert find_safe_cuts(ranking, np.zeros(8, int), [4, 8], 2).tolist() == [False, False]  # one patient's stays
    assert find_safe_cuts(ranking, patients, [4, 5], 2, first=[1]).tolist() == [True, False]
