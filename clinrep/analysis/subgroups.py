"""Groups of stays that are scored by themselves: by sex, race, ethnicity, age, ICU at index_time, inliers, outliers."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from functools import partial

import polars as pl

from clinrep.analysis.cohort import UNKNOWN
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import TEST_SPLIT, Site
from clinrep.config import lookup

logger = logging.getLogger("clinrep")

ICU_OUTCOME = "icu_admission"
SEEN_BEFORE, ENDED_BEFORE = "event before index_time", "stay ended before index_time"  # words of outcomes.parquet
SCHEMA = {"subject_id": pl.String, "attribute": pl.String, "subgroup": pl.String}


def group_by_column(site: Site, _: pl.DataFrame, config: AnalyzeConfig, name: str) -> pl.DataFrame:
    """Return the groups of a column of subjects.parquet; null is a group of its own."""
    words = pl.col(name).fill_null(UNKNOWN).str.replace_all("_", " ", literal=True)
    return site.stays.select("subject_id", subgroup=pl.format("{}: {}", pl.lit(name), words))


def group_by_age(site: Site, _: pl.DataFrame, config: AnalyzeConfig) -> pl.DataFrame:
    """Return the age bands, each from one edge to before the next; the age in years as begun."""
    edges = config.age_edges
    labels = [f"under {edges[0]}", *(f"{low}-{high - 1}" for low, high in itertools.pairwise(edges))]
    labels.append(f"{edges[-1]}+")
    age = pl.col("age")
    is_in = [age < edges[0], *(age.is_between(low, high, "left") for low, high in itertools.pairwise(edges))]
    is_in.append(age >= edges[-1])
    bands = pl.coalesce(*(pl.when(holds).then(pl.lit(label)) for holds, label in zip(is_in, labels, strict=True)))
    return site.stays.select("subject_id", subgroup=pl.format("age: {}", bands.fill_null(UNKNOWN)))


def group_by_icu(site: Site, _: pl.DataFrame, config: AnalyzeConfig) -> pl.DataFrame | None:
    """Return who had been in an ICU by index_time: whom the outcome of ICU admission leaves out for that reason.

    Not known, and in no group, of stays without a label for another reason; None where the outcome is not there.
    """
    rows = site.outcomes.filter(pl.col("outcome") == ICU_OUTCOME)
    reason = pl.col("excluded_reason")
    seen = pl.when(reason == SEEN_BEFORE).then(pl.lit("in ICU by index time"))
    known = seen.when(pl.col("label").is_not_null() | (reason == ENDED_BEFORE)).then(pl.lit("not in ICU by index time"))
    groups = rows.select("subject_id", subgroup=known).drop_nulls()
    if groups.is_empty():
        logger.info("%s: no subgroups by ICU at index_time: no outcome %s", site.name, ICU_OUTCOME)
        return None
    if groups.height < rows.height:
        logger.info("%s: ICU at index_time not known of %d stays", site.name, rows.height - groups.height)
    return groups


def group_by_anomaly(site: Site, anomalies: pl.DataFrame, config: AnalyzeConfig) -> pl.DataFrame | None:
    """Return inliers and outliers of test, by the first method of the anomaly table."""
    rows = anomalies.filter((pl.col("site") == site.name) & (pl.col("split") == TEST_SPLIT))
    if "method" in rows.columns and rows.height:
        rows = rows.filter(pl.col("method") == rows["method"][0])
    if rows.is_empty():
        logger.info("%s: no subgroups of inliers and outliers: no anomaly scores", site.name)
        return None
    group = pl.when("is_outlier").then(pl.lit("outliers")).otherwise(pl.lit("inliers"))
    return rows.select("subject_id", subgroup=group)


# attribute -> function of site, anomalies and settings that returns subject_id and subgroup, or None
SUBGROUPS: dict[str, Callable[[Site, pl.DataFrame, AnalyzeConfig], pl.DataFrame | None]] = {
    "sex": partial(group_by_column, name="sex"),
    "race": partial(group_by_column, name="race"),
    "ethnicity": partial(group_by_column, name="ethnicity"),
    "age": group_by_age,
    "icu": group_by_icu,
    "anomaly": group_by_anomaly,
}


def choose_subgroups(config: AnalyzeConfig) -> list[str]:
    """Return the attributes asked for, in the order of `SUBGROUPS`; an unknown one is an InputError."""
    wanted = SUBGROUPS if config.subgroups is None else config.subgroups
    known = {name: lookup(SUBGROUPS, name, "subgroup") for name in wanted}
    return [name for name in SUBGROUPS if name in known]


def assign_subgroups(sites: list[Site], anomalies: pl.DataFrame, config: AnalyzeConfig) -> dict[str, pl.DataFrame]:
    """Return for each site a row a stay and attribute: subject_id, attribute, subgroup; subgroups in printed order."""
    assigned = {}
    for site in sites:
        frames = [pl.DataFrame(schema=SCHEMA)]
        for attribute in choose_subgroups(config):
            groups = SUBGROUPS[attribute](site, anomalies, config)
            if groups is not None:
                named = groups.select("subject_id", pl.lit(attribute).alias("attribute"), "subgroup")
                frames.append(named.sort("subgroup", "subject_id"))
        assigned[site.name] = pl.concat(frames)
    return assigned
