"""DeLong's variance against loops over all pairs of stays, and against what happens in repeated samples."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from clinrep.analysis.delong import compute_auroc_covariance, compute_placements
from clinrep.analysis.metrics import rank


def make_stays(num_stays=60, num_patients=25, num_models=3, seed=0):
    rng = np.random.default_rng(seed)
    patients = np.unique(rng.integers(num_patients, size=num_stays), return_inverse=True)[1]
    labels = rng.random(num_stays) < 0.4
    models = [np.round(rng.random(num_stays) + 0.4 * labels, 1) for _ in range(num_models)]  # with ties
    return labels, models, patients


def compute_components(labels, probabilities):
    """Return V10 and V01 of DeLong 1988, equations 4 and 5, by the definition."""
    ours, theirs = probabilities[labels][:, None], probabilities[~labels][None, :]
    wins = (ours > theirs) + 0.5 * (ours == theirs)
    return wins.mean(axis=1), wins.mean(axis=0)


def compute_covariance_by_loop(labels, models, patients):
    """Return the covariance of Obuchowski 1997 by loops over patients."""
    num_models = len(models)
    components = [compute_components(labels, model) for model in models]
    areas = [ours.mean() for ours, _ in components]
    num_events, num_others = labels.sum(), (~labels).sum()
    groups = np.unique(patients)
    with_event = [group for group in groups if labels[patients == group].any()]
    without = [group for group in groups if (~labels[patients == group]).any()]
    covariance = np.zeros((num_models, num_models))
    for r in range(num_models):
        for s in range(num_models):
            s10 = s01 = s11 = s11_turned = 0.0
            for group in groups:
                of_events, of_others = patients[labels] == group, patients[~labels] == group
                ours = [components[m][0][of_events].sum() - of_events.sum() * areas[m] for m in (r, s)]
                theirs = [components[m][1][of_others].sum() - of_others.sum() * areas[m] for m in (r, s)]
                s10 += ours[0] * ours[1]
                s01 += theirs[0] * theirs[1]
                s11 += ours[0] * theirs[1]
                s11_turned += ours[1] * theirs[0]
            s10 *= len(with_event) / ((len(with_event) - 1) * num_events)
            s01 *= len(without) / ((len(without) - 1) * num_others)
            factor = len(groups) / (len(groups) - 1)
            covariance[r, s] = s10 / num_events + s01 / num_others
            covariance[r, s] += factor * (s11 + s11_turned) / (num_events * num_others)
    return covariance


def test_components_and_areas_are_those_of_the_definition():
    labels, models, patients = make_stays()
    for model in models:
        placements = compute_placements(rank(labels, model))
        ours, theirs = compute_components(labels, model)
        np.testing.assert_allclose(placements[labels], ours)
        np.testing.assert_allclose(placements[~labels], theirs)
    areas, _ = compute_auroc_covariance([rank(labels, model) for model in models], labels, patients)
    assert areas == pytest.approx([roc_auc_score(labels, model) for model in models])


def test_one_stay_a_patient_gives_delong():
    labels, models, _ = make_stays()
    _, covariance = compute_auroc_covariance([rank(labels, m) for m in models], labels, np.arange(labels.size))
    ours, theirs = zip(*(compute_components(labels, model) for model in models), strict=True)
    expected = np.cov(ours) / labels.sum() + np.cov(theirs) / (~labels).sum()  # DeLong 1988, equation 7
    np.testing.assert_allclose(covariance, expected, rtol=1e-12)


def test_several_stays_a_patient_give_obuchowski():
    labels, models, patients = make_stays()
    _, covariance = compute_auroc_covariance([rank(labels, m) for m in models], labels, patients)
    np.testing.assert_allclose(covariance, compute_covariance_by_loop(labels, models, patients), rtol=1e-12)


def test_copies_of_a_stay_leave_the_variance_as_it_is():
    labels, models, _ = make_stays(num_models=2)
    once = compute_auroc_covariance([rank(labels, m) for m in models], labels, np.arange(labels.size))[1]
    copied = np.repeat(labels, 5)
    rankings = [rank(copied, np.repeat(model, 5)) for model in models]
    again = compute_auroc_covariance(rankings, copied, np.repeat(np.arange(labels.size), 5))[1]
    np.testing.assert_allclose(again, once, rtol=1e-12)


def test_hand_computed_five_stays():
    """Events at 0.9 and 0.4, others at 0.6, 0.4 (a tie) and 0.1: V10 = 1, 1/2; V01 = 1/2, 3/4, 1; area 3/4."""
    labels, model = np.array([1, 1, 0, 0, 0], bool), np.array([0.9, 0.4, 0.6, 0.4, 0.1])
    areas, covariance = compute_auroc_covariance([rank(labels, model)], labels, np.arange(5))
    assert areas[0] == pytest.approx(3 / 4)
    assert covariance[0, 0] == pytest.approx((2 * 0.25**2) / 1 / 2 + (2 * 0.25**2) / 2 / 3)


def test_events_of_one_patient_alone_have_no_variance():
    labels = np.array([1, 1, 0, 0], bool)
    _, covariance = compute_auroc_covariance(
        [rank(labels, np.array([0.9, 0.2, 0.3, 0.1]))], labels, np.array([0, 0, 1, 2])
    )
    assert np.isnan(covariance).all()


def test_variance_is_that_of_repeated_samples_of_dependent_stays():
    """400 samples of 80 patients with three stays of one severity: the mean variance is the variance of the areas."""
    rng = np.random.default_rng(1)
    areas, variances, naive = [], [], []
    for _ in range(400):
        severity = np.repeat(rng.normal(size=80), 3)
        labels = severity + rng.normal(size=240) > 0.5
        ranking = rank(labels, severity + 0.7 * rng.normal(size=240))
        area, covariance = compute_auroc_covariance([ranking], labels, np.repeat(np.arange(80), 3))
        areas.append(area[0])
        variances.append(covariance[0, 0])
        naive.append(compute_auroc_covariance([ranking], labels, np.arange(240))[1][0, 0])
    assert np.mean(variances) == pytest.approx(np.var(areas), rel=0.15)
    assert np.mean(naive) < 0.8 * np.var(areas)  # what taking stays as independent would say
