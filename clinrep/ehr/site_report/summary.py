"""The report in a few numbers and in the words of a to-do list."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from clinrep.ehr.site_report.rules import RULES_NAME
from clinrep.ehr.site_report.shifts import EVERYTHING, list_shifts
from clinrep.ehr.site_report.verdicts import format_number, format_percent

MAX_NAMES = 8


@dataclass(frozen=True)
class Totals:
    """The numbers on top; categories are counted once whatever their units."""

    num_train_events: int
    num_site_events: int
    num_unknown: int
    share_unknown: float | None
    events_per_stay_train: float
    events_per_stay_site: float
    events_per_stay_ratio: float | None
    """Site / train; None where one has no event."""
    num_categories: int
    """In train."""
    num_missing: int
    """Categories of train without an event at the site."""
    num_missing_rare: int
    """Of these, so rare in train that fewer than 10 events were expected."""
    num_new: int
    num_strong_drift: int
    num_strong_drift_units: int
    """Of these, with a suspected unit mismatch."""
    num_moderate_drift: int
    num_compared: int
    """(category, unit) with enough values on both sides to judge drift."""
    num_unit_mismatches: int
    num_rules: int
    """Suggested unit rules."""


@dataclass(frozen=True)
class Attention:
    """One point of the to-do list."""

    verdict: str
    title: str
    advice: str
    entries: list[str]
    num_more: int = 0
    has_rules: bool = False
    """Whether unit rules are suggested for some of these."""


# verdict -> title of one, title of {count}, advice
_ADVICE: dict[str, tuple[str, str, str]] = {
    "beyond range": (
        "1 category has values beyond what the settings hold possible",
        "{count} categories have values beyond what the settings hold possible",
        "Where most are, they are in another unit than the range: convert them with unit_rules, or correct the "
        "range. What is dropped the model does not see.",
    ),
    "unit mismatch": (
        "1 category looks as if it were in another unit",
        "{count} categories look as if they were in another unit",
        "Find out the unit at the site. If it differs, convert the values with unit_rules: as they are, nearly "
        "every one falls into a wrong bin or into none.",
    ),
    "unknown": (
        "1 category has events that the tokenizer does not know",
        "{count} categories have events that the tokenizer does not know",
        "The model sees only the unknown token. Look for another spelling of something train has (category, value "
        "or unit) and rename it; what is really new stays unknown.",
    ),
    "missing": (
        "1 category of train does not occur at the site",
        "{count} categories of train do not occur at the site",
        "Check that they were exported and are spelled alike. If the site does not chart them, the model does "
        "without what it learned from them.",
    ),
    "strong drift": (
        "1 category is distributed otherwise",
        "{count} categories are distributed otherwise",
        "Other patients, another device or assay, or a unit no known factor explains: look at the values before "
        "training, because a decile no longer means what it meant.",
    ),
    "values missing": (
        "1 category has far more events without a value",
        "{count} categories have far more events without a value",
        "Often text in a numeric column, or a column that was not exported.",
    ),
    "frequency": (
        "1 category is charted at least three times as often or as rarely",
        "{count} categories are charted at least three times as often or as rarely",
        "Timelines grow or shrink by it. Check for duplicated rows or a filter in the export; else it is practice "
        "or case mix.",
    ),
}


def count_totals(report: pl.DataFrame) -> Totals:
    """Return the numbers on top of the page."""
    num_site_events, num_unknown = int(report["num_events_site"].sum()), int(report["num_unknown"].sum())
    missing = report.filter(pl.col("presence") == "missing")
    is_strong = (report["drift"] == "strong drift").fill_null(False)
    is_suspected = report["suspected_conversion"].is_not_null()
    train, site = (float(report[f"events_per_stay_{side}"].sum()) for side in ("train", "site"))
    return Totals(
        num_train_events=int(report["num_events_train"].sum()),
        num_site_events=num_site_events,
        num_unknown=num_unknown,
        share_unknown=num_unknown / num_site_events if num_site_events else None,
        events_per_stay_train=train,
        events_per_stay_site=site,
        events_per_stay_ratio=site / train if train and site else None,
        num_categories=_count_categories(report.filter(pl.col("num_events_train") > 0)),
        num_missing=_count_categories(missing),
        num_missing_rare=_count_categories(missing) - _count_categories(missing.filter(pl.col("verdict") == "missing")),
        num_new=_count_categories(report.filter(pl.col("presence") == "new")),
        num_strong_drift=int(is_strong.sum()),
        num_strong_drift_units=int((is_strong & is_suspected).sum()),
        num_moderate_drift=int((report["drift"] == "moderate drift").sum()),
        num_compared=int(report["drift"].is_in(["ok", "moderate drift", "strong drift"]).sum()),
        num_unit_mismatches=int(is_suspected.sum()),
        num_rules=report["unit_rule"].count(),
    )


def _count_categories(rows: pl.DataFrame) -> int:
    return rows.select("source", "category").n_unique() if rows.height else 0


def summarize_sources(report: pl.DataFrame) -> pl.DataFrame:
    """Return one row per source: categories, events, events per stay, unknown share, missing and drifted."""
    known = report.filter(pl.col("num_events_train") > 0)
    sources = report.group_by("source").agg(
        pl.col("num_events_train", "num_events_site", "events_per_stay_train", "events_per_stay_site").sum(),
        pl.col("num_beyond").sum(),
        share_unknown=pl.when(pl.col("num_events_site").sum() > 0).then(
            pl.col("num_unknown").sum() / pl.col("num_events_site").sum()
        ),
        num_missing=pl.col("category").filter(pl.col("presence") == "missing").n_unique(),
        num_new=pl.col("category").filter(pl.col("presence") == "new").n_unique(),
        num_strong_drift=(pl.col("drift") == "strong drift").sum(),
        num_unit_mismatches=pl.col("suspected_conversion").is_not_null().sum(),
    )
    categories = known.group_by("source").agg(num_categories=pl.col("category").n_unique())
    sources = sources.join(categories, on="source", how="left").with_columns(pl.col("num_categories").fill_null(0))
    return sources.sort("num_events_train", "source", descending=[True, False])


def list_attention(report: pl.DataFrame) -> list[Attention]:
    """Return what a person should look at before training, the worst first."""
    absent, shifts = _find_absent(report), _describe_shifts(report)
    points = []
    if absent.height:
        entries = [
            f"{row['source']}: {row['num_categories']} {'category' if row['num_categories'] == 1 else 'categories'}, "
            f"{format_number(row['events_per_stay_train'])} events per stay in train"
            for row in absent.iter_rows(named=True)
        ]
        title = "1 whole source is absent" if len(entries) == 1 else f"{len(entries)} whole sources are absent"
        advice = "The table is missing at the site, or its column or time column is empty: see ledger.parquet."
        points.append(Attention("missing", title, advice, entries))
    report = report.filter(~pl.col("source").is_in(absent["source"].implode()))
    for verdict, (one, many, advice) in _ADVICE.items():
        if verdict == "frequency":
            points += shifts
        rows = report.filter(pl.col("verdict") == verdict)
        if rows.height:
            title = one if rows.height == 1 else many.format(count=f"{rows.height:,}")
            entries = [_name_row(row) for row in rows.head(MAX_NAMES).iter_rows(named=True)]
            has_rules = rows["unit_rule"].count() > 0
            points.append(Attention(verdict, title, advice, entries, max(rows.height - MAX_NAMES, 0), has_rules))
    return points


def _find_absent(report: pl.DataFrame) -> pl.DataFrame:
    """Return the sources of which the site has not one event, and train something to miss."""
    missing = report.filter(pl.col("verdict") == "missing")["source"].unique()
    is_empty = pl.col("num_events_site") + pl.col("num_beyond") == 0
    return summarize_sources(report).filter(is_empty & pl.col("source").is_in(missing.implode()))


def _describe_shifts(report: pl.DataFrame) -> list[Attention]:
    """Return one point, or none, about what is charted less or more often throughout."""
    shifts = list_shifts(report)
    if not shifts:
        return []
    directions = {"more rarely" if shift.ratio < 1 else "more often" for shift in shifts}
    where = "1 source" if len(shifts) == 1 else f"{len(shifts)} sources"
    where = "at the whole site" if shifts[0].source == EVERYTHING else f"in {where}"
    advice = (
        "Each category by itself may look as in train, but timelines are that much shorter or longer. Check for rows "
        "that the export filtered, thinned out or doubled; else it is practice or length of stay."
    )
    entries = [str(shift) for shift in shifts[:MAX_NAMES]]
    title = f"Events are charted {' or '.join(sorted(directions, reverse=True))} {where}"
    return [Attention("frequency", title, advice, entries, max(len(shifts) - MAX_NAMES, 0))]


def _name_row(row: dict[str, object]) -> str:
    unit = f" ({row['unit']})" if row["unit"] else ""
    return f"{row['category']}{unit}: {row['note']}"


def summarize(report: pl.DataFrame) -> list[str]:
    """Return the report in 4 to 8 lines for the log."""
    totals = count_totals(report)
    share = format_percent(totals.share_unknown) or "none"
    ratio = f" (x {totals.events_per_stay_ratio:.2f})" if totals.events_per_stay_ratio else ""
    rare = f" ({totals.num_missing_rare} of them rare in train)" if totals.num_missing_rare else ""
    lines = [
        f"{totals.num_unknown:,} of {totals.num_site_events:,} events ({share}) get the unknown token",
        f"events per stay: {format_number(totals.events_per_stay_train)} in train, "
        f"{format_number(totals.events_per_stay_site)} at the site{ratio}",
        f"{totals.num_missing} of {totals.num_categories} categories of train are missing at the site{rare}; "
        f"{totals.num_new} are new",
        f"{totals.num_strong_drift} of {totals.num_compared} distributions drifted strongly (PSI > 0.25), "
        f"{totals.num_moderate_drift} moderately",
    ]
    named = {
        "values beyond their range": pl.col("verdict") == "beyond range",
        f"{totals.num_unit_mismatches} suspected unit mismatches": pl.col("suspected_conversion").is_not_null(),
        "most unknown events": pl.col("verdict") == "unknown",
    }
    lines += [
        f"{words}: {_join_names(rows)}" for words, is_so in named.items() if (rows := report.filter(is_so)).height
    ]
    if totals.num_rules:
        lines.append(f"{totals.num_rules} unit_rules are suggested in {RULES_NAME}")
    return lines


def _join_names(rows: pl.DataFrame) -> str:
    names = rows["category"].unique(maintain_order=True).to_list()
    return ", ".join([*names[:MAX_NAMES], *(["..."] if len(names) > MAX_NAMES else [])])
