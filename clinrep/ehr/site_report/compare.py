"""One row per category and unit: what the second site has of what the tokenizer was made from."""

from __future__ import annotations

import polars as pl

from clinrep.ehr.quantiles import get_bin_words
from clinrep.ehr.site_report.drift import KEYS, measure_drift
from clinrep.ehr.site_report.suspicions import add_compared_median, add_suspicions
from clinrep.ehr.site_report.verdicts import add_verdicts
from clinrep.ehr.sources import BEYOND_SCHEMA

_DEFAULT_NUM_BINS = 10
_NAMES = dict.fromkeys(["source", "category", "name"], pl.String)


def compare_sites(
    train: pl.DataFrame,
    site: pl.DataFrame,
    vocabulary: pl.DataFrame,
    quantiles: pl.DataFrame,
    num_train_stays: int,
    num_site_stays: int,
    unknown_token: str = "UNK",
    *,
    beyond: pl.DataFrame | None = None,
    names: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return one row per (source, category, unit) of either side, what needs attention first.

    `train` and `site` have source, category, unit, value, num_events, bin_counts, num_missing and median:
    one row per (source, category, unit, value), of the tokenizer's own train stays and of all adult stays
    of the new site, whose values are binned with the frozen edges. An event without a value by nature has
    num_missing 0. `vocabulary` and `quantiles` are the frozen tokenizer's tables.

    `beyond` has at most one row per (source, category, unit): num_beyond, the site's values beyond the
    declared range `low` to `high`, their median_beyond, and the `action`: with drop these events are not in
    `site`, with clip and keep they are. `names` has source, category and `name`, the category as the tables
    call it, null where the source has none; without it no unit rule is suggested.

    verdict, note: the row in a word (verdicts.VERDICTS) and in sentences.
    presence: `both`; `missing` (the category has no event at the site, nor one dropped by its range) or
        `new` (none in train);
        `other unit` and `new unit`: both sites have the category, this unit only train or only the site.
    events_per_stay_*, _ratio: all events by all stays, site / train.
    num_unknown, share_unknown: site events that get the unknown token, because the tokenizer lacks the
        category, the word of the value, or the edges of (category, unit). null without site events.
    num_beyond, share_beyond, median_beyond: values beyond the range; the share is of all events, also dropped ones.
    share_missing_*: events whose value is null, NaN or infinite; null for events that have no value.
    psi, psi_by_chance, drift, largest_change*: see measure_drift. Of bins, or of the words of a
        categorical value; null where one side has none.
    train_shares, site_shares: share of the binned values in each bin. Train's own are what is expected:
        `is_uniform_expected` says whether these are 1 / num_bins each (within 0.01, or one value where
        there are fewer than 100) or not, because values are tied. null where nothing is binned.
    median_*, median_ratio: of the finite values, site / train. In a `new unit` row median_train is that of
        `compared_unit`, the unit with most train events.
    suspected_conversion, conversion_factor, conversion_offset: site = factor * train + offset would explain
        the medians. Given only where the drift is strong or the unit is new, with 20 values on each side, or
        where most values are beyond the range and dropped or clipped: then median_beyond is the site's.
    unit_rule: the entry of `unit_rules` that would mend this, as YAML; see rules.suggest_unit_rule.
    """
    num_bins = _find_num_bins(train, site)
    if beyond is None:
        beyond = pl.DataFrame(schema=BEYOND_SCHEMA)
    beyond = beyond.select(*BEYOND_SCHEMA).cast(BEYOND_SCHEMA)  # type: ignore[arg-type]
    table = _add_presence(_join_sides(train, site, num_bins, beyond), num_train_stays, num_site_stays)
    unknown = _count_unknown(train, site, vocabulary, quantiles, unknown_token)
    drift = measure_drift(_list_cells(train, site, num_bins))
    for other in (unknown, drift):
        table = table.join(other, on=KEYS, how="left", nulls_equal=True)
    table = add_suspicions(add_compared_median(_add_shares(table, num_bins)))
    names = pl.DataFrame(schema=_NAMES) if names is None else names.select(*_NAMES).cast(_NAMES)  # type: ignore[arg-type]
    names = names.unique(["source", "category"], keep="first", maintain_order=True).with_columns(is_named=True)
    return add_verdicts(table.join(names, on=["source", "category"], how="left"))


def _find_num_bins(train: pl.DataFrame, site: pl.DataFrame) -> int:
    lengths = [frame.select(pl.col("bin_counts").list.len().max()).item() for frame in (train, site)]
    return max(length or 0 for length in lengths) or _DEFAULT_NUM_BINS


def _get_bin(number: int) -> pl.Expr:
    return pl.col("bin_counts").list.get(number, null_on_oob=True).cast(pl.Int64).fill_null(0)


def _join_sides(train: pl.DataFrame, site: pl.DataFrame, num_bins: int, beyond: pl.DataFrame) -> pl.DataFrame:
    """Return the counts of both sides, `_train` and `_site`; `bin_<i>_*` are those of the bins.

    num_charted_site: events before any was dropped by its range.
    """
    sides = [
        frame.group_by(KEYS).agg(
            pl.col("num_events", "num_missing").cast(pl.Int64).sum().name.suffix(f"_{side}"),
            pl.col("median").drop_nulls().first().alias(f"median_{side}"),
            pl.col("value").is_not_null().any().alias(f"is_word_{side}"),
            *[_get_bin(number).sum().alias(f"bin_{number}_{side}") for number in range(num_bins)],
        )
        for side, frame in (("train", train), ("site", site))
    ]
    table = sides[0]
    for other in (sides[1], beyond.with_columns(pl.col("num_beyond").cast(pl.Int64))):
        table = table.join(other, on=KEYS, how="full", coalesce=True, nulls_equal=True)
    counts = [name for name, dtype in table.schema.items() if dtype == pl.Int64]
    table = table.with_columns(pl.col(counts).fill_null(0), pl.col("is_word_train", "is_word_site").fill_null(False))
    table = table.with_columns(
        pl.sum_horizontal(f"bin_{number}_{side}" for number in range(num_bins)).alias(f"num_binned_{side}")
        for side in ("train", "site")
    )
    num_dropped = pl.when(pl.col("action") == "drop").then("num_beyond").otherwise(0)
    table = table.with_columns(num_charted_site=pl.col("num_events_site") + num_dropped)
    share = pl.when(pl.col("num_charted_site") > 0).then(pl.col("num_beyond") / pl.col("num_charted_site"))
    return table.with_columns(share_beyond=share).filter(pl.col("num_events_train") + pl.col("num_charted_site") > 0)


def _add_presence(table: pl.DataFrame, num_train_stays: int, num_site_stays: int) -> pl.DataFrame:
    has_train, has_site = pl.col("num_events_train") > 0, pl.col("num_charted_site") > 0
    category = ["source", "category"]
    presence = (
        pl.when(has_train & has_site)
        .then(pl.lit("both"))
        .when(has_train)
        .then(pl.when(has_site.any().over(category)).then(pl.lit("other unit")).otherwise(pl.lit("missing")))
        .otherwise(pl.when(has_train.any().over(category)).then(pl.lit("new unit")).otherwise(pl.lit("new")))
    )
    per_stay = [
        (pl.col(f"num_events_{side}") / stays if stays else pl.lit(None, pl.Float64)).alias(f"events_per_stay_{side}")
        for side, stays in (("train", num_train_stays), ("site", num_site_stays))
    ]
    ratio = pl.col("events_per_stay_site") / pl.col("events_per_stay_train")
    has_value = [
        pl.col(f"median_{side}").is_not_null() | (pl.col(f"num_binned_{side}") > 0) | pl.col(f"is_word_{side}")
        for side in ("train", "site")
    ]
    missing = [
        pl.when(pl.any_horizontal(has_value).any().over("source") & (pl.col(f"num_events_{side}") > 0))
        .then(pl.col(f"num_missing_{side}") / pl.col(f"num_events_{side}"))
        .alias(f"share_missing_{side}")
        for side in ("train", "site")
    ]
    return table.with_columns(*per_stay, *missing, presence=presence).with_columns(
        events_per_stay_ratio=pl.when(has_train).then(ratio),
        num_expected=pl.col("events_per_stay_train").fill_null(0) * num_site_stays,
    )


def _count_unknown(
    train: pl.DataFrame, site: pl.DataFrame, vocabulary: pl.DataFrame, quantiles: pl.DataFrame, unknown_token: str
) -> pl.DataFrame:
    """Return `num_unknown`, `share_unknown` and `unknown_values` (up to three words) of the site's events."""
    tokens = vocabulary["token"].filter(vocabulary["token"] != unknown_token)
    in_vocabulary = pl.col("category").is_in(tokens.implode())
    # A tokenizer that fuses category and value into one token has no token of the category alone.
    fused = train.group_by("source").agg(in_vocabulary.any().not_().alias("is_fused"))
    learned = train.filter(pl.col("num_events") > 0).select("source", "category", is_learned=True).unique()
    known = in_vocabulary | pl.col("category").is_in(quantiles["category"].unique().implode())
    known = known | (pl.col("is_fused") & pl.col("is_learned")).fill_null(False)
    num_binned = pl.sum_horizontal(pl.col("bin_counts").list.sum(), "num_missing").cast(pl.Int64)
    is_numeric = (pl.col("median").is_not_null() | (pl.col("bin_counts").list.sum() > 0)).fill_null(False)
    num_events = pl.col("num_events").cast(pl.Int64)
    is_known_word = pl.col("value").is_in(tokens.implode())
    rows = site.join(fused, on="source", how="left").join(learned, on=["source", "category"], how="left")
    rows = rows.with_columns(
        num_unknown=pl.when(~known)
        .then(num_events)
        .when(pl.col("value").is_not_null())
        .then(pl.when(is_known_word).then(0).otherwise(num_events))
        .when(is_numeric)
        .then((num_events - num_binned).clip(lower_bound=0))
        .otherwise(0)
    ).sort("num_unknown", "value", descending=[True, False])
    words = pl.col("value").filter((pl.col("num_unknown") > 0) & pl.col("value").is_not_null())
    num_unknown = pl.col("num_unknown").sum()
    return rows.group_by(KEYS, maintain_order=True).agg(
        num_unknown=num_unknown,
        share_unknown=pl.when(num_events.sum() > 0).then(num_unknown / num_events.sum()),
        unknown_values=words.head(3).str.join(", "),
    )


def _list_cells(train: pl.DataFrame, site: pl.DataFrame, num_bins: int) -> pl.DataFrame:
    """Return the counts `train` and `site` of every bin and every word, what measure_drift takes."""
    words = get_bin_words(num_bins)
    sides = []
    for side, frame in (("train", train), ("site", site)):
        bins = frame.group_by(KEYS).agg(_get_bin(number).sum().alias(word) for number, word in enumerate(words))
        bins = bins.unpivot(words, index=KEYS, variable_name="cell", value_name=side)
        values = frame.filter(pl.col("value").is_not_null())
        values = values.select(*KEYS, cell="value", **{side: pl.col("num_events").cast(pl.Int64)})
        sides.append(pl.concat([bins, values]).group_by(*KEYS, "cell").agg(pl.col(side).sum()))
    cells = sides[0].join(sides[1], on=[*KEYS, "cell"], how="full", coalesce=True, nulls_equal=True)
    return cells.with_columns(pl.col("train", "site").fill_null(0))


def _add_shares(table: pl.DataFrame, num_bins: int) -> pl.DataFrame:
    shares = []
    for side in ("train", "site"):
        total = pl.col(f"num_binned_{side}")
        parts = pl.concat_list([pl.col(f"bin_{number}_{side}") / total for number in range(num_bins)])
        shares.append(pl.when(total > 0).then(parts).alias(f"{side}_shares"))
    uneven = pl.max_horizontal(
        (pl.col(f"bin_{i}_train") / pl.col("num_binned_train") - 1 / num_bins).abs() for i in range(num_bins)
    )
    allowed = pl.max_horizontal(pl.lit(0.01), 1 / pl.col("num_binned_train"))
    is_uniform = pl.when(pl.col("num_binned_train") > 0).then(uneven <= allowed)
    return table.with_columns(*shares, is_uniform_expected=is_uniform)
