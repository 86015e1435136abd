"""How far a category's bins, or its words, have drifted: the population stability index."""

from __future__ import annotations

from statistics import NormalDist

import polars as pl

MIN_EVENTS = 10  # below this, shares are shown and not judged
MODERATE_DRIFT, STRONG_DRIFT = 0.1, 0.25
EMPTY_CELL_COUNT = 0.5
CHANCE_LEVEL = 0.95

KEYS = ["source", "category", "unit"]


def measure_drift(cells: pl.DataFrame) -> pl.DataFrame:
    """Return the population stability index of every (source, category, unit) with counts on both sides.

    `cells` has these keys, `cell` (Q0, Q1, ..., or a word) and its counts `train` and `site`.

    `psi` = sum over cells of (s - t) * ln(s / t), where t and s are the cell's shares of the train and the
    site events: the symmetrised Kullback-Leibler divergence (Jeffreys 1946), under this name in Lewis, An
    Introduction to Credit Scoring (1992), and Siddiqi, Credit Risk Scorecards (2006), which also have the
    customary limits: below 0.1 no change worth action (`ok`), 0.1 to 0.25 `moderate drift`, above 0.25
    `strong drift`. They are a custom, not a test. A cell empty on both sides adds nothing (bins between
    tied edges); one empty on one side is counted there as half an event, share 0.5 / n, because the
    logarithm needs a share above 0 and an arbitrary tiny one would decide the index.

    `psi_by_chance` is the 95 % quantile of `psi` if both sites were alike: chi-squared with (cells - 1)
    degrees of freedom times (1 / n_train + 1 / n_site) (Yurdakul, Statistical Properties of Population
    Stability Index, 2018; it takes events as independent, so the true quantile lies somewhat above).
    `drift` is `too few` below 10 events on a side, or where `psi` reaches 0.1 but not `psi_by_chance`.

    `largest_change` is the cell that adds most to `psi`, with `largest_change_train` and `_site`, its shares.
    """
    drift = _sum_cells(cells)
    chance = [find_psi_by_chance(*row) for row in drift.select("num_cells", "num_train", "num_site").iter_rows()]
    drift = drift.with_columns(pl.Series("psi_by_chance", chance, dtype=pl.Float64))
    return drift.with_columns(drift=_name_drift()).drop("num_cells", "num_train", "num_site")


def _sum_cells(cells: pl.DataFrame) -> pl.DataFrame:
    """Return psi and the largest change, with num_cells, num_train and num_site."""
    keys = [pl.col(key) for key in KEYS]
    totals = [pl.col(side).sum().over(keys).alias(f"num_{side}") for side in ("train", "site")]
    shares = [
        (pl.max_horizontal(side, pl.lit(EMPTY_CELL_COUNT)) / pl.col(f"num_{side}")).alias(f"{side}_share")
        for side in ("train", "site")
    ]
    difference = pl.col("site_share") - pl.col("train_share")
    largest = pl.col("part").arg_max()
    return (
        cells.filter((pl.col("train") > 0) | (pl.col("site") > 0))
        .with_columns(totals)
        .filter((pl.col("num_train") > 0) & (pl.col("num_site") > 0))
        .sort(*KEYS, "cell")
        .with_columns(shares)
        .with_columns(part=difference * (pl.col("site_share") / pl.col("train_share")).log())
        .group_by(KEYS, maintain_order=True)
        .agg(
            pl.col("num_train", "num_site").first(),
            num_cells=pl.len(),
            psi=pl.col("part").sum(),
            largest_change=pl.col("cell").get(largest),
            largest_change_train=(pl.col("train") / pl.col("num_train")).get(largest),
            largest_change_site=(pl.col("site") / pl.col("num_site")).get(largest),
        )
    )


def find_psi_by_chance(num_cells: int, num_train: int, num_site: int) -> float:
    """Return `psi_by_chance` (see measure_drift); Wilson and Hilferty's chi-squared quantile (PNAS 17, 1931)."""
    if num_cells < 2:
        return 0.0
    freedom = num_cells - 1
    spread = 2 / (9 * freedom)
    quantile = freedom * (1 - spread + NormalDist().inv_cdf(CHANCE_LEVEL) * spread**0.5) ** 3
    return quantile * (1 / num_train + 1 / num_site)


def _name_drift() -> pl.Expr:
    is_small = pl.min_horizontal("num_train", "num_site") < MIN_EVENTS
    is_chance = (pl.col("psi") >= MODERATE_DRIFT) & (pl.col("psi") <= pl.col("psi_by_chance"))
    return (
        pl.when(is_small | is_chance)
        .then(pl.lit("too few"))
        .when(pl.col("psi") < MODERATE_DRIFT)
        .then(pl.lit("ok"))
        .when(pl.col("psi") <= STRONG_DRIFT)
        .then(pl.lit("moderate drift"))
        .otherwise(pl.lit("strong drift"))
    )
