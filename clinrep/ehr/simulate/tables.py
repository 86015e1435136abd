"""The CLIF tables with one row per value: labs, vitals, assessments, medications.

Shapes: R rows of a table; a line is the number of a channel in a table, a cell the number of a value
among those of all its channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa

from clinrep.ehr.simulate.charts import MINUTES_PER_HOUR, Chart, Course
from clinrep.ehr.simulate.columns import (
    ORDERS_PER_SHARD,
    Shard,
    finish_table,
    write_numbers,
    write_texts,
    write_times,
)
from clinrep.ehr.simulate.signals import Channel, make_grid

# Rows are sorted by one integer of stay, minute and line; a stay has below 2^24 minutes, a table below 2^8 lines.
_MINUTE_BITS, _LINE_BITS = 24, 8

_START, _CONTINUE, _STOP = range(3)
_ACTIONS = ("start", "continue after ChangeDose/Rate", "Stopped")


@dataclass(frozen=True)
class Rows:
    """The rows of a table, in the order of stays, minutes and lines."""

    channels: tuple[Channel, ...]
    stay: np.ndarray
    """i64 (R,)."""
    minute: np.ndarray
    """i64 (R,): since admission."""
    line: np.ndarray
    """i64 (R,)."""
    cell: np.ndarray
    """i64 (R,)."""
    extra: np.ndarray
    """i64 (R,): what else the table needs."""

    def write(self, attribute: str) -> pa.Array:
        """Return a text attribute of each row's channel."""
        return write_texts([getattr(channel, attribute) for channel in self.channels], self.line)


@dataclass(frozen=True)
class Lexicon:
    """What each cell of a table's channels is written as."""

    offsets: np.ndarray
    """i64 (lines,): cell of each channel's first value."""
    values: np.ndarray
    """f64 (cells,)."""
    numbers: tuple[str, ...]
    """The value as text."""
    words: tuple[str | None, ...]
    texts: tuple[str | None, ...]
    is_number_shown: np.ndarray
    """bool (cells,)."""


@cache
def make_lexicon(channels: tuple[Channel, ...]) -> Lexicon:
    """Return the cells of these channels."""
    grids = [make_grid(channel) for channel in channels]
    sizes = [len(grid) for grid in grids]
    pairs = list(zip(channels, grids, strict=True))
    return Lexicon(
        np.cumsum(sizes) - sizes,
        np.concatenate(grids),
        tuple(f"{value:.{channel.num_decimals}f}" for channel, grid in pairs for value in grid),
        tuple(word for channel, grid in pairs for word in (channel.words or (None,) * len(grid))),
        tuple(text for channel, grid in pairs for text in (channel.texts or (None,) * len(grid))),
        np.repeat([channel.is_number_shown for channel in channels], sizes),
    )


def _sort_rows(channels: Sequence[Channel], parts: Sequence[tuple[np.ndarray, ...]]) -> Rows:
    """Return the rows of parts (stay, minute, cell within the channel, extra), one part a channel."""
    assert len(channels) < 1 << _LINE_BITS
    stay, minute, cell, extra = (np.concatenate(column) for column in zip(*parts, strict=True))
    line = np.repeat(np.arange(len(channels)), [len(part[0]) for part in parts])
    order = np.argsort((((stay << _MINUTE_BITS) + minute) << _LINE_BITS) + line)
    cell = cell + make_lexicon(tuple(channels)).offsets[line]
    return Rows(tuple(channels), *(column[order] for column in (stay, minute, line, cell, extra)))


def stack_rows(charts: Sequence[Chart], course: Course) -> Rows:
    """Return one row per value of these charts, and per total; `extra` is when the sample was taken."""
    channels: list[Channel] = []
    parts: list[tuple[np.ndarray, ...]] = []
    for chart in charts:
        values = list(zip(chart.panel.channels, chart.cells, strict=True))
        if chart.panel.total is not None:
            values.append((chart.panel.total, np.sum(chart.cells, axis=0)))
        for channel, cells in values:
            parts.append((course.stay[chart.position], chart.minute, cells, chart.collected))
            channels.append(channel)
    return _sort_rows(channels, parts)


def make_labs(shard: Shard) -> pa.Table:
    """Return table labs."""
    rows, admission = stack_rows(shard.select("labs"), shard.course), shard.stays.admission
    lexicon = make_lexicon(rows.channels)
    columns = {
        "hospitalization_id": write_texts(shard.stay_ids, rows.stay),
        "lab_collect_dttm": write_times(admission[rows.stay] + rows.extra),
        "lab_result_dttm": write_times(admission[rows.stay] + rows.minute),
        "lab_name": rows.write("name"),
        "lab_category": rows.write("category"),
        "lab_value": write_texts(lexicon.numbers, rows.cell),
        "lab_value_numeric": write_numbers(lexicon.values[rows.cell]),
        "reference_unit": rows.write("unit"),
    }
    return finish_table("labs", columns)


