"""Runs that differ in the seed of their training alone: the mean of their scores and how far they lie apart."""

from __future__ import annotations

from typing import Any

import polars as pl

from clinrep.analysis.classifier_runs import ClassifierRun
from clinrep.analysis.inputs import Site

SEED_WORDS = (
    "Rows 'mean of K seeds' give the mean of the scores, never of the predictions, of K runs that differ in the seed "
    "of their training alone \N{PLUS-MINUS SIGN} their standard deviation (of the sample: K \N{MINUS SIGN} 1), which "
    "is of the chance in training; the intervals of single seeds are of the chance in who the patients are."
)


def group_seeds(runs: dict[str, ClassifierRun]) -> dict[str, list[str]]:
    """Return name of the mean -> the models, two or more, that differ in their seed alone, of one site and outcome.

    What they started from may differ too, as classifiers of the same seeds do, unless a seed occurs twice so.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for model, run in runs.items():
        alike = [other.seed for other in runs.values() if other.recipe == run.recipe]
        key = (run.recipe,) if len(set(alike)) == len(alike) else (run.recipe, run.model)
        groups.setdefault(key, []).append(model)
    named = {}
    for models in groups.values():
        seeds = {runs[model].seed for model in models}
        if len(models) == len(seeds) > 1:
            first = models[0].replace(f" seed {runs[models[0]].seed}", "", 1)
            named[f"{first}, mean of {len(models)} seeds"] = models
    return named


def append_seed_means(scores: pl.DataFrame, sites: list[Site]) -> pl.DataFrame:
    """Return the scores, below each group of seeds their mean, and columns num_seeds and sd, null in other rows.

    Of a mean, low and high are null; where one seed has no estimate there is no mean, and `reason` is that of the seed,
    or says that the seed has no such row.
    All other columns (counts, notes) are those of the first seed: the stays are the same.

    Args:
        scores: a row a site, outcome, model and metric, and a subgroup where there is such a column.
        sites: whose runs say what differs.
    """
    empty = {"num_seeds": pl.lit(None, pl.Int64), "sd": pl.lit(None, pl.Float64)}
    frame = scores.with_columns(**empty).with_row_index("_row").with_columns(pl.col("_row").cast(pl.Float64))
    members = [
        {"site": site.name, "outcome": outcome, "model": model, "_mean": name, "_num": len(models)}
        for site in sites
        for outcome, runs in site.classifier_runs.items()
        for name, models in group_seeds(runs).items()
        for model in models
    ]
    schema = dict.fromkeys(("site", "outcome", "model", "_mean"), pl.String) | {"_num": pl.Int64}
    joined = frame.join(pl.DataFrame(members, schema=schema), on=["site", "outcome", "model"], maintain_order="left")
    keys = ["site", "outcome", "_mean", *(["subgroup"] if "subgroup" in scores.columns else []), "metric"]
    has_rows = pl.len() == pl.col("_num").first()
    is_whole = has_rows & (pl.col("estimate").null_count() == 0)
    reason = pl.when(has_rows).then(pl.col("reason").filter(pl.col("estimate").is_null()).first())
    means = joined.group_by(keys, maintain_order=True).agg(
        *(pl.col(name).first() for name in scores.columns if name not in (*keys, *_REPLACED)),
        pl.when(is_whole).then(pl.col("estimate").mean()).alias("estimate"),
        pl.when(is_whole).then(pl.col("estimate").std(ddof=1)).alias("sd"),
        *(pl.lit(None, pl.Float64).alias(name) for name in ("low", "high")),
        pl.when(~is_whole).then(reason.otherwise(pl.lit("no mean: a seed lacks this score"))).alias("reason"),
        pl.col("_num").first().alias("num_seeds"),
    )
    last = joined.group_by("site", "outcome", "_mean").agg((pl.col("_row").max() + 0.5).alias("_row"))
    means = means.join(last, on=["site", "outcome", "_mean"], maintain_order="left").rename({"_mean": "model"})
    return pl.concat([frame, means.select(frame.columns)]).sort("_row", maintain_order=True).drop("_row")


_REPLACED = ("model", "estimate", "low", "high", "reason")


def has_means(frame: pl.DataFrame) -> bool:
    """Return whether rows that `append_seed_means` returned have a mean among them."""
    return frame["num_seeds"].is_not_null().any()


def drop_unused(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame without the columns of means where it has none."""
    return frame if has_means(frame) else frame.drop("num_seeds", "sd")


def format_mean(row: dict[str, Any]) -> str:
    """Return `0.812 ± 0.011`, or the reason where there is no mean."""
    if row["estimate"] is None:
        return str(row["reason"])
    return f"{row['estimate']:.3f} \N{PLUS-MINUS SIGN} {row['sd']:.3f}"
