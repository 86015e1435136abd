"""A CLIF table in batches of bounded size, text as numbers: N rows, codes from 0 for null."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clinrep.config import InputError
from clinrep.ehr import moments
from clinrep.ehr.clif import Kind
from clinrep.failures import pass_disk_error, say

BATCH_ROWS = 1 << 20
# Text columns are decoded straight to dictionary indices; a mixed-radix number over this many
# possible combinations still has a lookup table, above it the combinations are sorted.
MAX_TABLE = 1 << 22
MAX_TEXTS = 250_000  # of one category column; CLIF's longest list of words has hundreds


@dataclass(frozen=True)
class Batch:
    """Some rows of a table, by column."""

    num_rows: int
    text: dict[str, np.ndarray]
    """i32 (N,): 0 is null, k > 0 the text `TableScan.values[column][k - 1]`."""
    numbers: dict[str, np.ndarray]
    """f64 (N,): NaN where null."""
    times: dict[str, np.ndarray]
    """i64 (N,): microseconds since 1970 UTC, 0 where null."""
    is_null: dict[str, np.ndarray]
    """bool (N,), of numbers, times and columns asked only whether they are null."""


@dataclass
class TableScan:
    """One table read once, from its first row to its last, in batches."""

    path: Path
    columns: Mapping[str, set[Kind]]
    """Column -> what it is read as; ClifTables.check_columns has found the types right."""
    values: dict[str, list[str]] = field(default_factory=dict)
    """Text column -> its texts in order of appearance, filled as batches are read."""
    num_placeholders: dict[str, int] = field(default_factory=dict)
    """Time column -> values so far that no hospital meant (`moments`); they are taken as null."""

    def __post_init__(self) -> None:
        """Start without any text seen."""
        self._codes: dict[str, dict[str | None, int]] = {}
        for column, kinds in self.columns.items():
            if kinds & {"id", "category"}:
                self.values[column], self._codes[column] = [], {None: 0}

    def iterate(self) -> Iterator[Batch]:
        """Yield the table's batches in row order."""
        try:
            # A column chunk is streamed through a small buffer: some exports have one row group of everything.
            texts = _find_dictionary_columns(self.path, list(self.values))
            file = pq.ParquetFile(self.path, read_dictionary=texts, buffer_size=1 << 20, pre_buffer=False)
            for record in file.iter_batches(BATCH_ROWS, columns=list(self.columns)):
                yield self._read(record)
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path} holds text that is not UTF-8 ({error.reason}); export it again") from error
        except (pa.ArrowException, OSError, KeyError) as error:
            pass_disk_error(error, self.path)
            raise InputError(f"{self.path} is damaged ({say(error)}); export it again") from error

    def _read(self, record: pa.RecordBatch) -> Batch:
        batch = Batch(record.num_rows, {}, {}, {}, {})
        for column, kinds in self.columns.items():
            array = record.column(column)
            if column in self.values:
                batch.text[column] = self._encode(column, array)
            if kinds - {"id", "category"}:
                batch.is_null[column] = _to_numpy(array.is_null())
            if "number" in kinds:
                batch.numbers[column] = _read_numbers(array)
            if "time" in kinds:
                batch.times[column], is_odd = _read_times(array)
                batch.is_null[column] = batch.is_null[column] | is_odd
                self.num_placeholders[column] = self.num_placeholders.get(column, 0) + int(is_odd.sum())
        return batch

    def _encode(self, column: str, array: pa.Array) -> np.ndarray:
        """Return i32 codes of a text column, and remember texts not seen before."""
        if array.null_count == len(array):
            return np.zeros(len(array), dtype=np.int32)
        if not pa.types.is_dictionary(array.type):
            array = array.dictionary_encode()
        codes, values = self._codes[column], self.values[column]
        table = np.empty(len(array.dictionary) + 1, dtype=np.int32)
        for i, value in enumerate(array.dictionary.to_pylist()):
            text = value if value is None or isinstance(value, str) else str(value)
            code = codes.get(text)
            if code is None:
                code = codes[text] = len(codes)
                values.append(str(text))
            table[i] = code
        if len(values) > MAX_TEXTS and "category" in self.columns[column]:
            raise InputError(
                f"{self.path}: column {column!r} has more than {MAX_TEXTS:,} different values; are these free text or "
                "ids, not categories? correct the export, or name another column in the config"
            )
        table[-1] = 0  # an index of -1 is null
        return table[_to_numpy(pc.fill_null(array.indices.cast(pa.int32()), -1))]


