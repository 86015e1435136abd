"""Events of a shard of stays to timelines: E events, S stays, T tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from clinrep.ehr.configs.tokenize import TokenizeConfig
from clinrep.ehr.quantiles import find_bins
from clinrep.ehr.store import NO_TIME, UNTIMED, Events
from clinrep.ehr.vocabulary import Encoder

MINUTE = 60_000_000  # microseconds
HOUR = 60 * MINUTE
DAY = 24 * HOUR


@dataclass(frozen=True)
class Binning:
    """How values become slots: C codes, G groups."""

    group_of_code: np.ndarray
    """i64 (C,): -1 for codes without numbers."""
    edges: np.ndarray
    """f64 (G, bins - 1): NaN for a group without edges."""


@dataclass(frozen=True)
class TimeTokens:
    """The ids of the optional tokens of gaps and of the parts of the day."""

    gap_minutes: np.ndarray
    """f64, ascending."""
    gap_ids: np.ndarray
    clock_ids: np.ndarray
    clock_hours: int
    clock_offset_hours: float

    @property
    def is_empty(self) -> bool:
        """Whether the settings ask for none."""
        return not len(self.gap_ids) and not len(self.clock_ids)


@dataclass(frozen=True)
class Stays:
    """The stays of a shard that get a timeline, sorted by subject_id."""

    row: np.ndarray
    """i64 (S,): row numbers in the cohort, ascending."""
    subject_id: pl.Series
    first: np.ndarray
    """i64 (S,): time of the static tokens, microseconds since 1970."""
    last: np.ndarray
    """i64 (S,): time of the discharge tokens and of events without a time of their own."""
    static_ids: np.ndarray
    """u32 (S, positions)"""
    discharge_ids: np.ndarray
    """u32 (S, positions)"""


@dataclass(frozen=True)
class Tokens:
    """The timelines of some stays, one after the other."""

    subject_id: pl.Series
    ids: np.ndarray
    """u32 (T,)"""
    times: np.ndarray
    """i64 (T,): microseconds since 1970."""
    offsets: np.ndarray
    """i64 (S + 1,)"""

    def to_frame(self) -> pl.DataFrame:
        """Return the columns of table `timelines`."""
        lists = [_to_lists(values, self.offsets) for values in (self.ids, self.times.view("datetime64[us]"))]
        return pl.DataFrame({"subject_id": self.subject_id, "token_ids": lists[0], "times": lists[1]})

    def select(self, rows: np.ndarray) -> Tokens:
        """Return the timelines of some stays, bool (S,)."""
        if rows.all():
            return self
        lengths = np.diff(self.offsets)
        keep = np.repeat(rows, lengths)
        offsets = np.concatenate([[0], np.cumsum(lengths[rows])])
        return Tokens(self.subject_id.filter(pl.Series(rows)), self.ids[keep], self.times[keep], offsets)


def build_timelines(
    events: Events, stays: Stays, encoder: Encoder, binning: Binning, time_tokens: TimeTokens
) -> Tokens:
    """Return the timelines of a shard's kept stays from the events of `select_events`.

    Events stand by time, then in the order of config.sources and, within a source, of the vocabulary;
    two that are equal in all of these give the same tokens, so the order of rows in files never matters.
    """
    row, time, rank = _order(events, stays, encoder, binning)
    token, value = encoder.token_id[rank], encoder.value_token_id[rank]
    has_value = value >= 0
    extra_ids, extra_counts = _find_time_tokens(row, time, stays, time_tokens)
    width = 1 + has_value.astype(np.int64) + extra_counts
    num_static, num_discharge = stays.static_ids.shape[1], stays.discharge_ids.shape[1]
    num_stays = len(stays.row)
    lengths = np.bincount(row, weights=width, minlength=num_stays).astype(np.int64) + num_static + num_discharge
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids, times = np.empty(offsets[-1], dtype=np.uint32), np.empty(offsets[-1], dtype=np.int64)
    # Where an event's tokens begin: all event tokens before it, plus the edges of the stays so far.
    start = np.cumsum(width) - width + row * (num_static + num_discharge) + num_static
    for number in range(extra_ids.shape[1]):
        rows = np.flatnonzero(extra_counts > number)
        ids[start[rows] + number], times[start[rows] + number] = extra_ids[rows, number], time[rows]
    start += extra_counts
    ids[start], times[start] = token, time
    second = start[has_value] + 1
    ids[second], times[second] = value[has_value], time[has_value]
    for position in range(num_static):
        ids[offsets[:-1] + position] = stays.static_ids[:, position]
        times[offsets[:-1] + position] = stays.first
    for position in range(num_discharge):
        place = offsets[1:] - num_discharge + position
        ids[place], times[place] = stays.discharge_ids[:, position], stays.last
    return Tokens(stays.subject_id, ids, times, offsets)


def select_events(events: Events, stays: Stays) -> Events:
    """Return the events of kept stays that stand in a timeline, `stay` now being the stay's position among them."""
    position = np.searchsorted(stays.row, events.stay)
    position[position == len(stays.row)] = 0
    is_kept = stays.row[position] == events.stay if len(stays.row) else np.zeros(len(events), dtype=bool)
    is_kept &= events.time != UNTIMED
    if is_kept.all():
        return Events(position, events.time, events.code, events.value)
    rows = np.flatnonzero(is_kept)
    return Events(position[rows], events.time[rows], events.code[rows], events.value[rows])


