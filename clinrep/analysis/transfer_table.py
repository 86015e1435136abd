"""Section of the report: AUROC at every site, of all test stays, inliers and outliers (Tables 3 and 4 of the paper)."""

from __future__ import annotations

import polars as pl

from clinrep.analysis.anomalies import METHOD_WORDS
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import Site
from clinrep.analysis.performance import format_cells
from clinrep.analysis.probes import NO_PROBE
from clinrep.analysis.scores import ALL
from clinrep.analysis.seeds import SEED_WORDS, append_seed_means, drop_unused
from clinrep.analysis.study import Section, Study
from clinrep.analysis.tables import PrintedTable, print_model, print_outcome, to_words

METRIC = "auroc"
# subgroup in scores.parquet -> heading, in the order of the paper's columns
COLUMNS = {ALL: "overall", "inliers": "inliers", "outliers": "outliers"}


def build_transfer_section(study: Study) -> Section:
    """Return the two tables: what reads representations or timelines, and the classifiers."""
    tables = []
    for name, title, is_wanted in (
        ("transfer_representations", "Representation-based classifiers and baselines", pl.col("probe") != NO_PROBE),
        ("transfer_classifiers", "Fine-tuned classifiers and zero-shot prediction", pl.col("probe") == NO_PROBE),
    ):
        rows = study.scores.filter(is_wanted)
        if rows.height:
            hidden = study.people.hide_scored(rows)
            tables.append(_build_table(hidden, study.sites, name, f"{title}: AUROC by site", study.config))
    text = "" if tables else "There are no predictions to compare."
    return Section("transfer_table", "Transfer between sites", text, tables)


def _build_table(scores: pl.DataFrame, sites: list[Site], name: str, title: str, config: AnalyzeConfig) -> PrintedTable:
    """Return the AUROC of each outcome and model (rows) at each site overall, of inliers and of outliers (columns)."""
    columns = [name for name in COLUMNS if name in set(scores["subgroup"])]
    keys = ["outcome", "model", "probe"]
    chosen = scores.filter((pl.col("metric") == METRIC) & pl.col("subgroup").is_in(columns))
    chosen = chosen.select(*keys, "site", "subgroup", "metric", "estimate", "low", "high", "reason")
    numbers = drop_unused(append_seed_means(chosen, sites))
    cells = numbers.with_columns(
        cell=format_cells(numbers.columns),
        column=pl.format("{}/{}", "site", "subgroup"),
    )
    printed = cells.pivot("column", index=keys, values="cell", maintain_order=True)
    outcomes = {outcome: index for index, outcome in enumerate(printed["outcome"].unique(maintain_order=True))}
    printed = printed.sort(pl.col("outcome").replace_strict(outcomes, return_dtype=pl.Int64), maintain_order=True)
    printed = printed.with_columns(
        outcome=print_outcome(config),
        model=print_model(),
    )
    names = [site for site in config.timelines_dir if site in set(numbers["site"])]
    headings = {"outcome": "Outcome", "model": "Model"}
    for site in names:
        for subgroup in columns:
            key = f"{site}/{subgroup}"
            where = f"{site}, {COLUMNS[subgroup]}" if len(names) > 1 else COLUMNS[subgroup].capitalize()
            headings[key] = where
            if key not in printed.columns:
                printed = printed.with_columns(pl.lit(None, pl.String).alias(key))
            printed = printed.with_columns(pl.col(key).fill_null("no such stay"))
    words, _ = to_words(printed.with_columns(site=pl.lit("")), headings)
    caption = _caption(config, len(columns) > 1) + (f" {SEED_WORDS}" if "num_seeds" in numbers.columns else "")
    return PrintedTable(name, title, caption, numbers, words, num_keys=1)


def _caption(config: AnalyzeConfig, is_split: bool) -> str:
    groups = (
        f" Inliers and outliers: by {METHOD_WORDS[config.anomaly_methods[0]]}, fitted on the train split of site "
        f"{config.fitted_site}."
        if is_split
        else ""
    )
    return (
        f"AUROC on the test split of each site, with {config.level} bootstrap intervals by patient. Probes and "
        f"baselines were fitted on the train split of site {config.fitted_site} alone; a site's fine-tuned classifiers "
        f"are those given for it.{groups}"
    )
