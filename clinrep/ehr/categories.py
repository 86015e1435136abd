"""The table `categories`: what a site charts of each category, for comparing another site with it."""

from __future__ import annotations

import numpy as np
import polars as pl

from clinrep.artifacts.columns import TYPES
from clinrep.artifacts.schema import TABLES
from clinrep.ehr.configs.sources import EdgeToken
from clinrep.ehr.configs.tokenize import TokenizeConfig
from clinrep.ehr.values import Values, find_column_group
from clinrep.ehr.vocabulary import name_tokens

SCHEMA = {name: TYPES[column.type] for name, column in TABLES["categories"].columns.items()}


def describe_categories(
    values: Values, static: pl.DataFrame, discharge: pl.DataFrame, cohort: pl.DataFrame, config: TokenizeConfig
) -> pl.DataFrame:
    """Return the table `categories` of the stays the quantiles are of.

    `static` and `discharge` are the edge tokens (see `name_edges`) of those stays, the rows of `cohort`.
    """
    frames = [pl.DataFrame(schema=SCHEMA), _describe_codes(values, config)]
    for name, words, edges in (
        ("static", static, config.static_tokens),
        ("discharge", discharge, config.discharge_tokens),
    ):
        for edge, word in zip(edges, words.columns, strict=True):
            if edge.column is None:
                continue
            if "{bin}" in edge.token:
                frames.append(_describe_column(values, name, edge, cohort))
            else:
                counts = words[word].value_counts(name="num_events").rename({word: "category"})
                frames.append(_fill(counts.with_columns(source=pl.lit(name))))
    # Tokens without a prefix may be of two columns (race and ethnicity unknown): they are one category.
    keys = ["source", "category", "unit", "value"]
    sums = [pl.col("num_events").sum(), pl.col("num_missing").sum()]
    table = (
        pl.concat(frames)
        .group_by(keys, maintain_order=True)
        .agg(*sums, pl.col("bin_counts").first(), pl.col("median").first())
    )
    return table.filter(pl.col("num_events") > 0).sort(keys, nulls_last=False)


def _describe_codes(values: Values, config: TokenizeConfig) -> pl.DataFrame:
    """Return a row per code that the chosen stays have; several codes of one token and unit are one."""
    names, tokens = [], []
    for _, source, category, key, _, word in values.codes.iter_rows():
        names.append(config.sources[source].name)
        token, value_token = name_tokens(config, source, category, key, word)
        tokens.append(None if word is None else value_token or token)
    codes = values.codes.select(
        source=pl.Series(names, dtype=pl.String),
        category="key",
        unit="unit",
        value=pl.Series(tokens, dtype=pl.String),
        num_events=pl.Series(values.num_chosen, dtype=pl.UInt64),
        num_missing=pl.Series(values.num_chosen_missing, dtype=pl.UInt64),
        group=pl.Series(values.group_of_code, dtype=pl.Int64),
    )
    groups = pl.DataFrame(
        {
            "group": np.arange(values.groups.height),
            "bin_counts": pl.Series(values.quantiles.bin_count.tolist(), dtype=pl.List(pl.UInt64)),
            "median": pl.Series(values.quantiles.median).fill_nan(None),
        }
    )
    joined = codes.join(groups, on="group", how="left", maintain_order="left")
    is_number = pl.col("group") >= 0
    return _fill(joined.with_columns(num_missing=pl.when(is_number).then("num_missing").otherwise(0)))


def _describe_column(values: Values, source: str, edge: EdgeToken, cohort: pl.DataFrame) -> pl.DataFrame:
    """Return the row of a column of numbers that edge tokens bin."""
    group = find_column_group(values.groups, str(edge.column))
    row = {
        "source": source,
        "category": edge.column,
        "num_events": cohort.height,
        "num_missing": cohort.height - int(values.quantiles.count[group]),
        "bin_counts": values.quantiles.bin_count[group].tolist(),
        "median": float(values.quantiles.median[group]),
    }
    return _fill(
        pl.DataFrame([row], schema={name: SCHEMA[name] for name in row}).with_columns(pl.col("median").fill_nan(None))
    )


def _fill(rows: pl.DataFrame) -> pl.DataFrame:
    """Return `rows` with every column of SCHEMA, those it lacks empty."""
    defaults = {"num_missing": pl.lit(0), "bin_counts": pl.lit([], dtype=pl.List(pl.UInt64))}
    missing = {name: defaults.get(name, pl.lit(None)) for name in SCHEMA if name not in rows.columns}
    filled = rows.with_columns(**missing).with_columns(pl.col("bin_counts").fill_null([]))
    return filled.select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())
