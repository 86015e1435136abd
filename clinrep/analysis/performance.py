"""Section of the report: every score of every model on the test stays."""

from __future__ import annotations

from typing import Any

import polars as pl

from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.metrics import METRICS
from clinrep.analysis.null_ece import NUM_DRAWS
from clinrep.analysis.scores import ALL
from clinrep.analysis.seeds import SEED_WORDS, append_seed_means, drop_unused, format_mean
from clinrep.analysis.study import Section, Study
from clinrep.analysis.tables import PrintedTable, format_score, print_model, print_outcome, to_words

FEW_EVENTS = "\N{DAGGER}"
# as benchmarks/coverage.py prints
FEW_EVENTS_COVERAGE = (
    "With few events intervals are too narrow and lie too high: in simulations with about 10, 20 and 40 events the "
    "95 % interval of an AUROC of 0.86 held the true value in 84, 91 and 91 % of samples, and "
    "lay above it in 15, 8 and 7 %."
)


def build_performance_section(study: Study) -> Section:
    """Return the table of scores."""
    return Section("performance", "Performance", tables=[_build_score_table(study)])


def _build_score_table(study: Study) -> PrintedTable:
    config = study.config
    scores = mark_few_events(study.scores.filter(subgroup=ALL), study)
    hidden = study.people.hide_scored(scores).with_columns(prevalence=pl.col("num_events") / pl.col("num_subjects"))
    numbers = drop_unused(append_seed_means(hidden, study.sites))
    printed = pivot_scores(numbers, ["site", "outcome", "num_subjects", "num_events", "model", "probe"], config)
    headings = {
        "outcome": "Outcome",
        "num_subjects": "Stays",
        "num_events": "Events",
        "prevalence": "Prevalence",
        "model": "Model",
        **{name: f"{metric.label} ({config.level_ci})" for name, metric in METRICS.items()},
    }
    words, num_keys = to_words(printed, headings)
    caption = (
        f"Performance on the test split, with {describe_intervals(config)} "
        f"{describe_ece_interval(config)} The prevalence is the AUPRC of a "
        f"model that knows nothing. A number needs {config.min_events_for_estimate} stays with the event and as "
        f"many without, an interval {config.min_events_for_interval}; {FEW_EVENTS} marks numbers from stays "
        f"of fewer than {config.few_events} patients of either kind. {FEW_EVENTS_COVERAGE} ECE: "
        "expected calibration error in up to "
        f"{config.num_calibration_bins} groups of equal numbers of stays; slope and intercept are those of the "
        "recalibration of the log-odds, 1 and 0 where probabilities are right. Probes were fitted on the train split "
        f"of site {config.fitted_site}."
    )
    caption += f" {SEED_WORDS}" if "num_seeds" in numbers.columns else ""
    return PrintedTable("scores", "Performance on held-out patients", caption, numbers, words, num_keys + 4)


def describe_intervals(config: AnalyzeConfig) -> str:
    """Return the words of a caption for the intervals of the score table."""
    return (
        f"{config.level} percentile intervals of {config.num_bootstraps:,} bootstrap replicates, patients with and "
        "without an event drawn separately."
    )


def describe_ece_interval(config: AnalyzeConfig) -> str:
    """Return the words of a caption for the interval of the ECE, which is another."""
    return (
        "That of the ECE is basic, which takes off some of its bias, and begins at 0 unless the ECE exceeds the "
        f"{config.level} quantile of {NUM_DRAWS} draws of labels from the model's own probabilities (widened where "
        "stays of a patient are alike)."
    )


def mark_few_events(scores: pl.DataFrame, study: Study) -> pl.DataFrame:
    """Return the scores with `note`: that those with the event, or without, are the stays of few patients.

    Scores without `subgroup` are of all stays.
    """
    least, patients = study.config.few_events, study.class_patients
    if "subgroup" not in scores.columns:
        patients = patients.filter(subgroup=ALL).drop("subgroup")
    keys = [name for name in ("site", "outcome", "subgroup") if name in patients.columns]
    counts = [pl.col(name).fill_null(0) for name in ("num_event_patients", "num_other_patients")]
    notes = [f"events of fewer than {least} patients", f"non-events of fewer than {least} patients"]
    marked = scores.join(patients, on=keys, how="left", maintain_order="left").with_columns(
        note=pl.when(counts[0] < least).then(pl.lit(notes[0])).when(counts[1] < least).then(pl.lit(notes[1]))
    )
    return marked.drop("num_event_patients", "num_other_patients")


def format_cells(columns: list[str]) -> pl.Expr:
    """Return the words of each score, and of the mean over seeds where the frame has the columns of one."""
    names = [name for name in ("estimate", "low", "high", "reason", "num_seeds", "sd") if name in columns]

    def format_row(row: dict[str, Any]) -> str:
        return format_mean(row) if row.get("num_seeds") else format_score(row)

    return pl.struct(names).map_elements(format_row, pl.String)


def pivot_scores(scores: pl.DataFrame, keys: list[str], config: AnalyzeConfig) -> pl.DataFrame:
    """Return a row for each value of `keys` with a printed column a metric, outcome and model in words, and prevalence.

    Numbers from few events end in `FEW_EVENTS`.
    """
    mark = pl.when(pl.col("note").is_not_null() & pl.col("estimate").is_not_null()).then(pl.lit(FEW_EVENTS))
    cell = format_cells(scores.columns)
    printed = scores.select(*keys, "metric", cell=cell + mark.otherwise(pl.lit("")))
    return printed.pivot("metric", index=keys, values="cell", maintain_order=True).with_columns(
        outcome=print_outcome(config),
        model=print_model(),
        prevalence=(pl.col("num_events") / pl.col("num_subjects"))
        .fill_nan(None)
        .map_elements(lambda value: f"{value:.3f}", pl.String),
    )
