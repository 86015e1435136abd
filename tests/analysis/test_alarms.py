"""Alarms at fixed rates: by hand, against a loop, and in words."""

import numpy as np
import pytest

from clinrep.analysis.alarms import build_alarm_section, compute_alarms, count_alarms, find_threshold
from clinrep.analysis.metrics import rank
from tests.analysis.comparing import make_config, make_predicted, make_study

LABELS = np.array([1, 0, 1, 0, 1, 0], bool)
PROBABILITIES = np.array([0.9, 0.8, 0.7, 0.4, 0.4, 0.1])
ONES = np.ones((1, 6))


@pytest.mark.parametrize(
    ("rate", "alarms", "metrics"),
    [
        (1 / 3, (1, 1), (1 / 3, 1 / 2, 2 / 3)),
        (1 / 4, (1, 0.5), (1 / 3, 2 / 3, 5 / 6)),  # one stay, and half of the next
        (4 / 6, (2.5, 1.5), (2.5 / 3, 2.5 / 4, 1 / 2)),  # one of two that tie: half of each
        (5 / 6, (3, 2), (1, 3 / 5, 1 / 3)),
    ],
)
def test_alarms_by_hand(rate, alarms, metrics):
    ranking = rank(LABELS, PROBABILITIES)
    assert np.array(count_alarms(ranking, ONES, np.array([rate]))).ravel() == pytest.approx(alarms)
    assert compute_alarms(ranking, ONES, np.array([rate])).ravel() == pytest.approx(metrics)


def test_threshold_is_the_probability_of_the_last_flagged_stay():
    ranking = rank(LABELS, PROBABILITIES)
    assert [find_threshold(ranking, rate) for rate in (0.01, 1 / 6, 1 / 4, 4 / 6, 5 / 6, 0.99)] == [
        0.9, 0.9, 0.8, 0.4, 0.4, 0.1
    ]  # fmt: skip


def test_many_weightings_at_once_equal_a_loop_over_single_stays():
    """Stays flagged one by one in falling order; those that tie in parts."""
    rng = np.random.default_rng(0)
    labels, probabilities = rng.random(40) < 0.4, np.round(rng.random(40), 1)
    ranking = rank(labels, probabilities)
    counts = rng.integers(0, 4, size=(25, 40)) * rng.uniform(0.5, 2, size=(25, 1))
    counts[0, :30] = 0
    rates = np.array([0.01, 0.1, 0.33, 0.9])
    found = np.array(count_alarms(ranking, counts[:, ranking.order], rates))
    for row, weights in enumerate(counts):
        for at, rate in enumerate(rates):
            left, expected = rate * weights.sum(), np.zeros(2)
            for value in sorted(set(probabilities), reverse=True):
                in_group = probabilities == value
                group = weights[in_group].sum()
                part = min(1.0, left / group) if group else 0.0
                expected += part * np.array([weights[in_group & labels].sum(), weights[in_group & ~labels].sum()])
                left -= part * group
            np.testing.assert_allclose(found[:, at, row], expected, atol=1e-12)


def test_ties_count_as_expected_when_they_are_broken_at_random():
    rng = np.random.default_rng(1)
    labels, probabilities = rng.random(30) < 0.4, np.round(rng.random(30) * 3) / 3
    true_alarms, _ = count_alarms(rank(labels, probabilities), np.ones((1, 30)), np.array([0.3]))
    shuffled = [labels[np.lexsort((rng.random(30), -probabilities))][:9].sum() for _ in range(4000)]
    assert true_alarms.item() == pytest.approx(np.mean(shuffled), abs=0.06)


def test_weightings_without_a_kind_are_undefined():
    ranking = rank(LABELS, PROBABILITIES)
    weights = np.array([[1.0, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1]])[:, ranking.order]
    assert np.isnan(compute_alarms(ranking, weights, np.array([0.3]))).all()


def make_stays(num_stays=400, seed=0):
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=num_stays)
    return risk + rng.normal(size=num_stays) > 1, 1 / (1 + np.exp(-risk))


def build_table(predicted, config):
    (table,) = build_alarm_section(make_study(predicted, config)).tables
    return table


def test_table_of_a_model():
    labels, probabilities = make_stays()
    config = make_config(alarm_rates=[0.2, 0.05])
    table = build_table(make_predicted(labels, {"classifier": probabilities}), config)
    numbers = {(row["alarm_rate"], row["metric"]): row for row in table.numbers.to_dicts()}
    flagged = np.argsort(-probabilities)[:80]
    sensitivity = numbers[0.2, "sensitivity"]
    assert sensitivity["estimate"] == pytest.approx(labels[flagged].sum() / labels.sum())
    assert sensitivity["low"] < sensitivity["estimate"] < sensitivity["high"]
    assert sensitivity["threshold"] == probabilities[flagged[-1]]
    ppv, needed = numbers[0.2, "ppv"], numbers[0.2, "number_needed_to_evaluate"]
    assert ppv["estimate"] == pytest.approx(labels[flagged].mean())
    assert (needed["low"], needed["high"]) == pytest.approx((1 / ppv["high"], 1 / ppv["low"]))
    assert table.words["Alarms"].to_list() == ["5\N{NO-BREAK SPACE}%", "20\N{NO-BREAK SPACE}%"]


def test_words_where_there_is_no_number():
    config = make_config(alarm_rates=[0.01, 0.05, 0.5], min_events_for_interval=3)
    labels = np.arange(60) < 20
    models = {"classifier": 1 - np.arange(60) / 60, "unfitted": None}
    table = build_table(make_predicted(labels, models), config)
    cells = dict(
        zip(table.words["Alarms"], table.words["Sensitivity (95\N{NO-BREAK SPACE}%\N{NO-BREAK SPACE}CI)"], strict=True)
    )
    assert next(iter(cells.values())) == "less than one alarm"
    assert cells["5\N{NO-BREAK SPACE}%"] == "0.150, no interval: no alarm without the event"
    assert cells["50\N{NO-BREAK SPACE}%"] == "1.000, no interval: no event without an alarm"
    assert "not fitted: no stay with the event in train" in cells.values()


def test_small_cells_are_hidden():
    """Of 400 stays 20 are flagged at 5 %: some with and some without the event are fewer than 11."""
    labels, probabilities = make_stays()
    predicted = make_predicted(labels, {"classifier": probabilities})
    table = build_table(predicted, make_config(alarm_rates=[0.05, 0.3], min_cell_count=11))
    numbers = table.numbers.filter(metric="ppv")
    assert numbers["estimate"].is_null().to_list() == [True, False]
    assert numbers["reason"][0] == "hidden: fewer than 11 people (min_cell_count)"
    assert table.words.row(0)[-4:] == ("*",) * 4
