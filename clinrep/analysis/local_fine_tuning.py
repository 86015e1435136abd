"""Section of the report: how many local stays a model from elsewhere, or a new one, needs at a site (Table 5)."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl

from clinrep.analysis.classifier_runs import STARTS, ClassifierRun
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.drawing import DrawnFigure, save_figure
from clinrep.analysis.inputs import TEST_SPLIT, Site
from clinrep.analysis.learning_curves import Reference, draw_learning_curves
from clinrep.analysis.metrics import METRICS
from clinrep.analysis.probes import NO_PROBE, Predicted
from clinrep.analysis.scores import ALL
from clinrep.analysis.study import Section, Study
from clinrep.analysis.style import STYLE
from clinrep.analysis.suppression import round_counts
from clinrep.analysis.tables import PrintedTable, format_score, label_model, label_outcome, print_outcome, to_words

DRAWN = ("auroc", "auprc")
UNCHANGED = "Source classifier, unchanged"
_KEYS = ["site", "outcome", "start", "training_fraction"]
# counts of stays that were learned from: those of the patients whose they are
_COUNTS = {"num_train_stays": "num_train_patients", "num_train_events": "num_train_event_patients"}
_NOTHING = (
    "No site has classifiers that learned from several shares of its train patients, from several starts, or none: "
    "02_finetune.py with --training_fraction, --from_scratch and --classifier_dir makes them (docs/manuscript.md)."
)


def build_local_section(study: Study) -> Section:
    """Return curves of AUROC and AUPRC against the number of local training stays, and their table."""
    points = collect_points(study)
    title = "Local fine-tuning"
    if points.is_empty():
        return Section("local_fine_tuning", title, text=_NOTHING)
    averaged = round_counts(average_runs(study.people.hide_scored(points)), _COUNTS, study.config.min_cell_count)
    with mpl.rc_context(STYLE):
        figures = [_draw_site(study, averaged, site) for site in averaged["site"].unique(maintain_order=True)]
    return Section("local_fine_tuning", title, tables=[_build_table(averaged, study.config)], figures=figures)


def select_curve_runs(site: Site, outcome: str) -> dict[str, ClassifierRun]:
    """Return the runs by model that make the curves of a site and outcome; {} where all did the same.

    Runs with random truncation are another question: they count where there are no others.
    """
    runs = site.classifier_runs.get(outcome, {})
    plain = {model: run for model, run in runs.items() if not run.is_urt} or runs
    is_curve = len({(run.start, run.training_fraction) for run in plain.values()}) > 1
    return plain if is_curve else {}


def collect_points(study: Study) -> pl.DataFrame:
    """Return a row a run and metric: what it started and learned from, and its scores on all test stays.

    Columns site, outcome, start, training_fraction, seed, model, those of `_COUNTS`, and those of `scores` from
    metric on.
    """
    rows = [
        {
            "site": site.name,
            "outcome": outcome,
            "start": "unchanged" if run.is_applied else run.start,
            "training_fraction": run.training_fraction,
            "seed": run.seed,
            "model": model,
            "num_train_stays": run.num_stays,
            "num_train_events": run.num_events,
            "num_train_patients": run.num_patients,
            "num_train_event_patients": run.num_event_patients,
        }
        for site in study.sites
        for outcome in study.outcomes
        for model, run in select_curve_runs(site, outcome).items()
    ]
    scores = study.scores.filter((pl.col("probe") == NO_PROBE) & (pl.col("subgroup") == ALL)).drop("probe", "subgroup")
    schema = dict.fromkeys(("site", "outcome", "start", "model"), pl.String) | {
        "training_fraction": pl.Float64,
        **dict.fromkeys(("seed", *_COUNTS, *_COUNTS.values()), pl.Int64),
    }
    frame = pl.DataFrame(rows, schema=schema)
    return frame.join(scores, on=["site", "outcome", "model"], how="inner", maintain_order="left")


def average_runs(points: pl.DataFrame) -> pl.DataFrame:
    """Return a row a site, outcome, start, share and metric, in the order of STARTS, unchanged first.

    Of a single run estimate, low and high are its own; of several that differ in seed, say, their mean, least and
    greatest, and `reason` is that of the first without an estimate, which leaves all three null.
    """
    order = {name: place for place, name in enumerate(["unchanged", *STARTS])}
    is_single = pl.len() == 1
    grouped = points.group_by([*_KEYS, "metric"], maintain_order=True).agg(
        num_runs=pl.len(),
        **{name: pl.col(name).mean().round().cast(pl.Int64) for name in _COUNTS},
        **{name: pl.col(name).min() for name in _COUNTS.values()},
        estimate=pl.when(pl.col("estimate").null_count() == 0).then(pl.col("estimate").mean()),
        low=pl.when(is_single).then(pl.col("low").first()).otherwise(pl.col("estimate").min()),
        high=pl.when(is_single).then(pl.col("high").first()).otherwise(pl.col("estimate").max()),
        reason=pl.col("reason").drop_nulls().first(),
    )
    is_none = pl.col("estimate").is_null()
    grouped = grouped.with_columns(pl.when(~is_none).then(pl.col(name)).alias(name) for name in ("low", "high"))
    places = pl.col("start").replace_strict(order, return_dtype=pl.Int64)
    return (
        grouped.with_row_index("_row")
        .with_columns(_first=pl.col("_row").min().over("site", "outcome"))
        .sort("_first", places, "training_fraction", "_row")
        .drop("_row", "_first")
    )


def label_start(start: str) -> str:
    """Return the words for a start, or for a classifier that learned nothing here."""
    return STARTS.get(start, UNCHANGED)


def _format_cell(row: dict[str, Any]) -> str:
    """Return the words of one score: of several runs mean and range, without an interval's words."""
    if row["num_runs"] == 1 or row["estimate"] is None:
        return format_score(row)
    return f"{row['estimate']:.3f} [{row['low']:.3f}\N{EN DASH}{row['high']:.3f}]"


