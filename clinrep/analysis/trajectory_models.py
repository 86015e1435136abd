"""Section of the report: do path length, maximum jump and anomaly score go with the outcome (Tables 6 to 13)."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from clinrep import artifacts
from clinrep.analysis.auroc import score_auroc
from clinrep.analysis.inputs import FIT_SPLIT
from clinrep.analysis.logits import INTERCEPT, estimate_logit, predict_logit
from clinrep.analysis.metrics import Floats
from clinrep.analysis.study import Section, Study
from clinrep.analysis.trajectory_fits import (
    REGRESSORS,
    Regression,
    fit_regressions,
    predict_across_folds,
    predict_from_train,
    read_all_measures,
    select_measured,
)
from clinrep.analysis.trajectory_tables import build_check_table, build_overview, build_table
from clinrep.distributed import derive_seed

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
    measures = read_all_measures(study)
    title, lacking = "Representation trajectories and outcomes", [name for name in measures if measures[name] is None]
    text = "" if not lacking else (
        f"No trajectories at {', '.join(lacking)}: run 03_extract_reps.py --trajectories true into a new directory, "
        "and give that to --representations_dir."
    )  # fmt: skip
    if len(lacking) == len(measures):
        return Section("trajectories", title, text)
    scales, scaled_by = _choose_scales(study, measures)
    results, tables, checks = [], [], []
    for one in fit_regressions(study):
        numbers = _hide(_list_terms(one, scales), one, study)
        results.append(numbers)
        checks.append(_hide(pl.DataFrame(_check_held_out(study, one, measures), schema=_CHECK_SCHEMA), one, study))
        if one.logit is not None:
            table = build_table(numbers, study, scaled_by)
            tables.append(table)
            if not one.has_hidden(study):  # the summary has the numbers of stays, and log-likelihoods tell events
                artifacts.check_file_word(table.name, "table")
                artifacts.write_text(study.directory / "tables" / f"{table.name}.txt", one.logit.summary)
    overview = build_overview(pl.concat(results), study)
    held_out = build_check_table(pl.concat(checks), study)
    return Section("trajectories", title, text, tables=[overview, held_out, *tables])


def _hide(numbers: pl.DataFrame, one: Regression, study: Study) -> pl.DataFrame:
    """Return the rows without counts of people that must not be shown, nor what would tell them.

    Where few stays are left out, not even how many there are: all labelled ones, in other tables, would tell the few.
    """
    numbers, gone = study.people.hide_scored(numbers), set()
    if one.has_hidden(study):
        gone |= {"num_left_out", "num_patients", "log_likelihood", "log_likelihood_null", "pseudo_r2", "llr_p"}
    if one.test.tells_few(study.config.min_cell_count):
        gone |= {"num_subjects", "num_events"}
        scores = [name for name in ("estimate", "low", "high") if "estimate" in numbers.columns]
        numbers = numbers.with_columns(pl.col(scores).round(3))
    return numbers.with_columns(
        pl.lit(None, dtype).alias(name) for name, dtype in numbers.schema.items() if name in gone
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


def _list_terms(one: Regression, scales: dict[str, float] | None) -> pl.DataFrame:
    """Return a row a term, all null but counts and reason where there is no fit."""
    test, logit = one.test, one.logit
    common: dict[str, Any] = {
        "site": one.site.name,
        "outcome": one.outcome,
        "num_subjects": test.labels.size,
        "num_patients": np.unique(test.patients).size,
        "num_events": int(test.labels.sum()),
        "num_left_out": test.num_left_out,
    }
    if logit is None:
        return pl.DataFrame([common | {"term": term, "reason": one.reason} for term in TERMS], schema=SCHEMA)
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
    return pl.DataFrame(rows, schema=SCHEMA)


def _check_held_out(study: Study, one: Regression, measures: dict[str, pl.DataFrame | None]) -> list[dict[str, Any]]:
    """Return the AUROC on the test stays of the fit on these very stays, across folds of them, and on train."""
    site, outcome, test, reason = one.site, one.outcome, one.test, one.reason
    settings, seed = study.config.trajectories, f"trajectories/{site.name}/{outcome}"
    probabilities: dict[str, tuple[Floats | None, str]] = {}
    fitted = None if reason else predict_logit(estimate_logit(test.labels, test.regressors), test.regressors)
    probabilities["the same stays (not held out)"] = fitted, reason
    across = (None, reason) if reason else predict_across_folds(
        test, settings.num_folds, derive_seed(study.config.seed, f"{seed}/folds")
    )  # fmt: skip
    probabilities[f"other patients of test ({settings.num_folds} folds)"] = across
    home = next(known for known in study.sites if known.name == study.config.fitted_site)
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
