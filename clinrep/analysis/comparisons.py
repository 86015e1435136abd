"""Section of the report: do models differ from each other, and does a model differ between sites."""

from __future__ import annotations

import itertools
from typing import Any

import polars as pl

from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.differences import (
    COMPARED,
    MODEL_SCHEMA,
    SITE_SCHEMA,
    Evaluated,
    adjust_p,
    compare_models,
    compare_sites,
    evaluate_group,
)
from clinrep.analysis.inputs import TEST_SPLIT, Site
from clinrep.analysis.metrics import METRICS
from clinrep.analysis.replicates import group_models
from clinrep.analysis.study import Section, Study
from clinrep.analysis.suppression import format_count
from clinrep.analysis.tables import PrintedTable, label_model, print_outcome, to_words
from clinrep.run import show_progress

TITLE = "Comparisons"


def build_comparison_section(study: Study) -> Section:
    """Compare the models of each site and outcome, and each model between sites."""
    config = study.config
    groups = group_models(study.predicted, config)
    evaluated = [evaluate_group(group, config) for group in show_progress(groups, config, "comparisons")]
    tables, words = [], []
    rows = [row for one in evaluated for row in compare_models(one, config)]
    if rows:
        tables.append(_build_model_table(rows, study))
    else:
        words.append("Models are not compared: no site and outcome has two, one of them the reference.")
    if len(study.sites) > 1:
        rows, reasons = _pair_sites(study.sites, evaluated, config)
        words += reasons
        tables += [_build_site_table(rows, study)] if rows else []
    return Section("comparisons", TITLE, " ".join(words), tables)