def _build_table(averaged: pl.DataFrame, config: AnalyzeConfig) -> PrintedTable:
    keys = [*_KEYS, "num_runs", "num_train_stays", "num_train_events"]
    numbers = averaged.pivot("metric", index=keys, values=["estimate", "low", "high", "reason"], maintain_order=True)
    cell = pl.struct("estimate", "low", "high", "reason", "num_runs").map_elements(_format_cell, pl.String)
    printed = averaged.select(*keys, "metric", cell=cell).pivot(
        "metric", index=keys, values="cell", maintain_order=True
    )
    printed = printed.with_columns(
        outcome=print_outcome(config),
        start=pl.col("start").map_elements(label_start, pl.String),
        training_fraction=pl.col("training_fraction").map_elements(lambda share: f"{share:g}", pl.String),
    )
    headings = {
        "outcome": "Outcome",
        "start": "Start",
        "training_fraction": "Share",
        "num_train_stays": "Training stays",
        "num_train_events": "With the event",
        **({"num_runs": "Runs"} if averaged["num_runs"].max() != 1 else {}),
        **{name: METRICS[name].label for name in METRICS if name in printed.columns},
    }
    words, num_keys = to_words(printed, headings)
    title = "Local fine-tuning: performance by the share of the site's own train patients"
    return PrintedTable("local_fine_tuning", title, _describe(averaged, config), numbers, words, num_keys + 2)


def _describe(averaged: pl.DataFrame, config: AnalyzeConfig) -> str:
    """Return the caption of table and figures."""
    spread = (
        f"In parentheses {config.level} percentile intervals of {config.num_bootstraps:,} bootstrap replicates "
        "resampled by patient, which say nothing of the chance in training"
    )
    if (averaged["num_runs"] > 1).any():
        spread += "; in brackets the least and the greatest of several runs around their mean"
    return (
        "On the test split of each site, classifiers that learned from a share of its own train patients; of one seed "
        "the patients of a smaller share are among those of a larger one. They started from newly drawn weights, from "
        "the source site's backbone with a new head, or from its fine-tuned classifier; share 0 is that classifier as "
        f"it is. All of the validation split chose the best weights, whatever the share. {spread}."
    )


def _draw_site(study: Study, averaged: pl.DataFrame, site: str) -> DrawnFigure:
    """Draw the curves of one site: a column an outcome, AUROC above AUPRC."""
    rows = averaged.filter((pl.col("site") == site) & pl.col("metric").is_in(DRAWN))
    references = {outcome: _find_references(study, site, outcome) for outcome in rows["outcome"].unique()}
    titles = {outcome: _title_column(study, site, outcome) for outcome in rows["outcome"].unique()}
    figure = draw_learning_curves(rows, references, titles, label_start)
    where = study.say_where(site)
    caption = _describe(rows, study.config) + (
        " Bars, and the band around the unchanged classifier, are these intervals or ranges. Dotted: a probe on the "
        f"backbone fitted at {study.config.fitted_site}, which needs no local label; for AUPRC also the prevalence, "
        "that of a model that knows nothing."
    )
    if rows.filter(pl.col("start") != "unchanged")["num_train_stays"].min() == 0:
        caption += f" Shares of fewer than {study.config.min_cell_count} local patients are not drawn."
    return save_figure(figure, study.figures_dir, f"local_fine_tuning_{site}", f"Local fine-tuning{where}", caption)


def _title_column(study: Study, site: str, outcome: str) -> str:
    """Return the words above the panels of one outcome."""
    counts = study.scores.filter(site=site, outcome=outcome, subgroup=ALL).select("num_subjects", "num_events").row(0)
    return f"{label_outcome(outcome, study.config)}\n{study.people.describe(site, outcome, *counts)}"


def _find_references(study: Study, site: str, outcome: str) -> list[Reference]:
    """Return the horizontal lines of one outcome: the fitted site's probe, and the prevalence."""
    items = [item for item in study.predicted if item.site == site and item.outcome == outcome]
    lines = []
    if site != study.config.fitted_site and (probe := choose_probe(items)) is not None:
        chosen = (pl.col("model") == probe.model) & (pl.col("probe") == probe.probe) & (pl.col("subgroup") == ALL)
        of_site = (pl.col("site") == site) & (pl.col("outcome") == outcome)
        for row in study.scores.filter(chosen & of_site).iter_rows(named=True):
            if row["metric"] in DRAWN and row["estimate"] is not None:
                lines.append(Reference(row["metric"], row["estimate"], label_model(probe.model, probe.probe)))
    labels = items[0].labels if items else np.zeros(0, bool)
    if labels.size and not study.people.is_hidden("events", site, outcome, TEST_SPLIT):
        lines.append(Reference("auprc", float(labels.mean()), "Prevalence"))
    return lines


def choose_probe(items: list[Predicted]) -> Predicted | None:
    """Return the first probe on the deepest layer's last token, or on its first pooling."""
    probes = [(item.representation, item) for item in items if item.representation and item.probabilities is not None]
    ranked = sorted(probes, key=lambda pair: (-pair[0][0], pair[0][1] != "last_token"))  # stable: the first probe
    return ranked[0][1] if ranked else None
