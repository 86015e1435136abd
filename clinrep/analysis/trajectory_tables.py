"""Printed tables of the regressions on trajectories."""

from __future__ import annotations

import polars as pl

from clinrep.analysis.study import Study
from clinrep.analysis.suppression import HIDDEN
from clinrep.analysis.tables import PrintedTable, format_score, label_outcome, print_outcome, to_words


def build_overview(numbers: pl.DataFrame, study: Study) -> PrintedTable:
    """Return all coefficients of all sites and outcomes, one row a fit."""
    of_fit = pl.struct("coefficient", "low_clustered", "high_clustered")
    cells = numbers.with_columns(cell=of_fit.map_elements(_format_coefficient, pl.String))
    keys = ["site", "outcome", "num_subjects", "num_events", "pseudo_r2", "reason"]
    wide = cells.pivot("term", index=keys, values="cell", maintain_order=True).with_columns(
        outcome=print_outcome(study.config),
        path_length=pl.coalesce("path_length", "reason"),
        pseudo_r2=pl.col("pseudo_r2").map_elements(lambda value: f"{value:.4f}", pl.String),
        **_print_counts(),
    )
    headings = {
        "outcome": "Outcome",
        "num_subjects": "Stays",
        "num_events": "Events",
        "path_length": "Path length",
        "max_jump": "Maximum jump",
        "anomaly_score": "Anomaly score",
        "pseudo_r2": "Pseudo-R\N{SUPERSCRIPT TWO}",
    }
    words, num_keys = to_words(wide, headings)
    caption = (
        "Coefficients of logistic regressions (no penalty) of each outcome on path length, maximum jump and anomaly "
        "score, all in their own units, among the labelled test stays of each site, with "
        f"{study.config.level} confidence intervals from standard errors clustered by patient. Path length: sum of the "
        "Euclidean distances between the hidden states of successive tokens; maximum jump: the largest of them; "
        "anomaly score: higher for stays less like the training stays. Associations, fitted and read on the same "
        f"stays; fitted where {study.config.trajectories.min_events} stays have the event and as many have not."
    )
    return PrintedTable("trajectory_logits", "Trajectories and outcomes", caption, numbers, words, num_keys)


def build_table(numbers: pl.DataFrame, study: Study, scaled_by: str) -> PrintedTable:
    """Return the full summary of one fit."""
    fit = numbers.row(0, named=True)
    per_sd = [
        ""
        if row["sd"] is None
        else f"{row['coefficient_per_sd']:.3f} ({_range(row['low_per_sd'], row['high_per_sd'])})"
        for row in numbers.iter_rows(named=True)
    ]
    level = study.config.level
    words = pl.DataFrame(
        {
            "Term": [term.replace("_", " ").capitalize() for term in numbers["term"]],
            "Coefficient": [f"{value:.4g}" for value in numbers["coefficient"]],
            "SE": [f"{value:.3g}" for value in numbers["se"]],
            "z": [f"{value:.2f}" for value in numbers["z"]],
            "p": [_p_value(value) for value in numbers["p"]],
            f"{level} CI": [_range(*pair) for pair in numbers.select("low", "high").iter_rows()],
            "SE by patient": [f"{value:.3g}" for value in numbers["se_clustered"]],
            "p by patient": [_p_value(value) for value in numbers["p_clustered"]],
            f"{level} CI by patient": [
                _range(*pair) for pair in numbers.select("low_clustered", "high_clustered").iter_rows()
            ],
            "Coefficient per SD (CI by patient)": per_sd,
        }
    )
    left_out, squared = fit["num_left_out"], "pseudo-R\N{SUPERSCRIPT TWO}"
    told = "; how well it fits, and statsmodels' own summary, are not shown: they would tell small numbers of people"
    if fit["llr_p"] is not None:
        told = (
            f". McFadden's {squared} {fit['pseudo_r2']:.4f}; log-likelihood {fit['log_likelihood']:.2f}, of the "
            f"intercept alone {fit['log_likelihood_null']:.2f}; likelihood-ratio test p {_p_value(fit['llr_p'], '= ')}"
        )
    stays, patients, events = (
        HIDDEN if fit[name] is None else f"{fit[name]:,}" for name in ("num_subjects", "num_patients", "num_events")
    )
    caption = (
        f"Logistic regression (maximum likelihood, no penalty) on {stays} labelled test stays of {patients} patients, "
        f"{events} with the event{told}. By patient: "
        "standard errors clustered by patient, who may have several stays; the others take stays to be independent, "
        f"as the manuscript does. Per SD: the coefficient times the standard deviation {scaled_by}."
    ) + f" Stays of a single token have no jump and are left out: {left_out}." * bool(left_out)
    title = f"{label_outcome(fit['outcome'], study.config)} at {fit['site']}, on trajectories"
    return PrintedTable(f"trajectory_logit_{fit['site']}_{fit['outcome']}", title, caption, numbers, words, 0)


def build_check_table(numbers: pl.DataFrame, study: Study) -> PrintedTable:
    """Return how well the fits rank stays they were not made on."""
    printed = numbers.with_columns(
        outcome=print_outcome(study.config),
        cell=pl.struct("estimate", "low", "high", "reason").map_elements(format_score, pl.String),
        **_print_counts(),
    )
    headings = {
        "outcome": "Outcome",
        "num_subjects": "Stays",
        "num_events": "Events",
        "fitted_on": "Fitted on",
        "cell": f"AUROC ({study.config.level} CI)",
    }
    words, num_keys = to_words(printed, headings)
    caption = (
        "How well the same regressions rank the test stays they were not fitted on, beside those they were. Folds keep "
        "all stays of a patient together; one AUROC is of all folds' stays. Anomaly scores of the train stays come "
        "from a score fitted on them. Percentile intervals of "
        f"{study.config.num_bootstraps:,} bootstrap replicates resampled by patient, the fits held as they are."
    )
    title = "Trajectories and outcomes, held out"
    return PrintedTable("trajectory_held_out", title, caption, numbers, words, num_keys + 3)


def _format_coefficient(row: dict[str, float | None]) -> str | None:
    """Return `1.234 (0.5 to 2)`, None where there is no fit."""
    value, low, high = row["coefficient"], row["low_clustered"], row["high_clustered"]
    return None if value is None or low is None or high is None else f"{value:.4g} ({_range(low, high)})"


def _print_counts() -> dict[str, pl.Expr]:
    """Return the counts as words, those that must not be shown as `HIDDEN`."""
    return {
        name: pl.col(name).map_elements(lambda count: f"{count:,}", pl.String).fill_null(HIDDEN)
        for name in ("num_subjects", "num_events")
    }


def _range(low: float, high: float) -> str:
    return f"{low:.3g} to {high:.3g}"


def _p_value(value: float, equals: str = "") -> str:
    return "<0.001" if value < 0.001 else f"{equals}{value:.3f}"
