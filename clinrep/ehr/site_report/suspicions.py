"""Rows whose medians look as if the site had another unit, by all its values or by those beyond their range."""

from __future__ import annotations

import polars as pl

from clinrep.ehr.site_report.drift import KEYS
from clinrep.ehr.site_report.units import MIN_VALUES, find_conversion

BEYOND_SHARE = 0.05  # below it values beyond the range are counted, but not what the row is judged by
MOST_BEYOND = 0.5  # from here on the range has probably the wrong unit, not the values

_SUSPICION = {
    "suspected_conversion": pl.String,
    "conversion_factor": pl.Float64,
    "conversion_offset": pl.Float64,
}


def add_compared_median(table: pl.DataFrame) -> pl.DataFrame:
    """Give `new unit` rows the median of train's commonest unit, and all rows the ratio of medians."""
    main = (
        table.filter(pl.col("num_binned_train") > 0)
        .sort("num_events_train", "unit", descending=[True, False])
        .group_by("source", "category", maintain_order=True)
        .agg(
            main_unit=pl.col("unit").first(),
            main_median=pl.col("median_train").first(),
            main_binned=pl.col("num_binned_train").first(),
        )
    )
    table = table.join(main, on=["source", "category"], how="left")
    is_new = pl.col("presence") == "new unit"
    table = table.with_columns(
        compared_unit=pl.when(is_new).then("main_unit").otherwise("unit"),
        median_train=pl.when(is_new).then("main_median").otherwise("median_train"),
        num_compared_train=pl.when(is_new).then("main_binned").otherwise("num_binned_train").fill_null(0),
        num_compared_site=pl.col("num_events_site") - pl.col("num_missing_site"),
    )
    ratio = pl.col("median_site") / pl.col("median_train")
    return table.with_columns(median_ratio=pl.when(pl.col("median_train") != 0).then(ratio))


def add_suspicions(table: pl.DataFrame) -> pl.DataFrame:
    """Add the suspected conversion, `is_mostly_beyond` and `beyond_conversion`.

    is_mostly_beyond: the site's median is taken from the values beyond the range, because most are, and what
        is left of them was dropped or clipped.
    beyond_conversion: what fits the values beyond the range; also where they are only a part, which is no
        suspicion of the whole row, because a unit rule would convert the others, too.
    """
    is_many = pl.col("num_beyond") >= MIN_VALUES
    is_mostly = is_many & (pl.col("share_beyond") >= MOST_BEYOND) & (pl.col("action") != "keep")
    table = table.with_columns(is_mostly_beyond=is_mostly.fill_null(False))
    is_mostly = pl.col("is_mostly_beyond")
    is_open = is_mostly | (pl.col("drift") == "strong drift") | (pl.col("presence") == "new unit")
    num_site = pl.when(is_mostly).then("num_beyond").otherwise("num_compared_site")
    is_enough = pl.min_horizontal("num_compared_train", num_site) >= MIN_VALUES
    median = pl.when(is_mostly).then("median_beyond").otherwise("median_site")
    found = _find_conversions(table.filter(is_open & is_enough), median)
    table = table.join(found, on=KEYS, how="left", nulls_equal=True)
    is_part = is_many & (pl.col("share_beyond") >= BEYOND_SHARE) & pl.col("suspected_conversion").is_null()
    part = _find_conversions(table.filter(is_part & (pl.col("num_compared_train") >= MIN_VALUES)), "median_beyond")
    part = part.select(*KEYS, beyond_conversion="suspected_conversion")
    whole = pl.when("is_mostly_beyond").then("suspected_conversion")
    table = table.join(part, on=KEYS, how="left", nulls_equal=True)
    return table.with_columns(beyond_conversion=pl.coalesce("beyond_conversion", whole))


def _find_conversions(table: pl.DataFrame, site_median: pl.Expr | str) -> pl.DataFrame:
    """Return the keys of the rows with the conversion from train's median to `site_median`, null where none fits."""
    words = pl.concat_str([*KEYS, "compared_unit"], separator=" ", ignore_nulls=True)
    rows = table.select(words.alias("words"), train="median_train", site=site_median)
    found = [find_conversion(*row) for row in rows.iter_rows()]
    values = [(f"{one.train_unit} -> {one.site_unit}", one.factor, one.offset) if one else (None,) * 3 for one in found]
    return table.select(KEYS).hstack(pl.DataFrame(values, schema=_SUSPICION, orient="row"))
