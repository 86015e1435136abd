"""Events in order to timelines: token ids with their times, one list per stay."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa


def sort_events(events: pl.DataFrame) -> pl.DataFrame:
    """Return events in timeline order: by stay, time, source, token id, value token id.

    Simultaneous events thus stand in the order of config.sources and, within a source, of the
    vocabulary; rows equal in all five give the same tokens, so the file's row order never matters.
    """
    return events.sort("stay", "time", "source", "token_id", "value_token_id", nulls_last=False)


def build_timelines(
    events: pl.DataFrame, stays: pl.DataFrame, static_ids: np.ndarray, discharge_ids: np.ndarray
) -> pl.DataFrame:
    """Return the columns of table `timelines`, one row per row of `stays` and in its order.

    Args:
        events: of these stays only, in timeline order; stay, time, token_id, value_token_id (or null).
        stays: stay, subject_id, admission_dttm, discharge_dttm; sorted by stay.
        static_ids: u32 (stays, positions), tokens every timeline starts with, stamped
            min(admission, first event).
        discharge_ids: u32 (stays, positions), tokens it ends with, stamped max(discharge, last event).
    """
    first, last = _find_seams(events, stays)
    row = np.searchsorted(stays["stay"].to_numpy(), events["stay"].to_numpy())
    has_value = events["value_token_id"].is_not_null().to_numpy()
    width = 1 + has_value.astype(np.int64)
    num_static, num_discharge = static_ids.shape[1], discharge_ids.shape[1]
    lengths = np.bincount(row, weights=width, minlength=stays.height).astype(np.int64) + num_static + num_discharge
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    # Position of an event's first token: all event tokens before it, plus the edges of the stays so far.
    start = np.cumsum(width) - width + row * (num_static + num_discharge) + num_static
    ids = np.empty(offsets[-1], dtype=np.uint32)
    times = np.empty(offsets[-1], dtype="datetime64[us]")
    event_times = events["time"].to_numpy()
    ids[start], times[start] = events["token_id"].to_numpy(), event_times
    second = start[has_value] + 1
    ids[second] = events["value_token_id"].drop_nulls().to_numpy()
    times[second] = event_times[has_value]
    for position in range(num_static):
        ids[offsets[:-1] + position], times[offsets[:-1] + position] = static_ids[:, position], first
    for position in range(num_discharge):
        place = offsets[1:] - num_discharge + position
        ids[place], times[place] = discharge_ids[:, position], last
    return pl.DataFrame(
        {
            "subject_id": stays["subject_id"],
            "token_ids": _to_lists(ids, offsets),
            "times": _to_lists(times, offsets),
        }
    )


def find_first_events(events: pl.DataFrame, stays: pl.DataFrame) -> pl.Series:
    """Return the time of each stay's first event, null where it has none, in the order of `stays`."""
    first = events.group_by("stay").agg(first=pl.col("time").min())
    return stays.select("stay").join(first, on="stay", how="left", maintain_order="left")["first"]


def _find_seams(events: pl.DataFrame, stays: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the stamps of static and of discharge tokens (DESIGN section 3)."""
    bounds = events.group_by("stay").agg(first=pl.col("time").min(), last=pl.col("time").max())
    joined = stays.join(bounds, on="stay", how="left", maintain_order="left")
    seams = joined.select(
        first=pl.min_horizontal("admission_dttm", "first"), last=pl.max_horizontal("discharge_dttm", "last")
    )
    return seams["first"].to_numpy(), seams["last"].to_numpy()


def _to_lists(values: np.ndarray, offsets: np.ndarray) -> pl.Series:
    lists = pl.from_arrow(pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values)))
    assert isinstance(lists, pl.Series)
    return lists
