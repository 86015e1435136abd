"""The report in a few numbers and in the words of a to-do list."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from clinrep.ehr.site_report.verdicts import format_number, format_percent

MAX_NAMES = 8


@dataclass(frozen=True)
class Totals:
    """The numbers on top; categories are counted once whatever their units."""

    num_train_events: int
    num_site_events: int
    num_unknown: int
    share_unknown: float | None
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


@dataclass(frozen=True)
class Attention:
    """One point of the to-do list."""

    verdict: str
    title: str
    advice: str
    entries: list[str]
    num_more: int = 0


# verdict -> title of one, title of {count}, advice
_ADVICE: dict[str, tuple[str, str, str]] = {
    "unit mismatch": (
        "1 category looks as if it were in another unit",
        "{count} categories look as if they were in another unit",
        "Find out the unit at the site. If it differs, convert the values before tokenizing: as they are, nearly "
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
    return Totals(
        num_train_events=int(report["num_events_train"].sum()),
        num_site_events=num_site_events,
        num_unknown=num_unknown,
        share_unknown=num_unknown / num_site_events if num_site_events else None,
        num_categories=_count_categories(report.filter(pl.col("num_events_train") > 0)),
        num_missing=_count_categories(missing),
        num_missing_rare=_count_categories(missing) - _count_categories(missing.filter(pl.col("verdict") == "missing")),
        num_new=_count_categories(report.filter(pl.col("presence") == "new")),
        num_strong_drift=int(is_strong.sum()),
        num_strong_drift_units=int((is_strong & is_suspected).sum()),
        num_moderate_drift=int((report["drift"] == "moderate drift").sum()),
        num_compared=int(report["drift"].is_in(["ok", "moderate drift", "strong drift"]).sum()),
        num_unit_mismatches=int(is_suspected.sum()),
    )


def _count_categories(rows: pl.DataFrame) -> int:
    return rows.select("source", "category").n_unique() if rows.height else 0


def summarize_sources(report: pl.DataFrame) -> pl.DataFrame:
    """Return one row per source: categories, events, events per stay, unknown share, missing and drifted."""
    known = report.filter(pl.col("num_events_train") > 0)
    sources = report.group_by("source").agg(
        pl.col("num_events_train", "num_events_site", "events_per_stay_train", "events_per_stay_site").sum(),
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
    missing = report.filter(pl.col("verdict") == "missing")["source"].unique()
    is_absent = (pl.col("num_events_site") == 0) & pl.col("source").is_in(missing.implode())
    absent = summarize_sources(report).filter(is_absent)
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
        rows = report.filter(pl.col("verdict") == verdict)
        if rows.height:
            title = one if rows.height == 1 else many.format(count=f"{rows.height:,}")
            entries = [_name_row(row) for row in rows.head(MAX_NAMES).iter_rows(named=True)]
            points.append(Attention(verdict, title, advice, entries, max(rows.height - MAX_NAMES, 0)))
    return points


def _name_row(row: dict[str, object]) -> str:
    unit = f" ({row['unit']})" if row["unit"] else ""
    return f"{row['category']}{unit}: {row['note']}"


def summarize(report: pl.DataFrame) -> list[str]:
    """Return the report in 3 to 6 lines for the log."""
    totals = count_totals(report)
    share = format_percent(totals.share_unknown) or "none"
    rare = f" ({totals.num_missing_rare} of them rare in train)" if totals.num_missing_rare else ""
    lines = [
        f"{totals.num_unknown:,} of {totals.num_site_events:,} events ({share}) get the unknown token",
        f"{totals.num_missing} of {totals.num_categories} categories of train are missing at the site{rare}; "
        f"{totals.num_new} are new",
        f"{totals.num_strong_drift} of {totals.num_compared} distributions drifted strongly (PSI > 0.25), "
        f"{totals.num_moderate_drift} moderately",
    ]
    if totals.num_unit_mismatches:
        lines.append(f"{totals.num_unit_mismatches} suspected unit mismatches: {_join_names(report, 'unit mismatch')}")
    if (report["verdict"] == "unknown").any():
        lines.append(f"most unknown events: {_join_names(report, 'unknown')}")
    return lines


def _join_names(report: pl.DataFrame, verdict: str) -> str:
    names = report.filter(pl.col("verdict") == verdict)["category"].unique(maintain_order=True).to_list()
    return ", ".join([*names[:MAX_NAMES], *(["..."] if len(names) > MAX_NAMES else [])])
