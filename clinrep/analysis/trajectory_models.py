"""Section of the report: do path length, maximum jump and anomaly score go with the outcome (Tables 6 to 13)."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from clinrep import artifacts
from clinrep.analysis.auroc import score_auroc
from clinrep.analysis.inputs import FIT_SPLIT, TEST_SPLIT, Site
from clinrep.analysis.logits import INTERCEPT, Logit, estimate_logit, fit_logit, predict_logit
from clinrep.analysis.metrics import Floats
from clinrep.analysis.study import Section, Study
from clinrep.analysis.trajectory_fits import (
    REGRESSORS,
    Measured,
    explain_unfit,
    predict_across_folds,
    predict_from_train,
    read_measures,
    select_measured,
)
from clinrep.analysis.trajectory_tables import build_check_table, build_overview, build_table
from clinrep.distributed import derive_seed
from clinrep.run import show_progress

TERMS = (INTERCEPT, *REGRESSORS)
_UNCERTAINTY = ("se", "z", "p", "low", "high")
SCHEMA = {
    "site": pl.String,
    "outcome": pl.String,
    "term": pl.String,
    "coefficient": pl.Float64,
    **dict.fromkeys(_UNCERTAINTY, pl.Float64),
    **{f"{name}_clustered": pl.Float64 for name in _UNCERTAINTY},
    **dict.fromkeys(("sd", "coefficient_per_sd", "low_per_sd", "high_per_sd"), pl.Float64),
    **dict.fromkeys(("num_subjects", "num_patients", "num_events", "num_left_out"), pl.UInt64),
    **dict.fromkeys(("pseudo_r2", "log_likelihood", "log_likelihood_null", "llr_p"), pl.Float64),
    "reason": pl.String,
}
"""`_clustered`: with standard errors by patient, and so are `low_per_sd` and `high_per_sd`."""
_CHECK_SCHEMA = {
    **dict.fromkeys(("site", "outcome", "fitted_on"), pl.String),
    **dict.fromkeys(("estimate", "low", "high"), pl.Float64),
    **dict.fromkeys(("num_subjects", "num_events"), pl.UInt64),
    "reason": pl.String,
}


def build_trajectory_section(study: Study) -> Section:
    """Return the regressions of every site that has trajectories: an overview, one table each, a held-out check."""
    measures = {site.name: read_measures(site, study) for site in study.sites}
    sites = [site for site in study.sites if measures[site.name] is not None]
    title, lacking = "Representation trajectories and outcomes", [name for name in measures if measures[name] is None]
    text = "" if not lacking else (
        f"No trajectories at {', '.join(lacking)}: run 03_extract_reps.py --trajectories true into a new directory, "
        "and give that to --representations_dir."
    )  # fmt: skip
    if not sites:
        return Section("trajectories", title, text)
    scales, scaled_by = _choose_scales(study, measures)
    results, tables, checks = [], [], []
    tasks = [(site, outcome) for site in sites for outcome in study.outcomes]
    for site, outcome in show_progress(tasks, study.config, "trajectories"):
        of_site = measures[site.name]
        assert of_site is not None
        test = select_measured(site, of_site, outcome, TEST_SPLIT)
        numbers, logit = _fit(study, site, outcome, test, scales)
        numbers = _hide(numbers, study)
        results.append(numbers)
        checks += _check_held_out(study, site, outcome, test, measures)
        if logit is not None:
            table = build_table(numbers, study, scaled_by)
            tables.append(table)
            if numbers["num_events"].null_count() == 0:  # the summary's log-likelihoods tell them
                artifacts.check_file_word(table.name, "table")
                artifacts.write_text(study.directory / "tables" / f"{table.name}.txt", logit.summary)
    overview = build_overview(pl.concat(results), study)
    held_out = build_check_table(study.people.hide_scored(pl.DataFrame(checks, schema=_CHECK_SCHEMA)), study)
    return Section("trajectories", title, text, tables=[overview, held_out, *tables])


def _hide(numbers: pl.DataFrame, study: Study) -> pl.DataFrame:
    """Return the rows without counts of people that must not be shown, nor what would tell them."""
    least = study.config.min_cell_count
    numbers = study.people.hide_scored(numbers)
    is_shown = pl.col("num_subjects").is_not_null() & pl.col("num_events").is_not_null()
    telling = ("log_likelihood", "log_likelihood_null", "pseudo_r2", "llr_p")
    is_large = is_shown & ((pl.col("num_left_out") == 0) | (pl.col("num_left_out") >= least))
    return numbers.with_columns(
        *(pl.when(is_shown).then(pl.col(name)).alias(name) for name in telling),
        num_left_out=pl.when(is_large).then("num_left_out"),
        num_patients=pl.when(is_shown & (pl.col("num_patients") >= least)).then("num_patients"),
    )


def _choose_scales(study: Study, measures: dict[str, pl.DataFrame | None]) -> tuple[dict[str, float] | None, str]:
    """Return the standard deviations that coefficients are multiplied with, the same at every site, and whose.

    None where train has no trajectories: then each fit's own stays are the measure.
    """
    name = study.config.fitted_site
    of_site = measures[name]
    train = None if of_site is None else of_site.filter(pl.col("split") == FIT_SPLIT).drop_nulls()
    if train is None or train.height < 2:
        return None, "of the same test stays"
    deviations = {regressor: float(np.std(train[regressor].to_numpy(), ddof=1)) for regressor in REGRESSORS}
    return deviations, f"of the train stays of site {name}"


def _fit(
    study: Study, site: Site, outcome: str, test: Measured, scales: dict[str, float] | None
) -> tuple[pl.DataFrame, Logit | None]:
    """Return a row a term, all null but counts and reason where there is no fit, and the fit."""
    common: dict[str, Any] = {
        "site": site.name,
        "outcome": outcome,
        "num_subjects": test.labels.size,
        "num_patients": np.unique(test.patients).size,
        "num_events": int(test.labels.sum()),
        "num_left_out": test.num_left_out,
    }
    reason = explain_unfit(test.labels, test.regressors, study.config)
    if reason:
        return pl.DataFrame([common | {"term": term, "reason": reason} for term in TERMS], schema=SCHEMA), None
    logit = fit_logit(test.labels, test.regressors, test.patients, study.config.confidence_level, outcome)
    scales = scales or {name: float(np.std(values, ddof=1)) for name, values in test.regressors.items()}
    common |= {
        "pseudo_r2": logit.pseudo_r2,
        "log_likelihood": logit.log_likelihood,
        "log_likelihood_null": logit.log_likelihood_null,
        "llr_p": logit.llr_p,
    }
    rows = []
    for row in logit.terms.iter_rows(named=True):
        sd = scales.get(row["term"])
        if sd is not None:
            row |= {"sd": sd, "coefficient_per_sd": sd * row["coefficient"]}
            row |= {"low_per_sd": sd * row["low_clustered"], "high_per_sd": sd * row["high_clustered"]}
        rows.append(common | row)
    return pl.DataFrame(rows, schema=SCHEMA), logit


def _check_held_out(
    study: Study, site: Site, outcome: str, test: Measured, measures: dict[str, pl.DataFrame | None]
) -> list[dict[str, Any]]:
    """Return the AUROC on the test stays of the fit on these very stays, across folds of them, and on train."""
    settings, seed = study.config.trajectories, f"trajectories/{site.name}/{outcome}"
    probabilities: dict[str, tuple[Floats | None, str]] = {}
    reason = explain_unfit(test.labels, test.regressors, study.config)
    fitted = None if reason else predict_logit(estimate_logit(test.labels, test.regressors), test.regressors)
    probabilities["the same stays (not held out)"] = fitted, reason
    across = (None, reason) if reason else predict_across_folds(
        test, settings.num_folds, derive_seed(study.config.seed, f"{seed}/folds")
    )  # fmt: skip
    probabilities[f"other patients of test ({settings.num_folds} folds)"] = across
    home = next(one for one in study.sites if one.name == study.config.fitted_site)
    of_home = measures[home.name]
    if of_home is not None and (of_home["split"] == FIT_SPLIT).any():
        train = select_measured(home, of_home, outcome, FIT_SPLIT)
        probabilities[f"train split of {home.name}"] = predict_from_train(train, test, study.config)
    usable = {name: values for name, (values, _) in probabilities.items() if values is not None}
    scored = score_auroc(
        test.labels, test.patients, usable, study.config, derive_seed(study.config.seed, f"{seed}/auroc")
    )
    by_name = {row.pop("model"): row for row in scored}
    counts = {"num_subjects": test.labels.size, "num_events": int(test.labels.sum())}
    return [
        {"site": site.name, "outcome": outcome, "fitted_on": name, "reason": words, **counts, **by_name.get(name, {})}
        for name, (_, words) in probabilities.items()
    ]
