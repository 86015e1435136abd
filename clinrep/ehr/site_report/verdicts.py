"""What the numbers of a row mean: one word, a few sentences, and a place in the order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import polars as pl

from clinrep.ehr.site_report.drift import MIN_EVENTS, MODERATE_DRIFT
from clinrep.ehr.site_report.rules import is_renamed, suggest_unit_rule
from clinrep.ehr.site_report.suspicions import BEYOND_SHARE

UNKNOWN_SHARE = 0.05  # below it unknown events are noted, but not what the row is judged by
MORE_MISSING = 0.2  # difference of the shares of missing values
FREQUENCY_RATIO = 3.0  # events per stay, either way
UNEXPLAINED_RATIO = 3.0  # of medians, either way, that is worth a sentence

# In the order of what needs attention first.
VERDICTS: dict[str, str] = {
    "beyond range": "at least 5% of the values, and 10 of them, are beyond the range that the settings declare",
    "unit mismatch": "the values look as if they were in another unit than in train (suspected)",
    "unknown": "at least 5% of the events, and 10 of them, get the unknown token",
    "missing": "no event at the site, where at least 10 were expected",
    "strong drift": "population stability index above 0.25",
    "values missing": "the share of events without a value is at least 20 points above train's",
    "frequency": "charted at least 3 times as often, or a third as often, per stay",
    "moderate drift": "population stability index from 0.1 to 0.25",
    "other unit": "in train in this unit, at the site only in another",
    "too few": "fewer than 10 events (or a drift that chance explains): shown, not judged",
    "ok": "nothing to report",
}

COLUMNS = [
    *("verdict", "note", "source", "category", "unit", "presence", "num_events_train", "num_events_site"),
    *("events_per_stay_train", "events_per_stay_site", "events_per_stay_ratio", "num_unknown", "share_unknown"),
    *("num_beyond", "share_beyond", "median_beyond"),
    *("share_missing_train", "share_missing_site", "psi", "psi_by_chance", "drift", "largest_change"),
    *("largest_change_train", "largest_change_site", "is_uniform_expected", "train_shares", "site_shares"),
    *("compared_unit", "median_train", "median_site", "median_ratio"),
    *("suspected_conversion", "conversion_factor", "conversion_offset", "unit_rule"),
]
EDGE_SOURCES = ("static", "discharge")

Row = dict[str, Any]


def add_verdicts(table: pl.DataFrame) -> pl.DataFrame:
    """Return the columns of the report, sorted by verdict, then by the events at stake."""
    table = table.with_columns(verdict=_judge(), num_unknown=pl.col("num_unknown").fill_null(0))
    has_events = pl.col("num_charted_site") > 0
    units = pl.col("unit").fill_null("no unit").filter(has_events).unique().sort().str.join(", ")
    table = table.with_columns(site_units=units.over("source", "category"))
    rows = table.to_dicts()
    table = table.with_columns(
        pl.Series("note", [write_note(row) for row in rows], dtype=pl.String),
        pl.Series("unit_rule", [suggest_unit_rule(row) for row in rows], dtype=pl.String),
    )
    rank = pl.col("verdict").replace_strict({word: rank for rank, word in enumerate(VERDICTS)}, return_dtype=pl.Int64)
    table = table.with_columns(rank=rank, stake=pl.max_horizontal("num_expected", "num_charted_site"))
    order = ["rank", "stake", "source", "category", "unit"]
    return table.sort(order, descending=[False, True, False, False, False], nulls_last=False).select(COLUMNS)


def _judge() -> pl.Expr:
    """Return the verdict: the first rule that holds."""
    is_frequent = pl.col("events_per_stay_ratio") >= FREQUENCY_RATIO
    is_rare = pl.col("events_per_stay_ratio") <= 1 / FREQUENCY_RATIO
    more_missing = pl.col("share_missing_site") - pl.col("share_missing_train") >= MORE_MISSING
    rules = [
        ("too few", pl.max_horizontal("num_expected", "num_charted_site") < MIN_EVENTS),
        ("beyond range", (pl.col("num_beyond") >= MIN_EVENTS) & (pl.col("share_beyond") >= BEYOND_SHARE)),
        ("unit mismatch", pl.col("suspected_conversion").is_not_null()),
        ("unknown", (pl.col("num_unknown") >= MIN_EVENTS) & (pl.col("share_unknown") >= UNKNOWN_SHARE)),
        ("missing", pl.col("presence") == "missing"),
        ("other unit", pl.col("presence") == "other unit"),
        ("strong drift", pl.col("drift") == "strong drift"),
        ("values missing", more_missing & (pl.col("num_events_site") >= MIN_EVENTS)),
        ("frequency", is_frequent | is_rare),
        ("moderate drift", pl.col("drift") == "moderate drift"),
        ("too few", pl.col("drift") == "too few"),
    ]
    verdict = pl.lit("ok")
    for word, rule in reversed(rules):
        verdict = pl.when(rule.fill_null(False)).then(pl.lit(word)).otherwise(verdict)
    return verdict


def write_note(row: Row) -> str:
    """Return what a reader should know of one row, in sentences; empty where there is nothing."""
    return " ".join(sentence for tell in _SENTENCES if (sentence := tell(row)))


def format_number(value: float | None) -> str:
    """Return three significant digits, with separators above 1000."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def format_percent(share: float | None) -> str:
    """Return a share in percent, with more decimals near 0 % and 100 %, and never 0 % of something."""
    if share is None:
        return ""
    percent = 100 * share
    if 0 < percent < 0.01:
        return "< 0.01%"
    if percent in (0, 100) or 10 <= percent <= 99:
        return f"{percent:.0f}%"
    return f"{percent:.1f}%" if 1 <= percent < 10 else f"{percent:.2f}%"


