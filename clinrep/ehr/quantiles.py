"""Quantile edges of numeric values, learned on train, and the bins they make."""

from __future__ import annotations

import numpy as np
import polars as pl

# Words of the bins: Q0 is below the first edge, Q9 (of ten) at or above the last.
BIN_WORD = "Q{}"


def get_bin_words(num_bins: int) -> list[str]:
    """Return Q0, Q1, ... in order."""
    return [BIN_WORD.format(number) for number in range(num_bins)]


def learn_quantiles(train_values: pl.DataFrame, num_bins: int) -> pl.DataFrame:
    """Return the table `quantiles` of train values, sorted by category and unit (null first).

    `train_values` has category, unit and value, of train stays only. Null, NaN and infinite values
    take no part; a (category, unit) without any other has no row. Edges are numpy's linear quantiles
    at numpy.arange(1 / num_bins, 1, 1 / num_bins) (spec/manuscript.md, section 0) and repeat where
    values are tied.
    """
    probabilities = np.arange(1 / num_bins, 1, 1 / num_bins)[: num_bins - 1]
    finite = train_values.filter(pl.col("value").is_finite())
    groups = finite.group_by("category", "unit").agg(pl.len().cast(pl.UInt64).alias("train_count"), pl.col("value"))
    # numpy itself: polars rounds its interpolation otherwise, and edges must not depend on the library.
    edges = [np.quantile(values.to_numpy(), probabilities).tolist() for values in groups["value"]]
    table = groups.drop("value").with_columns(pl.Series("edges", edges, dtype=pl.List(pl.Float64)))
    return table.sort("category", "unit", nulls_last=False)


def find_bins(values: pl.DataFrame, quantiles: pl.DataFrame, num_bins: int) -> pl.Series:
    """Return the bin number i32 of each row of `values` (category, unit, value), in its order.

    Bins are left-closed: the number is how many edges are <= value, as numpy.digitize. So bins
    between tied edges stay empty, and a constant category has all its values in the last bin. Null
    where the value is null, NaN or infinite; -1 where it is finite but (category, unit) has no edges.
    """
    wide = quantiles.select(
        "category", "unit", *[pl.col("edges").list.get(i).alias(f"edge_{i}") for i in range(num_bins - 1)]
    )
    keys = values.select("category", "unit", "value")
    joined = keys.join(wide, on=["category", "unit"], how="left", nulls_equal=True, maintain_order="left")
    num_below = pl.sum_horizontal(
        [(pl.col(f"edge_{i}") <= pl.col("value")).cast(pl.Int32) for i in range(num_bins - 1)]
    )
    number = (
        pl.when(~pl.col("value").is_finite() | pl.col("value").is_null())
        .then(None)
        .when(pl.col("edge_0").is_null())
        .then(-1)
        .otherwise(num_below)
    )
    return joined.select(number.cast(pl.Int32).alias("bin"))["bin"]