def _find_dictionary_columns(path: Path, columns: list[str]) -> list[str]:
    """Return those of the columns whose encoding pyarrow can decode straight to indices."""
    metadata = pq.read_metadata(path)
    names = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}
    found = []
    for column in columns:
        groups = range(metadata.num_row_groups)
        encodings = {e for group in groups for e in metadata.row_group(group).column(names[column]).encodings}
        if encodings <= {"PLAIN", "PLAIN_DICTIONARY", "RLE_DICTIONARY", "RLE", "BIT_PACKED"}:
            found.append(column)
    return found


def _read_numbers(array: pa.Array) -> np.ndarray:
    """Return f64; a column without any value may have whatever type the export gave it."""
    if array.null_count == len(array):
        return np.full(len(array), np.nan)
    # pyarrow rounds decimals twice, polars once; but polars has none of 256 bits.
    if pa.types.is_decimal(array.type) and not pa.types.is_decimal256(array.type):
        return pl.Series(pl.from_arrow(array)).cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return _to_numpy(pc.fill_null(array.cast(pa.float64(), safe=False), np.nan))


def _read_times(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return i64 microseconds since 1970, 0 where there is no time, and bool whether one is no hospital's.

    Aware times are stored as UTC, naive ones and dates are taken so.
    """
    if array.null_count == len(array):
        return np.zeros(len(array), dtype=np.int64), np.zeros(len(array), dtype=bool)
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("s"))
    unit = array.type.unit
    whole = _to_numpy(pc.fill_null(array.cast(pa.int64()), 0))
    first, last = moments.get_bounds(unit)  # before any conversion, which might overflow
    is_odd = (whole < first) | (whole > last)
    whole = np.where(is_odd, 0, whole)
    if unit == "ns":
        return whole // 1000, is_odd
    return whole * {"us": 1, "ms": 1_000, "s": 1_000_000}[unit], is_odd


def _to_numpy(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False)


class Combinations:
    """The distinct combinations of a table's text codes and null flags, numbered as they appear."""

    def __init__(self) -> None:
        """Start without any."""
        self.rows: list[tuple[int, ...]] = []
        self._numbers: dict[tuple[int, ...], int] = {}

    def number(self, columns: list[np.ndarray]) -> np.ndarray:
        """Return i32 (N,): each row's combination, an index into `rows`."""
        sizes = [int(column.max(initial=0)) + 1 for column in columns]
        num_keys = math.prod(sizes)
        if num_keys >= 1 << 63:
            raise InputError(f"a table has too many distinct texts to combine ({sizes}); are ids among its categories?")
        key = np.zeros(len(columns[0]), dtype=np.int64)
        for column, size in zip(columns, sizes, strict=True):
            key *= size
            key += column
        if num_keys > MAX_TABLE:
            present, key = np.unique(key, return_inverse=True)
            num_keys = len(present)
            numbers = self._register(present, sizes)
            return numbers[key]
        present = np.flatnonzero(np.bincount(key, minlength=num_keys))
        table = np.zeros(num_keys, dtype=np.int32)
        table[present] = self._register(present, sizes)
        return table[key]

    def _register(self, keys: np.ndarray, sizes: list[int]) -> np.ndarray:
        """Return the numbers of combinations given as mixed-radix keys, adding the new ones."""
        digits = []
        for size in reversed(sizes):
            digits.append(keys % size)
            keys = keys // size
        numbers = np.empty(len(keys), dtype=np.int32)
        for i, row in enumerate(zip(*(digit.tolist() for digit in reversed(digits)), strict=True)):
            number = self._numbers.get(row)
            if number is None:
                number = self._numbers[row] = len(self.rows)
                self.rows.append(row)
            numbers[i] = number
        return numbers