def _tell_few(row: Row) -> str | None:
    if max(row["num_expected"], row["num_charted_site"]) < MIN_EVENTS:
        return "Too few events to judge."
    return None


def _tell_presence(row: Row) -> str | None:
    if row["presence"] == "missing":
        return f"No event at the site; at train's rate {format_number(row['num_expected'])} were expected."
    if row["presence"] == "new":
        return "Not in train: every event becomes the unknown token." if row["num_unknown"] else "Not in train."
    if row["presence"] == "other unit":
        where = "without a unit" if row["site_units"] == "no unit" else f"in {row['site_units']} only"
        return f"The site records it {where}."
    if row["presence"] == "new unit" and row["num_events_site"]:
        return f"Train has no bins for {row['unit'] or 'values without a unit'}: every value becomes the unknown token."
    return None


def _tell_unknown(row: Row) -> str | None:
    if not row["num_unknown"] or row["presence"] in ("new", "new unit"):
        return None
    share = format_percent(row["share_unknown"])
    if row["unknown_values"]:
        return f"{share} of events have a value that train does not have, for example {row['unknown_values']}."
    if row["num_unknown"] == row["num_events_site"]:
        return "The tokenizer does not know it: every event gets the unknown token."
    return f"{share} of events get the unknown token."


def _tell_beyond(row: Row) -> str | None:
    if not row["share_beyond"] or row["share_beyond"] < BEYOND_SHARE:
        return None
    text = f"{row['num_beyond']:,} of {row['num_charted_site']:,} values are {_tell_bounds(row['low'], row['high'])}"
    if row["median_beyond"] is not None:
        text += f": median {format_number(row['median_beyond'])}"
    is_whole = row["suspected_conversion"] and row["is_mostly_beyond"]
    if row["beyond_conversion"]:
        before, after = row["beyond_conversion"].split(" -> ")
        text += f"; fits {after} for {before}"
    if is_whole:
        text += f" (site = {format_conversion(row['conversion_factor'], row['conversion_offset'])})"
    text += ". " + _ACTIONS[row["action"]]
    return f"{text} A unit rule would convert the others, too." if row["beyond_conversion"] and not is_whole else text


