"""Section of the report: every score of every model on the test stays."""

from __future__ import annotations

import polars as pl

from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.metrics import METRICS
from clinrep.analysis.study import Section, Study
from clinrep.analysis.tables import PrintedTable, format_score, label_model, label_outcome, to_words


def build_performance_section(study: Study) -> Section:
    """Return the table of scores."""
    return Section("performance", "Performance", tables=[_build_score_table(study.scores, study.config)])


def _build_score_table(scores: pl.DataFrame, config: AnalyzeConfig) -> PrintedTable:
    keys = ["site", "outcome", "num_subjects", "num_events", "model", "probe"]
    printed = scores.select(
        *keys,
        "metric",
        cell=pl.struct("estimate", "low", "high", "reason").map_elements(format_score, pl.String),
    ).pivot("metric", index=keys, values="cell", maintain_order=True)
    printed = printed.with_columns(
        outcome=pl.col("outcome").map_elements(lambda outcome: label_outcome(outcome, config), pl.String),
        model=pl.struct("model", "probe").map_elements(lambda row: label_model(row["model"], row["probe"]), pl.String),
        prevalence=(pl.col("num_events") / pl.col("num_subjects"))
        .fill_nan(None)
        .map_elements(lambda value: f"{value:.3f}", pl.String),
    )
    level = f"{100 * config.confidence_level:g}\N{NO-BREAK SPACE}%\N{NO-BREAK SPACE}CI"
    headings = {
        "outcome": "Outcome",
        "num_subjects": "Stays",
        "num_events": "Events",
        "prevalence": "Prevalence",
        "model": "Model",
        **{name: f"{metric.label} ({level})" for name, metric in METRICS.items()},
    }
    words, num_keys = to_words(printed, headings)
    caption = (
        f"Performance on the test split, with {100 * config.confidence_level:g} % percentile intervals of "
        f"{config.num_bootstraps:,} bootstrap replicates resampled by patient. The prevalence is the AUPRC of a "
        f"model that knows nothing. A number needs {config.min_events_for_estimate} stays with the event and as "
        f"many without, an interval {config.min_events_for_interval}. Probes were fitted on the train split of "
        f"site {config.fitted_site}."
    )
    numbers = scores.with_columns(prevalence=pl.col("num_events") / pl.col("num_subjects"))
    return PrintedTable("scores", "Performance on held-out patients", caption, numbers, words, num_keys + 4)
