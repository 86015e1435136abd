"""A shard before it becomes tables, and how its numbers become columns of CLIF tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clinrep.ehr.simulate.charts import Chart, Course, MakeGenerator
from clinrep.ehr.simulate.patients import Arrivals, Stays
from clinrep.ehr.simulate.schemas import SCHEMAS, TIME

# Part of what the data are: another size gives other data, so it is no setting.
STAYS_PER_SHARD = 1000
_FIRST_STAY, _FIRST_PATIENT, _FIRST_ORDER = 20_000_000, 10_000_000, 1_000_000  # numbers of eight digits, as in MIMIC
ORDERS_PER_SHARD = 100_000
_MICROSECONDS_PER_MINUTE = 60_000_000


@dataclass(frozen=True)
class Shard:
    """Everything that happened to the stays of a shard."""

    number: int
    arrivals: Arrivals
    course: Course
    stays: Stays
    charts: Sequence[Chart]
    make_generator: MakeGenerator
    """Name -> the generator of that name, the shard's own."""

    @property
    def stay_ids(self) -> list[str]:
        """hospitalization_id of each stay."""
        first = _FIRST_STAY + self.number * STAYS_PER_SHARD
        return [str(first + i) for i in range(len(self.stays.length))]

    @property
    def patient_ids(self) -> list[str]:
        """patient_id of each patient."""
        first = _FIRST_PATIENT + self.number * STAYS_PER_SHARD
        return [str(first + i) for i in range(int(self.stays.patient[-1]) + 1)]

    @property
    def first_order(self) -> int:
        """Where the shard's ORDERS_PER_SHARD values of med_order_id begin."""
        return _FIRST_ORDER + self.number * ORDERS_PER_SHARD

    def select(self, table: str) -> list[Chart]:
        """Return what was charted for a table."""
        return [chart for chart in self.charts if chart.panel.table == table]


def write_texts(words: Sequence[str | None], numbers: np.ndarray) -> pa.Array:
    """Return strings: the word of each number."""
    return pa.array(words, pa.string()).take(pa.array(numbers))


def write_times(minutes: np.ndarray, is_null: np.ndarray | None = None) -> pa.Array:
    """Return times in UTC from minutes since 1970."""
    return pa.array(minutes * _MICROSECONDS_PER_MINUTE, TIME, mask=is_null)


def write_numbers(values: np.ndarray) -> pa.Array:
    """Return numbers; NaN becomes null."""
    return pa.array(values, pa.float64(), from_pandas=True)


def finish_table(name: str, columns: Mapping[str, pa.Array]) -> pa.Table:
    """Return the CLIF table; columns not given are null."""
    num_rows = len(next(iter(columns.values())))
    schema = SCHEMAS[name]
    assert columns.keys() <= set(schema.names), columns.keys() - set(schema.names)
    arrays = [columns[f.name] if f.name in columns else pa.nulls(num_rows, f.type) for f in schema]
    return pa.Table.from_arrays(arrays, schema=schema)
