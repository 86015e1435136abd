"""The bootstrap against a loop that resamples patients and calls scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from clinrep.analysis import bootstrap
from clinrep.analysis.bootstrap import (
    bootstrap_metrics,
    compute_interval,
    draw_patient_counts,
    find_patients_with_event,
)
from clinrep.analysis.metrics import METRICS, rank
from clinrep.analysis.recalibration import recalibrate
from clinrep.analysis.scores import explain_no_interval
from clinrep.analysis.slopes import solve


def make_stays(num_patients=40, stays_each=2, seed=0):
    rng = np.random.default_rng(seed)
    patients = rng.permutation(np.repeat(np.arange(num_patients), stays_each))
    labels = rng.random(patients.size) < 0.4
    probabilities = np.round(0.5 * rng.random(patients.size) + 0.4 * labels, 1)
    return labels, probabilities, patients


def test_replicates_equal_a_loop_that_repeats_whole_patients():
    labels, probabilities, patients = make_stays()
    names = ["auroc", "auprc", "brier"]
    values = bootstrap_metrics([rank(labels, probabilities)], patients, 30, 7, names)[0]
    has_event = find_patients_with_event(labels, patients)
    counts = np.concatenate(list(draw_patient_counts(has_event, 30, 7, chunk_rows=30)))
    for replicate, count in enumerate(counts):
        weights = np.array([count[patient] for patient in patients])
        expected = [score(labels, probabilities, sample_weight=weights) for score in
                    (roc_auc_score, average_precision_score, brier_score_loss)]  # fmt: skip
        np.testing.assert_allclose(values[:, replicate], expected, rtol=1e-12)


def test_strata_are_drawn_with_replacement_each_by_itself_and_their_shares_binomially():
    has_event = np.arange(50) % 5 == 0
    weights = np.concatenate(list(draw_patient_counts(has_event, 4000, 3, chunk_rows=7)))
    assert weights.shape == (4000, 50)
    np.testing.assert_allclose(weights.sum(axis=1), 50)
    drawn = weights[:, has_event].sum(axis=1)  # how many of 50 draws had an event: whole numbers
    np.testing.assert_allclose(drawn, np.rint(drawn), atol=1e-9)
    assert drawn.min() >= 1
    assert drawn.mean() == pytest.approx(10, abs=0.2)
    assert drawn.var() == pytest.approx(50 * 0.2 * 0.8, rel=0.1)
    for stratum, total in ((has_event, drawn), (~has_event, 50 - drawn)):
        counts = weights[:, stratum] / total[:, None] * stratum.sum()  # as drawn: whole numbers, as many as there are
        np.testing.assert_allclose(counts, np.rint(counts), atol=1e-9)
        np.testing.assert_allclose(counts.sum(axis=1), stratum.sum())
        assert counts.mean(axis=0) == pytest.approx(np.ones(stratum.sum()), abs=0.1)
        assert counts.var() == pytest.approx(1 - 1 / stratum.sum(), rel=0.03)


def test_every_replicate_has_the_event_however_rare():
    labels = np.zeros(200, bool)
    labels[[3, 70]] = True
    values = bootstrap_metrics([rank(labels, np.linspace(0.1, 0.9, 200))], np.arange(200), 300, seed=1)[0]
    assert np.isfinite(values[:4]).all()


@pytest.mark.parametrize("prevalence", [0.5, 0.02])
def test_slopes_by_polynomial_are_those_of_newton(prevalence):
    rng = np.random.default_rng(2)
    logits = np.log(prevalence / (1 - prevalence)) + rng.normal(0, 1.2, 4000)
    labels = rng.random(4000) < 1 / (1 + np.exp(-logits))
    probabilities = 1 / (1 + np.exp(-1.3 * logits))
    patients = np.arange(4000) * 2 // 3
    ranking = rank(labels, probabilities)
    names = ["calibration_intercept", "calibration_slope"]
    found = bootstrap_metrics([ranking], patients, 100, 5, names)[0]
    has_event = find_patients_with_event(labels, patients)
    weights = np.concatenate(list(draw_patient_counts(has_event, 100, 5, chunk_rows=100)))[:, patients]
    expected = np.stack(recalibrate(labels, 1.3 * logits, weights))
    # what the polynomial leaves out is nothing beside the spread of the replicates
    assert (np.abs(found - expected) / expected.std(axis=1, keepdims=True)).max() < 0.005
    sums = ranking.tally(weights[:, ranking.order]).sums[:, :, 2:].sum(axis=1)
    num_by_polynomial = np.isfinite(solve(ranking.expansion, sums)[0][:, 1]).sum()
    assert num_by_polynomial > (95 if prevalence == 0.5 else 20)


def test_chunks_do_not_change_the_numbers(monkeypatch):
    labels, probabilities, patients = make_stays()
    whole = bootstrap_metrics([rank(labels, probabilities)], patients, 50, seed=1)
    monkeypatch.setattr(bootstrap, "CHUNK_WEIGHTS", 3 * labels.size)
    pieces = bootstrap_metrics([rank(labels, probabilities)], patients, 50, seed=1)
    np.testing.assert_allclose(pieces, whole, rtol=1e-9)


def test_models_share_replicates():
    labels, probabilities, patients = make_stays()
    one, other = rank(labels, probabilities), rank(labels, 1 - probabilities)
    values = bootstrap_metrics([one, other], patients, 50, 1, ["auroc"])
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


def test_the_interval_of_what_is_biased_upwards_is_reflected_and_holds_the_estimate():
    values = np.linspace(0.02, 0.06, 401)
    assert compute_interval(values, 0.9) == pytest.approx((0.022, 0.058))
    assert compute_interval(values, 0.9, reflected_at=0.03) == pytest.approx((0.002, 0.038))
    assert compute_interval(values, 0.9, reflected_at=0.021) == pytest.approx((0, 0.021))
    assert compute_interval(values, 0.9, reflected_at=0.03, noise=0.03) == pytest.approx((0, 0.038))
    assert compute_interval(values + 0.9, 0.9, reflected_at=0.99) == pytest.approx((0.99 * 2 - 0.958, 1))
    assert compute_interval(values, 0.9, reflected_at=0.03, noise=0.029) == pytest.approx((0.002, 0.038))


def simulate_patients(rng, num_patients):
    """Return labels, probabilities and patients with one to three stays, whose known and unseen risks are shared."""
    patients = np.repeat(np.arange(num_patients), rng.integers(1, 4, num_patients))
    logits = rng.normal(-1.2, 1, num_patients)[patients] + rng.normal(0, 0.5, patients.size)
    unseen = rng.normal(0, 0.7, num_patients)[patients]
    labels = rng.random(patients.size) < 1 / (1 + np.exp(-(logits + unseen)))
    return labels, 1 / (1 + np.exp(-(0.3 + 1.4 * logits))), patients


def test_intervals_cover_the_truth():
    """Of 200 samples of 100 patients, about 95 % of the intervals hold what a million patients have."""
    rng = np.random.default_rng(0)
    labels, probabilities, patients = simulate_patients(rng, 300_000)
    tally = rank(labels, probabilities).tally(np.ones((1, labels.size)))
    truth = [metric.compute(tally)[0] for metric in METRICS.values()]
    covered = np.zeros(len(METRICS))
    for sample in range(200):
        labels, probabilities, patients = simulate_patients(rng, 100)
        ranking = rank(labels, probabilities)
        estimates = ranking.tally(np.ones((1, labels.size)))
        values = bootstrap_metrics([ranking], patients, 200, seed=sample)[0]
        for index, metric in enumerate(METRICS.values()):
            reflected_at = metric.compute(estimates)[0] if metric.is_reflected else None
            low, high = compute_interval(values[index], 0.95, reflected_at)
            covered[index] += low <= truth[index] <= high
    shares = dict(zip(METRICS, covered / 200, strict=True))
    # binomial error of 200 samples: 1.5 %; a percentile interval of 100 patients is a little narrow
    assert all(0.89 <= share <= 0.99 for name, share in shares.items() if name != "ece"), shares
    assert 0.85 <= shares["ece"] <= 1, shares


def test_intervals_take_the_share_of_events_as_unknown():
    """Of forecasts that know little, the Brier score depends on the share of events, which a sample has by chance."""
    rng = np.random.default_rng(0)
    risks = 1 / (1 + np.exp(-rng.normal(-2, 0.2, (200, 100))))
    truth = np.mean(risks * (1 - risks))
    covered = 0
    for sample, risk in enumerate(risks):
        labels = rng.random(100) < risk
        values = bootstrap_metrics([rank(labels, risk)], np.arange(100), 200, sample, ["brier"])[0, 0]
        low, high = compute_interval(values, 0.95)
        covered += low <= truth <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_an_interval_needs_patients_not_stays():
    """Six events of one patient, drawn as one, would give a narrow interval; of six patients it is a wide one."""
    labels, patients = np.arange(300) < 6, np.arange(300)
    assert explain_no_interval(labels, patients, 5) == ""
    together = np.where(labels, 0, patients)
    assert explain_no_interval(labels, together, 5, min_cell_count=0) == "too few patients with the event (1)"
    assert explain_no_interval(~labels, together, 5, min_cell_count=0) == "too few patients without the event (1)"
    assert explain_no_interval(labels, together, 7) == "too few events (fewer than 11)"


def test_sums_by_patients_are_those_by_stays():
    """Patients with stays of either kind, ties, and a few events far from the fitted slope."""
    for seed, decimals in ((0, 1), (1, 3), (2, 9)):
        rng = np.random.default_rng(seed)
        labels, probabilities, patients = simulate_patients(rng, 70)
        ranking = rank(labels, np.round(probabilities, decimals).clip(1e-3, 1 - 1e-3))
        found = bootstrap_metrics([ranking], patients, 60, seed)[0]
        has_event = find_patients_with_event(labels, patients)
        (counts,) = draw_patient_counts(has_event, 60, seed, chunk_rows=60)
        tally = ranking.tally(counts[:, patients[ranking.order]])
        expected = np.stack([metric.compute(tally) for metric in METRICS.values()])
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        assert (patients[labels][:, None] == patients[~labels]).any()