def _pair_sites(
    sites: list[Site], evaluated: list[Evaluated], config: AnalyzeConfig
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the differences of later sites from earlier ones, and the words for sites that are not compared."""
    by_site = {
        site.name: {one.group.outcome: one for one in evaluated if one.group.site == site.name} for site in sites
    }
    rows, words = [], []
    for earlier, later in itertools.combinations(sites, 2):
        num_common = _count_common_patients(earlier, later)
        if num_common:
            words.append(
                f"Sites {later.name} and {earlier.name} are not compared: "
                f"test stays of {format_count(num_common, config.min_cell_count)} patients are in both, "
                "and the test needs independent patients."
            )
            continue
        for outcome, one in by_site[later.name].items():
            if outcome in by_site[earlier.name]:
                rows += compare_sites(one, by_site[earlier.name][outcome], config)
    return rows, words


def _count_common_patients(one: Site, other: Site) -> int:
    """Return of how many patients two sites share test stays: same ids and times (ids alone may coincide)."""
    stays = [site.stays.filter(pl.col("split") == TEST_SPLIT) for site in (one, other)]
    return stays[0].join(stays[1], on=["subject_id", "patient_id", "start", "end"], how="semi")["patient_id"].n_unique()


def _build_model_table(rows: list[dict[str, Any]], study: Study) -> PrintedTable:
    config = study.config
    numbers = pl.DataFrame(rows, schema=MODEL_SCHEMA, orient="row")
    family = ["site", "metric"]
    numbers = adjust_p(numbers, family, "p_holm", numbers["is_printed"])
    numbers = study.people.round_hidden(adjust_p(numbers, family, "p_holm_all_pairs"))
    reference = pl.struct(pl.col("reference_model").alias("model"), pl.col("reference_probe").alias("probe"))
    printed = numbers.filter("is_printed").with_columns(beside=reference.map_elements(_label, pl.String))
    caption = (
        f"Differences between models on the test split, model minus the one it is compared with (a lower Brier score "
        f"is better), on the same stays. {_describe_statistics(config, 'paired: all models in the same replicates')} "
        f"Holm's adjustment takes all comparisons printed here of one site and metric, over all its outcomes, as one "
        f"family; the CSV file has the other pairs of models, too, and the adjustment over all pairs."
    )
    title = "Differences between models"
    return _build_table("comparisons", title, caption, numbers, printed, "Compared with", config)


def _build_site_table(rows: list[dict[str, Any]], study: Study) -> PrintedTable:
    config = study.config
    order = {outcome: index for index, outcome in enumerate(study.outcomes)}
    rows = sorted(rows, key=lambda row: (order[row["outcome"]], COMPARED.index(row["metric"])))
    numbers = adjust_p(
        pl.DataFrame(rows, schema=SITE_SCHEMA, orient="row"), ["site", "reference_site", "metric"], "p_holm"
    )
    numbers = study.people.round_hidden(numbers, "site", "reference_site")
    beside = pl.format("{} \N{MINUS SIGN} {}", "site", "reference_site")
    printed = numbers.with_columns(beside=beside, site=pl.lit(""))
    caption = (
        f"Differences between sites of models of the same name, on the test split of each. "
        f"{_describe_statistics(config, 'drawn independently at each site, whose patients are taken to be others')} "
        f"Holm's adjustment takes all comparisons printed here of one pair of sites and metric, over all outcomes, as "
        f"one family. AUPRC and Brier score also move with the share of stays that have the event, so a difference in "
        f"them is not of the model alone."
    )
    return _build_table("site_comparisons", "Differences between sites", caption, numbers, printed, "Sites", config)


def _build_table(
    name: str,
    title: str,
    caption: str,
    numbers: pl.DataFrame,
    printed: pl.DataFrame,
    heading: str,
    config: AnalyzeConfig,
) -> PrintedTable:
    """Return a table of differences; `beside`, under `heading`, says between what."""
    headings = {"outcome": "Outcome", "metric": "Metric", "model": "Model", "beside": heading}
    headings |= {"result": f"Difference ({config.level_ci})", "p_raw": "p", "p_adjusted": "p (Holm)"}
    words, num_keys = to_words(_print_results(printed, config), headings)
    return PrintedTable(name, title, caption, numbers, words, num_keys + 2)


def _describe_statistics(config: AnalyzeConfig, how: str) -> str:
    """Return the sentences of both captions that say what intervals and p-values are."""
    smallest = 2 / (config.num_bootstraps + 1)
    return (
        f"{config.level} percentile intervals of {config.num_bootstraps:,} bootstrap replicates "
        f"resampled by patient, {how}. p of AUROC: DeLong's test with Obuchowski's variance for patients with several "
        f"stays; of the others: twice the smaller share of replicates on either side of 0 (no smaller than "
        f"{smallest:.2g}). An interval and a test need {config.min_events_for_interval} stays with the event and as "
        f"many without."
    )


def _print_results(numbers: pl.DataFrame, config: AnalyzeConfig) -> pl.DataFrame:
    """Return outcome, metric, model and results as words, beside the other columns."""
    return numbers.with_columns(
        outcome=print_outcome(config),
        metric=pl.col("metric").map_elements(lambda name: METRICS[name].label, pl.String),
        model=pl.struct("model", "probe").map_elements(_label, pl.String),
        result=pl.struct("difference", "low", "high", "reason").map_elements(format_difference, pl.String),
        p_raw=pl.col("p").map_elements(format_p, pl.String),
        p_adjusted=pl.col("p_holm").map_elements(format_p, pl.String),
    )


def _label(row: dict[str, Any]) -> str:
    return label_model(row["model"], row["probe"])


def format_difference(row: dict[str, Any]) -> str:
    """Return `+0.012 (-0.003 to +0.027)` with true minus signs, and the reason where something is missing."""
    if row["difference"] is None:
        return str(row["reason"])
    words = _sign(row["difference"])
    if row["low"] is None:
        return f"{words}, no interval: {row['reason']}"
    words += f" ({_sign(row['low'])} to {_sign(row['high'])})"
    return words + (f", {row['reason']}" if row["reason"] else "")


def _sign(value: float) -> str:
    """Return the number with its sign; what rounds to 0 has none."""
    words = f"{value:+.3f}"
    return "0.000" if float(words) == 0 else words.replace("-", "\N{MINUS SIGN}")


def format_p(value: float) -> str:
    """Return `0.034`, or `<0.001`."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"