def make_vitals(shard: Shard) -> pa.Table:
    """Return table vitals, which has no column for units."""
    rows = stack_rows(shard.select("vitals"), shard.course)
    columns = {
        "hospitalization_id": write_texts(shard.stay_ids, rows.stay),
        "recorded_dttm": write_times(shard.stays.admission[rows.stay] + rows.minute),
        "vital_name": rows.write("name"),
        "vital_category": rows.write("category"),
        "vital_value": write_numbers(make_lexicon(rows.channels).values[rows.cell]),
        "meas_site_name": rows.write("group"),
    }
    return finish_table("vitals", columns)


def make_assessments(shard: Shard) -> pa.Table:
    """Return table patient_assessments."""
    rows = stack_rows(shard.select("patient_assessments"), shard.course)
    lexicon = make_lexicon(rows.channels)
    shown = np.where(lexicon.is_number_shown, lexicon.values, np.nan)
    columns = {
        "hospitalization_id": write_texts(shard.stay_ids, rows.stay),
        "recorded_dttm": write_times(shard.stays.admission[rows.stay] + rows.minute),
        "assessment_name": rows.write("name"),
        "assessment_category": rows.write("category"),
        "assessment_group": rows.write("group"),
        "numerical_value": write_numbers(shown[rows.cell]),
        "categorical_value": write_texts(lexicon.words, rows.cell),
        "text_value": write_texts(lexicon.texts, rows.cell),
    }
    return finish_table("patient_assessments", columns)


def make_infusions(shard: Shard) -> pa.Table:
    """Return table medication_admin_continuous.

    A drug charted in an hour after one without it is a `start`. In the first hour in which the stay goes on
    and the drug is not charted, it is `Stopped`, at dose 0. So actions and orders follow from the charted
    doses and tell nothing more.
    """
    course, charts = shard.course, shard.select("medication_admin_continuous")
    channels = tuple(chart.panel.channels[0] for chart in charts)
    parts = []
    num_orders = 0
    for chart in charts:
        is_charted = np.zeros(len(course.stay), dtype=bool)
        is_charted[chart.position] = True
        was_charted = np.concatenate([[False], is_charted[:-1]]) & (course.hour > 0)
        order = num_orders + np.cumsum(is_charted & ~was_charted)
        num_orders = int(order[-1])
        stop = np.flatnonzero(was_charted & ~is_charted)
        minutes = shard.make_generator(f"{chart.panel.name}/stop").integers(MINUTES_PER_HOUR, size=len(stop))
        position = np.concatenate([chart.position, stop])
        minute = np.concatenate([chart.minute, MINUTES_PER_HOUR * course.hour[stop] + minutes])
        action = np.where(was_charted[position], _CONTINUE, _START)
        action[len(chart.position) :] = _STOP
        cell = np.concatenate([chart.cells[0], np.zeros(len(stop), np.int64)])
        parts.append((course.stay[position], minute, cell, len(_ACTIONS) * order[position] + action))
    rows = _sort_rows(channels, parts)
    order, action = np.divmod(rows.extra, len(_ACTIONS))
    dose = np.where(action == _STOP, 0.0, make_lexicon(channels).values[rows.cell])
    return _write_doses("medication_admin_continuous", shard, rows, order, dose, write_texts(_ACTIONS, action))


def make_doses(shard: Shard) -> pa.Table:
    """Return table medication_admin_intermittent; every dose is an order of its own."""
    rows = stack_rows(shard.select("medication_admin_intermittent"), shard.course)
    order = ORDERS_PER_SHARD // 2 + np.arange(len(rows.stay))
    dose = make_lexicon(rows.channels).values[rows.cell]
    given = write_texts(["Administered"], np.zeros(len(order), np.int64))
    return _write_doses("medication_admin_intermittent", shard, rows, order, dose, given)


def _write_doses(
    name: str, shard: Shard, rows: Rows, order: np.ndarray, dose: np.ndarray, action: pa.Array
) -> pa.Table:
    columns = {
        "hospitalization_id": write_texts(shard.stay_ids, rows.stay),
        "med_order_id": pa.array(shard.first_order + order).cast(pa.string()),
        "admin_dttm": write_times(shard.stays.admission[rows.stay] + rows.minute),
        "med_name": rows.write("name"),
        "med_category": rows.write("category"),
        "med_group": rows.write("group"),
        "med_dose": write_numbers(dose),
        "med_dose_unit": rows.write("unit"),
        "mar_action_name": action,
    }
    return finish_table(name, columns)
