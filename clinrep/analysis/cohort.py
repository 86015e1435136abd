"""The cohort by split, the outcomes by split, and who was left out and why, counted from a site's tables."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from clinrep.analysis.inputs import Site
from clinrep.analysis.suppression import HIDDEN
from clinrep.artifacts import SPLITS

if TYPE_CHECKING:
    from clinrep.analysis.people import People

HOURS_PER_DAY = 24
UNKNOWN, NO_REASON = "not recorded", "no reason given"
CATEGORIES = ("sex", "race", "ethnicity")


def describe_cohort(site: Site, people: People) -> pl.DataFrame:
    """Return the characteristics of the stays with a timeline: `characteristic`, a column per split, `all`.

    Shares are of the column's stays; SD divides by n - 1; quartiles are interpolated linearly. What `people` hides
    is `HIDDEN`, also means and quartiles of so few.
    """
    hidden = people.hidden
    columns = {split: site.stays.filter(pl.col("split") == split) for split in SPLITS} | {"all": site.stays}
    # words, how to tell them, and what cell of `people` they are with site and split
    lines: list[tuple[str, Callable[[pl.DataFrame], str], tuple[str, ...]]] = [
        ("Stays", lambda stays: f"{stays.height:,}", ("stays",)),
        ("Patients", lambda stays: f"{stays['patient_id'].n_unique():,}", ("patients",)),
        ("Age at admission in years, mean (SD)", _describe_age, ("stays",)),
        ("Length of stay in days, median (IQR)", _describe_length_of_stay, ("stays",)),
    ]
    for name in CATEGORIES:
        for category in _sort_categories(site.stays[name]):
            words = f"{name.capitalize()}: {category.replace('_', ' ')}, n (%)"
            describe = partial(_describe_share, name=name, category=category)
            lines.append((words, describe, ("category", name, category)))
    rows = []
    for words, tell, (what, *which) in lines:
        is_hidden = {split: (what, site.name, split, *which) in hidden for split in columns}
        told = {split: HIDDEN if is_hidden[split] else tell(stays) for split, stays in columns.items()}
        if what == "category":  # a share would tell the number of stays
            for split in columns:
                if ("stays", site.name, split) in hidden:
                    told[split] = told[split].partition(" (")[0]
        rows.append({"characteristic": words, **told})
    return pl.DataFrame(rows)


def describe_outcomes(site: Site, outcomes: list[str], people: People) -> pl.DataFrame:
    """Return, by outcome and split, the stays, those excluded (null label) and why, and the events.

    Columns `outcome`, `split`, `num_stays`, `num_excluded`, `excluded_because`, `num_labelled`, `num_events`;
    what `people` hides is null, or `HIDDEN` among the reasons.
    """
    hidden = people.hidden
    rows = []
    for outcome in outcomes:
        of_outcome = site.outcomes.filter(pl.col("outcome") == outcome)
        for split in SPLITS:
            stays = of_outcome.filter(pl.col("split") == split)
            excluded = stays.filter(pl.col("label").is_null())
            reasons = (
                excluded["excluded_reason"]
                .fill_null(NO_REASON)
                .value_counts(sort=True)
                .sort("count", "excluded_reason", descending=[True, False])
            )
            where = (site.name, outcome, split)
            because = "; ".join(
                f"{reason} ({HIDDEN if ('reason', *where, reason) in hidden else count})"
                for reason, count in reasons.iter_rows()
            )
            counts = {
                ("stays", site.name, split): stays.height,
                ("excluded", *where): excluded.height,
                ("labelled", *where): stays.height - excluded.height,
                ("events", *where): int(stays["label"].sum() or 0),
            }
            num_stays, num_excluded, *rest = (None if key in hidden else count for key, count in counts.items())
            rows.append((outcome, split, num_stays, num_excluded, because, *rest))
    words = {"outcome": pl.String, "split": pl.String}
    left_out = {"num_stays": pl.Int64, "num_excluded": pl.Int64, "excluded_because": pl.String}
    schema = words | left_out | {"num_labelled": pl.Int64, "num_events": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def describe_exclusions(site: Site) -> pl.DataFrame:
    """Return the ledger with `left_out`, the steps of one table together, tables in order of first appearance."""
    order = {table: index for index, table in enumerate(site.ledger["table"].unique(maintain_order=True))}
    position = pl.col("table").replace_strict(order, return_dtype=pl.Int64)
    ledger = site.ledger.with_columns(left_out=pl.col("rows_in").cast(pl.Int64) - pl.col("rows_out").cast(pl.Int64))
    ledger = ledger.with_row_index("row").sort(position, "row")
    return ledger.select("table", "step", "rows_in", "left_out", "rows_out", "reason")


def _sort_categories(values: pl.Series) -> list[str]:
    """Return the categories, most frequent first, ties by name, unknown last."""
    counts = values.drop_nulls().value_counts().sort("count", values.name, descending=[True, False])
    return counts[values.name].to_list() + ([UNKNOWN] if values.null_count() else [])


def _describe_share(stays: pl.DataFrame, name: str, category: str) -> str:
    count = int((stays[name].fill_null(UNKNOWN) == category).sum())
    return f"{count:,} ({100 * count / stays.height:.1f})" if stays.height else "0"


def _describe_age(stays: pl.DataFrame) -> str:
    if stays.height == 0:
        return ""
    ages = stays["age"].to_numpy()
    spread = f" ({ages.std(ddof=1):.1f})" if ages.size > 1 else ""
    return f"{ages.mean():.1f}{spread}"


def _describe_length_of_stay(stays: pl.DataFrame) -> str:
    if stays.height == 0:
        return ""
    days = stays["length_of_stay_hours"] / HOURS_PER_DAY
    low, middle, high = (days.quantile(q, "linear") for q in (0.25, 0.5, 0.75))
    return f"{middle:.1f} ({low:.1f}\N{EN DASH}{high:.1f})"
