"""Printed tables of the AUROC over time."""

from __future__ import annotations

from typing import Any

import polars as pl

from clinrep.analysis.study import Study
from clinrep.analysis.suppression import round_counts
from clinrep.analysis.tables import PrintedTable, format_score, print_outcome, to_words

SCHEMA = {
    **dict.fromkeys(("site", "outcome", "axis", "model"), pl.String),
    **dict.fromkeys(("at", "estimate", "low", "high"), pl.Float64),
    **dict.fromkeys(("num_subjects", "num_events", "num_patients", "num_event_patients"), pl.UInt64),
    "reason": pl.String,
}
_AXES = {
    "hours": ("risk_auroc_by_hours", "AUROC by hours", "{:g} h"),
    "num_tokens": ("risk_auroc_by_tokens", "AUROC by number of tokens", "{:g} tokens"),
}


def build_risk_table(rows: list[dict[str, Any]], axis: str, study: Study) -> PrintedTable:
    """Return the AUROC at each point of an axis, `hours` or `num_tokens`, a row a model.

    Args:
        rows: with the columns of `SCHEMA`.
        axis: whose rows are printed.
        study: settings and sites.
    """
    name, title, heading = _AXES[axis]
    numbers = pl.DataFrame(rows, schema=SCHEMA).filter(pl.col("axis") == axis)
    config, least = study.config, study.config.min_cell_count
    whose = {"num_subjects": "num_patients", "num_events": "num_event_patients"}
    numbers = round_counts(numbers, whose, least)
    if least:  # with more digits than are printed, an AUROC times the number of pairs would tell the counts
        numbers = numbers.with_columns(pl.col("estimate", "low", "high").round(3))
    keys = ["site", "outcome"]
    scores = numbers.with_columns(
        cell=pl.struct("estimate", "low", "high", "reason").map_elements(format_score, pl.String)
    ).pivot("at", index=[*keys, "model"], values="cell", maintain_order=True)
    first = numbers.filter(pl.col("model") == pl.col("model").first().over(keys))
    counts = first.with_columns(
        cell=pl.format("{} ({})", "num_subjects", "num_events"), model=pl.lit("Stays (events)")
    ).pivot("at", index=[*keys, "model"], values="cell", maintain_order=True)
    order = numbers.select(keys).unique(maintain_order=True).with_row_index("order")
    wide = pl.concat([counts, scores]).join(order, on=keys, maintain_order="left").sort("order", maintain_order=True)
    wide = wide.with_columns(outcome=print_outcome(config))
    headings = {"outcome": "Outcome", "model": "Model"}
    headings |= {str(at): heading.format(at) for at in numbers["at"].unique().sort()}
    words, num_keys = to_words(wide, headings)
    among = {
        "hours": "the stays that have a token by then",
        "num_tokens": "the stays that have as many tokens, so that columns are of different stays",
    }
    caption = (
        f"How well what each model says by then tells test stays with the outcome from those without, among "
        f"{among[axis]}: the same stays for every model of a site and outcome. With {config.level} percentile "
        f"intervals of {config.num_bootstraps:,} bootstrap replicates resampled by patient. URT: trained on sequences "
        "cut at a uniformly random token."
    )
    if axis == "hours":
        caption += f" Hours count from {config.risk_figure.origin.replace('_', ' ')}."
    if least:
        caption += f" Numbers of stays and events are rounded down to multiples of {least} (min_cell_count)"
        caption += ", to 0 where they are of fewer patients."
    return PrintedTable(name, title, caption, numbers, words, num_keys + 1)
