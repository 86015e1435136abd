"""What the values of a site look like: counts, bins and medians of every code, over train or all stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from clinrep.config import InputError
from clinrep.ehr.configs.tokenize import EdgeToken, TokenizeConfig
from clinrep.ehr.events import EventLog
from clinrep.ehr.quantiles import GroupQuantiles, learn_quantiles


@dataclass(frozen=True)
class Values:
    """Every code and edge column with the values it has: C codes, G groups, of one (category, unit) each."""

    codes: pl.DataFrame
    """A row per code: code, source, category, key, unit, word."""
    groups: pl.DataFrame
    """A row per group, sorted: category, unit."""
    group_of_code: np.ndarray
    """i64 (C,): the group of its values, -1 for a code without numbers."""
    num_events: np.ndarray
    """i64 (C,): events of all adult stays."""
    num_missing: np.ndarray
    """i64 (C,): of these, with a value that is null, NaN or infinite."""
    num_chosen: np.ndarray
    """i64 (C,): events of the stays the quantiles are of."""
    num_chosen_missing: np.ndarray
    """i64 (C,): of these, with such a value."""
    quantiles: GroupQuantiles


def summarize_values(
    log: EventLog,
    cohort: pl.DataFrame,
    is_chosen: np.ndarray,
    config: TokenizeConfig,
    frozen: pl.DataFrame | None = None,
) -> Values:
    """Count the events of all stays, and learn the quantiles of the chosen ones, bool (stays,).

    With a `frozen` table `quantiles`, values are counted in its bins.
    """
    codes = log.codes.to_frame(config)
    is_numeric = np.array([config.sources[s].value_column is not None for s in codes["source"]], dtype=bool)
    columns = list_edge_columns([*config.static_tokens, *config.discharge_tokens])
    groups, group_of_code = _find_groups(codes, is_numeric, columns)
    counts = np.zeros((4, codes.height), dtype=np.int64)
    for events in log.store.iterate():
        is_missing = ~np.isfinite(events.value)
        rows = is_chosen[events.stay]
        for i, mask in enumerate((None, is_missing, rows, rows & is_missing)):
            counts[i] += np.bincount(events.code if mask is None else events.code[mask], minlength=codes.height)

    edge_groups = [(column, find_column_group(groups, column)) for column in columns]

    def iterate() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for events in log.store.iterate():
            yield _choose(group_of_code[events.code], events.value, is_chosen[events.stay], config)
        for column, group in edge_groups:
            value = cohort[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
            yield _choose(np.full(len(value), group), value, is_chosen, config)

    memory = int(config.memory_gb * 1e9 / 8)
    edges = None if frozen is None else match_edges(groups, frozen, config.num_bins)
    quantiles = learn_quantiles(iterate, groups.height, config.num_bins, memory, edges)
    num_events, num_missing, num_chosen, num_chosen_missing = counts
    return Values(codes, groups, group_of_code, num_events, num_missing, num_chosen, num_chosen_missing, quantiles)


def _choose(
    group: np.ndarray, value: np.ndarray, is_chosen: np.ndarray, config: TokenizeConfig
) -> tuple[np.ndarray, np.ndarray]:
    is_number = ~np.isnan(value) if config.quantiles_include_infinite else np.isfinite(value)
    # polars sorts -0.0 and 0.0 as equal, so edges would show the order of rows; adding 0.0 makes both 0.0.
    return np.where(is_chosen & is_number, group, -1), value + 0.0


def list_edge_columns(edges: list[EdgeToken]) -> list[str]:
    """Return the columns whose numbers edge tokens bin."""
    return sorted({edge.column for edge in edges if edge.column and "{bin}" in edge.token})


def _find_groups(codes: pl.DataFrame, is_numeric: np.ndarray, columns: list[str]) -> tuple[pl.DataFrame, np.ndarray]:
    """Return the distinct (category, unit) of codes with numbers and of edge columns, and each code's."""
    keys = codes.select("code", "unit", category="key")
    numeric = keys.filter(pl.Series(is_numeric))
    schema = {"category": pl.String, "unit": pl.String}
    edge = pl.DataFrame({"category": columns, "unit": [None] * len(columns)}, schema=schema)
    shared = numeric.filter(pl.col("unit").is_null())["category"].unique().to_list()
    if twice := sorted(set(shared) & set(columns)):
        raise InputError(
            f"a category is spelled {twice[0]!r}, as a column that edge tokens bin; give its token a prefix"
        )
    groups = pl.concat([numeric.select("category", "unit"), edge]).unique().sort("category", "unit", nulls_last=False)
    numbered = groups.with_row_index("group").with_columns(pl.col("group").cast(pl.Int64))
    joined = keys.join(numbered, on=["category", "unit"], how="left", nulls_equal=True, maintain_order="left")
    group = joined["group"].fill_null(-1).to_numpy()
    return groups, np.where(is_numeric, group, -1)


def find_column_group(groups: pl.DataFrame, column: str) -> int:
    """Return the group of a column whose numbers edge tokens bin."""
    is_it = (pl.col("category") == column) & pl.col("unit").is_null()
    return int(groups.select(is_it.arg_max()).item())


def make_quantiles(values: Values) -> pl.DataFrame:
    """Return the table `quantiles`: groups with at least one value."""
    table = values.groups.with_columns(
        train_count=pl.Series(values.quantiles.count, dtype=pl.UInt64),
        edges=pl.Series(values.quantiles.edges.tolist(), dtype=pl.List(pl.Float64)),
    )
    return table.filter(pl.col("train_count") > 0)


def match_edges(groups: pl.DataFrame, quantiles: pl.DataFrame, num_bins: int) -> np.ndarray:
    """Return the edges of each group f64 (G, E) in a table `quantiles`, NaN where it has none."""
    joined = groups.join(quantiles, on=["category", "unit"], how="left", nulls_equal=True, maintain_order="left")
    has_edges = joined["edges"].is_not_null().to_numpy()
    edges = np.full((groups.height, num_bins - 1), np.nan)
    if has_edges.any():
        edges[has_edges] = np.array(joined["edges"].drop_nulls().to_list(), dtype=np.float64)
    return edges