_ACTIONS = {
    "drop": "These events are dropped.",
    "clip": "They are clipped to the bound.",
    "keep": "They are kept as they are.",
}


def _tell_bounds(low: float | None, high: float | None) -> str:
    """Return `beyond [10, 47]`, or `below 10` and `above 47` where the other bound is infinite."""
    has_low, has_high = (bound is not None and math.isfinite(bound) for bound in (low, high))
    if has_low and has_high:
        return f"beyond [{low:g}, {high:g}]"
    return f"below {low:g}" if has_low else f"above {high:g}" if has_high else "beyond their range"


def _tell_unit(row: Row) -> str | None:
    train, site = row["median_train"], row["median_site"]
    medians = f"Medians: {format_number(train)} in train, {format_number(site)} at the site"
    if row["suspected_conversion"] and not row["is_mostly_beyond"]:
        before, after = row["suspected_conversion"].split(" -> ")
        formula = format_conversion(row["conversion_factor"], row["conversion_offset"])
        return f"{medians}. This fits {before} in train and {after} at the site (site = {formula})."
    if row["beyond_conversion"]:
        return None  # told with the values beyond the range
    if row["presence"] == "new unit" and train is not None and site is not None:
        if is_renamed(row) and row["compared_unit"] is None:
            return f"{medians}, so it is probably what train records without a unit."
        if is_renamed(row):
            name = f"perhaps train's {row['compared_unit']} under another name"
            return f"{medians}, so it is {name}: find out, and rename it by a unit rule."
        return f"{medians} ({row['compared_unit'] or 'no unit'}); no known conversion explains them."
    ratio = row["median_ratio"]
    if row["drift"] == "strong drift" and ratio and not 1 / UNEXPLAINED_RATIO < ratio < UNEXPLAINED_RATIO:
        return f"{medians}; no known conversion explains this."
    return None


def format_conversion(factor: float, offset: float) -> str:
    """Return `train × 10`, `train / 18.02` or `train × 1.8 + 32`."""
    text = f"train \N{MULTIPLICATION SIGN} {factor:.4g}" if factor >= 1 or offset else f"train / {1 / factor:.4g}"
    return text + (f" {'+' if offset > 0 else '-'} {abs(offset):.4g}" if offset else "")


def _tell_drift(row: Row) -> str | None:
    is_told = row["suspected_conversion"] or row["beyond_conversion"]
    is_told = is_told or row["largest_change"] in (row["unknown_values"] or "").split(", ")
    if is_told or row["psi"] is None or row["psi"] < MODERATE_DRIFT:
        return None
    if row["drift"] == "too few":
        return f"PSI {row['psi']:.2f} may be chance (up to {row['psi_by_chance']:.2f} expected of so few values)."
    shares = [format_percent(row[f"largest_change_{side}"]) for side in ("site", "train")]
    return f"{row['largest_change']} holds {shares[0]} of the values, in train {shares[1]}."


def _tell_missing_values(row: Row) -> str | None:
    train, site = row["share_missing_train"], row["share_missing_site"]
    if site is None or site - (train or 0) < MORE_MISSING:
        return None
    return f"{format_percent(site)} of events have no value, in train {format_percent(train) or 'none'}."


def _tell_frequency(row: Row) -> str | None:
    ratio = row["events_per_stay_ratio"]
    if row["presence"] != "both" or not ratio or 1 / FREQUENCY_RATIO < ratio < FREQUENCY_RATIO:
        return None
    train, site = row["events_per_stay_train"], row["events_per_stay_site"]
    if row["source"] in EDGE_SOURCES:
        return f"{format_percent(site)} of stays, in train {format_percent(train)}."
    return f"{format_number(site)} events per stay, in train {format_number(train)}."


_SENTENCES: tuple[Callable[[Row], str | None], ...] = (
    _tell_few,
    _tell_presence,
    _tell_beyond,
    _tell_unknown,
    _tell_unit,
    _tell_drift,
    _tell_missing_values,
    _tell_frequency,
)