def _order(
    events: Events, stays: Stays, encoder: Encoder, binning: Binning
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return position of the stay, time and rank of every event, in timeline order."""
    rank = encoder.rank[_find_slots(events, encoder, binning)]
    is_untimed = events.time == NO_TIME
    time = np.where(is_untimed, stays.last[events.stay], events.time) if is_untimed.any() else events.time
    if not len(time):
        return events.stay, time, rank
    origin = stays.first[events.stay]
    since = time - origin  # may be negative where the edges do not follow every source
    least = int(since.min())
    unit = 1 if (since % 1_000_000).any() else 1_000_000  # whole seconds are the rule
    ticks = (since - least) // unit
    bits = [int(number).bit_length() for number in (len(stays.row), ticks.max(), len(encoder.token_id))]
    if sum(bits) > 63:
        order = np.lexsort((rank, time, events.stay))
        return events.stay[order], time[order], rank[order]
    # One integer holds all there is to know of an event, so sorting it needs no second look at the rows.
    key = (events.stay << (bits[1] + bits[2])) | (ticks << bits[2]) | rank
    key.sort()
    row = key >> (bits[1] + bits[2])
    ticks = (key >> bits[2]) & ((1 << bits[1]) - 1)
    return row, ticks * unit + (least + stays.first[row]), key & ((1 << bits[2]) - 1)


def _find_slots(events: Events, encoder: Encoder, binning: Binning) -> np.ndarray:
    """Return the slot of every event: its code's first, and for numbers the bin after it."""
    slot = encoder.base[events.code]
    group = binning.group_of_code[events.code]
    is_number = group >= 0
    rows = slice(None) if is_number.all() else np.flatnonzero(is_number)
    value, group = events.value[rows], group[rows]
    num_bins = binning.edges.shape[1] + 1
    if len(binning.edges):
        bins = find_bins(value, group, binning.edges)
        has_edges = ~np.isnan(binning.edges).all(axis=1)
        bins[~has_edges[group]] = num_bins + 1
        bins[~np.isfinite(value)] = num_bins
        slot[rows] += bins
    return slot


def _find_time_tokens(
    row: np.ndarray, time: np.ndarray, stays: Stays, tokens: TimeTokens
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens that stand before each event, u32 (E, up to 2), and how many do, i64 (E,)."""
    counts = np.zeros(len(row), dtype=np.int64)
    ids = np.zeros((len(row), 0 if tokens.is_empty else 2), dtype=np.uint32)
    if tokens.is_empty or not len(row):
        return ids, counts
    is_first = np.concatenate([[True], row[1:] != row[:-1]])
    before = np.where(is_first, stays.first[row], np.concatenate([[0], time[:-1]]))
    if len(tokens.clock_ids):
        part, shift = tokens.clock_hours * HOUR, round(tokens.clock_offset_hours * HOUR)
        now = (time + shift) // part
        rows = np.flatnonzero(is_first | (now != (before + shift) // part))
        ids[rows, 0] = tokens.clock_ids[now[rows] % (DAY // part)]
        counts[rows] = 1
    if len(tokens.gap_ids):
        length = np.searchsorted(tokens.gap_minutes, (time - before) / MINUTE, side="right")
        rows = np.flatnonzero(length > 0)
        # The gap comes first: so much later, at that time of day.
        ids[rows, 1] = ids[rows, 0]
        ids[rows, 0] = tokens.gap_ids[length[rows] - 1]
        counts[rows] += 1
    return ids, counts


def make_time_tokens(config: TokenizeConfig, gap_ids: np.ndarray, clock_ids: np.ndarray) -> TimeTokens:
    """Return the time tokens of the settings with their ids."""
    gaps = np.array(config.gap_minutes, dtype=np.float64)
    return TimeTokens(gaps, gap_ids, clock_ids, config.clock_hours, config.clock_offset_hours)


def _to_lists(values: np.ndarray, offsets: np.ndarray) -> pl.Series:
    lists = pl.from_arrow(pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values)))
    assert isinstance(lists, pl.Series)
    return lists
