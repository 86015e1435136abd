"""Logistic regression without a penalty: coefficients with their uncertainty, or words for why there are none.

N stays, K terms: the constant and the regressors.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy.optimize import linprog

from clinrep.analysis.metrics import Floats

INTERCEPT = "intercept"
MAX_ITERATIONS = 100
_SEPARATED = 1e-3  # a direction that is to separate does so by this much in standard deviations, not by rounding


@dataclass(frozen=True)
class Logit:
    """One fitted model."""

    terms: pl.DataFrame
    """A row a term, the intercept first: coefficient, se, z, p, low, high of the model, and with `_clustered` those
    of standard errors by patient."""
    pseudo_r2: float
    """McFadden's: 1 - log_likelihood / log_likelihood_null."""
    log_likelihood: float
    log_likelihood_null: float
    """Of the intercept alone."""
    llr_p: float
    """Of the likelihood-ratio test of all regressors, chi-squared."""
    summary: str
    """What statsmodels prints, once with either kind of standard errors, without the time of day."""


def explain_no_fit(labels: NDArray[np.bool_], regressors: dict[str, Floats]) -> str:
    """Return why the maximum-likelihood estimate does not exist or is not unique, '' where it does and is.

    Constant and linearly dependent regressors are named; separation is found by a linear program: the estimate is
    infinite where a direction b other than 0 has b.x >= 0 for every stay with the event and <= 0 for every other
    (Albert and Anderson, Biometrika 71 (1984) 1-10; Konis, thesis, Oxford 2007, chapter 4).

    Args:
        labels: (N,), both values among them.
        regressors: name -> (N,), finite.
    """
    constant = [name for name, values in regressors.items() if np.ptp(values) == 0]
    if constant:
        return f"no fit: {', '.join(constant).replace('_', ' ')} is the same in all stays"
    design, _, _ = _standardize(regressors)
    if np.linalg.matrix_rank(design, tol=1e-7 * np.sqrt(len(design))) < design.shape[1]:
        return "no fit: the regressors are linearly dependent"
    signed = np.where(labels, 1.0, -1.0)[:, None] * design
    found = linprog(-signed.sum(axis=0), A_ub=-signed, b_ub=np.zeros(len(signed)), bounds=(-1, 1), method="highs")
    if found.status == 0 and (signed @ found.x).max() > _SEPARATED:
        return "no fit: the regressors separate stays with the event from those without, so coefficients are infinite"
    return ""


def estimate_logit(labels: NDArray[np.bool_], regressors: dict[str, Floats]) -> Floats:
    """Return (K,) the maximum-likelihood coefficients, the intercept first, where `explain_no_fit` finds nothing.

    Newton's steps on standardized regressors, whatever their units, turned back into these: a path length in the
    thousands beside a score below 1 would make the Hessian nearly singular.
    """
    design, means, deviations = _standardize(regressors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of has been looked for
        scaled = sm.Logit(labels.astype(np.float64), design).fit(disp=0, maxiter=MAX_ITERATIONS).params
    slopes = scaled[1:] / deviations
    return np.r_[scaled[0] - slopes @ means, slopes]


def predict_logit(coefficients: Floats, regressors: dict[str, Floats]) -> Floats:
    """Return (N,) the probability of the event."""
    predictor = coefficients[0] + np.stack(list(regressors.values()), axis=1) @ coefficients[1:]
    return 1 / (1 + np.exp(-np.clip(predictor, -700, 700)))


def fit_logit(
    labels: NDArray[np.bool_], regressors: dict[str, Floats], patients: NDArray[np.intp], level: float, outcome: str
) -> Logit:
    """Return statsmodels' logit of the labels on a constant and the regressors in their own units.

    Standard errors once from the Hessian, as in the manuscript (Tables 6-13), and once clustered by patient
    (the sandwich with G / (G - 1) * (N - 1) / (N - K); Cameron and Miller, J. Human Resources 50 (2015) 317-372),
    because stays of one patient are not independent.

    Args:
        labels: (N,), both values among them.
        regressors: name -> (N,), such that `explain_no_fit` finds nothing.
        patients: (N,) number of each stay's patient.
        level: coverage of the intervals.
        outcome: printed in the summary.
    """
    names = [INTERCEPT, *regressors]
    design = sm.add_constant(np.stack(list(regressors.values()), axis=1), has_constant="add")
    model = sm.Logit(labels.astype(np.float64), design)
    start = estimate_logit(labels, regressors)
    plain, clustered = (
        model.fit(start_params=start, disp=0, maxiter=MAX_ITERATIONS, **more)
        for more in ({}, {"cov_type": "cluster", "cov_kwds": {"groups": patients}})
    )
    alpha = round(1 - level, 12)
    terms = pl.DataFrame({"term": names, "coefficient": plain.params, **_describe(plain, alpha)}).hstack(
        pl.DataFrame({f"{name}_clustered": values for name, values in _describe(clustered, alpha).items()})
    )
    printed = [result.summary(yname=outcome, xname=names, alpha=alpha).as_text() for result in (plain, clustered)]
    summary = f"{printed[0]}\n\nStandard errors clustered by patient:\n\n{printed[1]}\n"
    return Logit(terms, plain.prsquared, plain.llf, plain.llnull, plain.llr_pvalue, _blank_clock(summary))


def _describe(result: Any, alpha: float) -> dict[str, Floats]:
    low, high = result.conf_int(alpha).T
    return {"se": result.bse, "z": result.tvalues, "p": result.pvalues, "low": low, "high": high}


def _standardize(regressors: dict[str, Floats]) -> tuple[Floats, Floats, Floats]:
    """Return the design (N, K) of standardized regressors, their means and standard deviations (K - 1,)."""
    values = np.stack(list(regressors.values()), axis=1)
    means, deviations = values.mean(axis=0), values.std(axis=0)
    return np.c_[np.ones(len(values)), (values - means) / deviations], means, deviations


def _blank_clock(summary: str) -> str:
    """Return the summary with blanks for date and time: equal inputs give equal bytes."""
    return re.sub(r"^(?:Date|Time):(?: +\S+)+?(?= {2,}\S)", lambda found: " " * len(found[0]), summary, flags=re.M)
