"""Section of the report: inliers and outliers by site and split."""

from __future__ import annotations

from functools import partial

import polars as pl

from clinrep.analysis.anomalies import METHOD_WORDS
from clinrep.analysis.anomaly_cohort import GROUPS, STAYS, describe_by_anomaly
from clinrep.analysis.study import Section, Study
from clinrep.analysis.suppression import HIDDEN
from clinrep.analysis.tables import PrintedTable, to_words


def build_anomaly_cohort_section(study: Study) -> Section:
    """Return the table of inliers, outliers and all stays."""
    return Section("cohort_by_anomaly", "Inliers and outliers", tables=[build_anomaly_cohort_table(study)])


def build_anomaly_cohort_table(study: Study) -> PrintedTable:
    """Return Tables 1 and 2 of the paper for every site and split that has representations."""
    numbers = describe_by_anomaly(study)
    cells = [
        pl.struct(pl.col(f"^{group}_.*$"), "characteristic")
        .map_elements(partial(_format_cell, group=group), pl.String)
        .alias(group)
        for group in GROUPS
    ]
    printed = numbers.select("site", "split", "characteristic", *cells)
    headings = {"split": "Split", "characteristic": "Characteristic"} | {group: group.capitalize() for group in GROUPS}
    words, num_keys = to_words(printed, headings)
    config = study.config
    method = config.anomaly_methods[0]
    quantile = f"the {config.anomalies.outlier_quantile:g} quantile of the stays it was fitted on"
    caption = (
        f"Stays with a representation, by split. Outliers: {METHOD_WORDS[method]} above "
        f"{'0.5' if method == 'isolation_forest' else quantile}, fitted on the train split of site "
        f"{config.fitted_site}. Tokens: those of the whole observation window. An event before index time excludes the "
        "stay from that outcome; later events are given as a share of the labelled stays. SD: standard deviation."
    )
    counts = tuple(f"{group}_n" for group in GROUPS)
    title = "Inliers and outliers by site and split"
    return PrintedTable("cohort_by_anomaly", title, caption, numbers, words, num_keys + 1, counts)


def _format_cell(row: dict[str, object], group: str) -> str:
    """Return `1,234 (5.6)`, `60.4 (17.9)`, or `HIDDEN` where there is no number to show."""
    count, percent, mean, sd = (row[f"{group}_{name}"] for name in ("n", "percent", "mean", "sd"))
    if count is not None:
        return f"{count:,}" if percent is None or row["characteristic"] == STAYS else f"{count:,} ({percent:.1f})"
    if mean is not None:
        return f"{mean:,.1f}" + (f" ({sd:,.1f})" if sd is not None else "")
    return HIDDEN
