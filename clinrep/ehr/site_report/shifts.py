"""Where events are charted less or more often throughout, though each category by itself looks alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import polars as pl

from clinrep.ehr.site_report.verdicts import EDGE_SOURCES, format_number

LOW, HIGH = 0.7, 1.4  # events per stay, site / train
CHANCE_ERRORS = 3.0  # within three standard errors a shift is chance
SPREAD = 1.6  # standard deviation / mean of the events of a stay, as of the tokens in the sample's timelines
EVERYTHING = "all sources"

_SUMS = ["events_per_stay_train", "events_per_stay_site", "num_events_train", "num_events_site"]


@dataclass(frozen=True)
class Shift:
    """Events per stay of a source, or of all of them."""

    source: str
    train: float
    site: float

    @property
    def ratio(self) -> float:
        """Site / train."""
        return self.site / self.train

    def __str__(self) -> str:
        """Return `vitals: 360 events per stay in train, 180 at the site`, with the ratio in brackets."""
        sides = f"{format_number(self.train)} events per stay in train, {format_number(self.site)} at the site"
        return f"{self.source}: {sides} (\N{MULTIPLICATION SIGN} {self.ratio:.2f})"


def list_shifts(report: pl.DataFrame) -> list[Shift]:
    """Return the whole first, then the sources with most train events, that shift.

    The whole shifts if its events per stay do, below LOW or above HIGH, or if most of it does; a source if most
    of it does: if categories with most of its train events shift the same way. A category counts if both
    sites chart it and its values are within their range; what the others lack is told elsewhere. Static and
    discharge tokens are one a stay, so they cannot be charted more often.
    """
    is_beyond = (pl.col("verdict") == "beyond range").any()
    rows = report.filter(~pl.col("source").is_in(EDGE_SOURCES)).group_by("source", "category")
    categories = rows.agg(pl.col(_SUMS).sum(), is_beyond=is_beyond)
    categories = categories.filter(~pl.col("is_beyond"), *[pl.col(name) > 0 for name in _SUMS])
    train_events, ratio = pl.col("num_events_train"), pl.col("events_per_stay_site") / pl.col("events_per_stay_train")
    majorities = {
        "is_mostly_rarer": train_events.filter(ratio < LOW).sum() > train_events.sum() / 2,
        "is_mostly_oftener": train_events.filter(ratio > HIGH).sum() > train_events.sum() / 2,
    }
    whole = report.select(pl.col(_SUMS).sum()).row(0, named=True)
    whole |= categories.select(**majorities).row(0, named=True)
    is_whole = _is_shifted(whole) or (_is_certain(whole) and not LOW <= _get_ratio(whole) <= HIGH)
    sources = categories.group_by("source").agg(pl.col(_SUMS).sum(), **majorities)
    sources = sources.sort("num_events_train", "source", descending=[True, False])
    shifted = [row for row in sources.iter_rows(named=True) if _is_shifted(row)]
    found = [{"source": EVERYTHING} | whole, *shifted] if is_whole else shifted
    return [Shift(row["source"], row["events_per_stay_train"], row["events_per_stay_site"]) for row in found]


def _get_ratio(row: dict[str, Any]) -> float:
    ratio: float = row["events_per_stay_site"] / row["events_per_stay_train"]
    return ratio


def _is_certain(row: dict[str, Any]) -> bool:
    """Return whether events per stay differ by more than chance, of the stays and not of their events."""
    if any(not row[name] for name in _SUMS):
        return False
    num_stays = [row[f"num_events_{side}"] / row[f"events_per_stay_{side}"] for side in ("train", "site")]
    error = SPREAD * math.sqrt(sum(1 / number for number in num_stays))
    return abs(math.log(_get_ratio(row))) > CHANCE_ERRORS * error


def _is_shifted(row: dict[str, Any]) -> bool:
    """Return whether most of it shifts, the way all of it does."""
    if not _is_certain(row):
        return False
    is_mostly: bool = row["is_mostly_rarer"] if _get_ratio(row) < 1 else row["is_mostly_oftener"]
    return is_mostly
