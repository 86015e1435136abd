"""Unpenalized logistic regression: against an independent Newton fit, and where there is no estimate."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from clinrep.analysis.logits import estimate_logit, explain_no_fit, fit_logit, predict_logit


def simulate(num_stays: int = 600, seed: int = 0):
    """Return labels, regressors in very different units, patients of two stays each, and the true coefficients."""
    rng = np.random.default_rng(seed)
    regressors = {
        "path_length": rng.gamma(4, 4000, num_stays),
        "max_jump": rng.normal(50, 5, num_stays),
        "anomaly_score": rng.uniform(0.35, 0.65, num_stays),
    }
    truth = np.array([-8.0, 5e-5, 0.05, 6.0])
    of_patient = np.repeat(rng.normal(size=num_stays // 2), 2)
    probabilities = predict_logit(truth, regressors)
    labels = rng.random(num_stays) < 1 / (1 + np.exp(-(np.log(probabilities / (1 - probabilities)) + of_patient)))
    return labels, regressors, np.arange(num_stays) // 2, truth


def solve_by_hand(labels: np.ndarray, design: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients and inverse information by Newton's steps, on columns divided by their norms."""
    norms = np.linalg.norm(design, axis=0)
    scaled, b = design / norms, np.zeros(design.shape[1])
    for _ in range(60):
        p = 1 / (1 + np.exp(-scaled @ b))
        information = scaled.T @ (scaled * (p * (1 - p))[:, None])
        b = b + np.linalg.solve(information, scaled.T @ (labels - p))
    return b / norms, np.linalg.inv(information) / np.outer(norms, norms)


def test_fit_equals_an_independent_newton_fit_and_the_sandwich_by_hand():
    labels, regressors, patients, _ = simulate()
    fit = fit_logit(labels, regressors, patients, 0.95, "death")
    design = np.column_stack([np.ones(labels.size), *regressors.values()])
    coefficients, covariance = solve_by_hand(labels, design)
    assert fit.terms["term"].to_list() == ["intercept", "path_length", "max_jump", "anomaly_score"]
    assert fit.terms["coefficient"].to_numpy() == pytest.approx(coefficients, rel=1e-6)
    errors = np.sqrt(np.diag(covariance))
    assert fit.terms["se"].to_numpy() == pytest.approx(errors, rel=1e-6)
    assert fit.terms["low"].to_numpy() == pytest.approx(coefficients - 1.959964 * errors, rel=1e-5)
    p = 1 / (1 + np.exp(-design @ coefficients))
    scores = np.array([(design * (labels - p)[:, None])[patients == one].sum(axis=0) for one in range(300)])
    sandwich = covariance @ (scores.T @ scores) @ covariance * 300 / 299 * 599 / 596
    assert fit.terms["se_clustered"].to_numpy() == pytest.approx(np.sqrt(np.diag(sandwich)), rel=1e-6)
    likelihood = np.log(np.where(labels, p, 1 - p)).sum()
    assert fit.log_likelihood == pytest.approx(likelihood)
    share = labels.mean()
    null = labels.size * (share * np.log(share) + (1 - share) * np.log(1 - share))
    assert fit.pseudo_r2 == pytest.approx(1 - likelihood / null)


def test_estimate_equals_scikit_learn_without_a_penalty():
    labels, regressors, _, _ = simulate(seed=1)
    values = np.column_stack(list(regressors.values()))
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    other = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(scaled, labels)
    found = predict_logit(estimate_logit(labels, regressors), regressors)
    assert found == pytest.approx(other.predict_proba(scaled)[:, 1], abs=1e-6)


def test_intervals_by_patient_cover_the_truth():
    """Stays of one patient share a risk: some 95 of 100 intervals cover a coefficient of 0."""
    rng = np.random.default_rng(5)
    covered = {"": 0, "_clustered": 0}
    for _ in range(100):
        patients = np.repeat(np.arange(80), 5)
        of_patient, x = np.repeat(rng.normal(size=(80, 2)), 5, axis=0).T
        labels = rng.random(400) < 1 / (1 + np.exp(-2 * of_patient))
        fit = fit_logit(labels, {"x": x + 0.1 * rng.normal(size=400)}, patients, 0.95, "death")
        for kind in covered:
            low, high = fit.terms.select(f"low{kind}", f"high{kind}").row(1)
            covered[kind] += low < 0 < high
    assert 0.88 < covered["_clustered"] / 100 <= 1
    assert covered[""] / 100 < 0.85  # what taking stays to be independent costs


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r, y: {"max_jump": np.full(y.size, 3.0)}, "max jump is the same in all stays"),
        (lambda r, y: {"max_jump": 2 * r["path_length"] + 1}, "linearly dependent"),
        (lambda r, y: {"max_jump": np.where(y, 9.0, 1.0)}, "separate"),
        # quasi-separation: those with the event have 0 or more, those without 0 or less
        (lambda r, y: {"max_jump": np.where(np.arange(y.size) % 3, 0.0, np.where(y, 1.0, -1.0))}, "separate"),
        (lambda r, y: {}, ""),
    ],
)
def test_no_estimate_is_said_in_words(change, words):
    labels, regressors, _, _ = simulate(90)
    found = explain_no_fit(labels, regressors | change(regressors, labels))
    assert words in found
    assert bool(found) == bool(words)


def test_summary_is_that_of_statsmodels_without_the_time_of_day():
    labels, regressors, patients, _ = simulate()
    summary = fit_logit(labels, regressors, patients, 0.95, "death").summary
    for expected in ("Pseudo R-squ.:", "No. Observations:", "Covariance Type:              cluster", "anomaly_score",
                     "[0.025      0.975]"):  # fmt: skip
        assert expected in summary
    assert "Date:" not in summary
    assert "Time:" not in summary
