"""A table in batches: text as codes, numbers, times and nulls, and the combinations rows have of them."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clinrep.config import InputError
from clinrep.ehr import scan as module
from clinrep.ehr.scan import Combinations, TableScan

EPOCH = datetime(1970, 1, 1)


def read(path: Path, **columns: str) -> tuple[TableScan, list[Any]]:
    scan = TableScan(path, {column: set(kinds.split()) for column, kinds in columns.items()})
    return scan, list(scan.iterate())


def decode(scan: TableScan, batches: list[Any], column: str) -> list[str | None]:
    codes = np.concatenate([batch.text[column] for batch in batches]).tolist()
    return [scan.values[column][code - 1] if code else None for code in codes]


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 1000])
@pytest.mark.parametrize("type_name", ["string", "large_string", "string_view", "dictionary", "int64"])
def test_text_is_the_same_whatever_its_type_and_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int, type_name: str
):
    monkeypatch.setattr(module, "BATCH_ROWS", batch_rows)
    words = ["7", None, "12", "7", None, "9", "12", "12", None]
    array = pa.array(words)
    if type_name == "dictionary":
        array = array.dictionary_encode()
    else:
        array = array.cast({"string_view": pa.string_view()}.get(type_name) or getattr(pa, type_name)())
    pq.write_table(pa.table({"x": array, "other": array}), tmp_path / "t.parquet", row_group_size=4)
    scan, batches = read(tmp_path / "t.parquet", x="id")
    assert decode(scan, batches, "x") == words
    assert len(set(scan.values["x"])) == len(scan.values["x"]) == 3
    assert sum(batch.num_rows for batch in batches) == len(words)


def test_a_null_entry_of_a_dictionary_is_null(tmp_path: Path):
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2, 1], pa.int8()), pa.array(["a", None, "b"]))
    scan = TableScan(tmp_path / "unread", {"x": {"category"}})
    batch = scan._read(pa.record_batch({"x": array}))
    assert decode(scan, [batch], "x") == ["a", None, None, "b", None]


@pytest.mark.parametrize("dtype", [pl.Null, pl.Float64, pl.Int32, pl.Boolean, pl.Datetime("us")])
def test_a_column_without_any_value_may_have_any_type(tmp_path: Path, dtype: Any):
    frame = pl.DataFrame({name: pl.Series([None, None], dtype=dtype) for name in ("text", "number", "time")})
    frame.write_parquet(tmp_path / "t.parquet")
    scan, batches = read(tmp_path / "t.parquet", text="category", number="number", time="time")
    assert decode(scan, batches, "text") == [None, None]
    assert np.isnan(batches[0].numbers["number"]).all()
    assert batches[0].is_null["time"].all()


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt64, pl.Int64, pl.Float32, pl.Float64])
def test_numbers(tmp_path: Path, dtype: Any):
    pl.DataFrame({"x": pl.Series([3, None, 0], dtype=dtype)}).write_parquet(tmp_path / "t.parquet")
    _, (batch,) = read(tmp_path / "t.parquet", x="number")
    np.testing.assert_array_equal(batch.numbers["x"], [3, np.nan, 0])
    assert batch.is_null["x"].tolist() == [False, True, False]


def test_nan_is_a_number_not_a_null(tmp_path: Path):
    pl.DataFrame({"x": [float("nan"), None, float("inf")]}).write_parquet(tmp_path / "t.parquet")
    _, (batch,) = read(tmp_path / "t.parquet", x="number")
    np.testing.assert_array_equal(batch.numbers["x"], [np.nan, np.nan, np.inf])
    assert batch.is_null["x"].tolist() == [False, True, False]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/Chicago"])
def test_times_are_microseconds_utc(tmp_path: Path, unit: Any, zone: str | None):
    # 2150 is beyond neither unit; 1 ms before 1970 shows how halves of the unit are cut.
    moments = [datetime(2150, 1, 1, 3, 4, 5, 6000), None, EPOCH - timedelta(milliseconds=1)]
    series = pl.Series("t", moments, dtype=pl.Datetime(unit)).dt.replace_time_zone("UTC")
    stored = series.dt.replace_time_zone(None) if zone is None else series.dt.convert_time_zone(zone)
    stored.to_frame().write_parquet(tmp_path / "t.parquet")
    _, (batch,) = read(tmp_path / "t.parquet", t="time")
    expected = [0 if moment is None else (moment - EPOCH) // timedelta(microseconds=1) for moment in moments]
    assert batch.times["t"].tolist() == expected
    assert batch.is_null["t"].tolist() == [False, True, False]


def test_seconds_and_dates_are_times(tmp_path: Path):
    seconds = pa.array([1, None], pa.timestamp("s"))
    scan = TableScan(tmp_path / "unread", {"s": {"time"}, "d": {"time"}})
    batch = scan._read(pa.record_batch({"s": seconds, "d": pa.array([date(1970, 1, 2), None])}))
    assert batch.times["s"].tolist() == [1_000_000, 0]
    assert batch.times["d"].tolist() == [24 * 3600 * 1_000_000, 0]


def test_a_damaged_file_is_an_input_error(tmp_path: Path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"x": [f"word {i}" for i in range(5000)]}).write_parquet(path)
    content = path.read_bytes()
    path.write_bytes(content[:8] + bytes(len(content) // 2) + content[8 + len(content) // 2 :])
    with pytest.raises(InputError, match=r"t\.parquet is damaged (.|\n)*export it again"):
        read(path, x="category")


@pytest.mark.parametrize("max_table", [1, 1 << 22])
def test_combinations_are_those_of_the_rows_across_batches(monkeypatch: pytest.MonkeyPatch, max_table: int):
    monkeypatch.setattr(module, "MAX_TABLE", max_table)
    rng = np.random.default_rng(0)
    combinations, numbers, rows = Combinations(), [], []
    for size in (1, 5, 300, 40):
        columns = [
            rng.integers(0, 1 + size // 10, size, dtype=np.int32),  # later batches have texts unseen before
            rng.integers(0, 3, size, dtype=np.int32),
            rng.integers(0, 2, size).astype(bool).view(np.int8),
        ]
        numbers += combinations.number(columns).tolist()
        rows += list(zip(*(column.tolist() for column in columns), strict=True))
    assert [combinations.rows[number] for number in numbers] == rows
    assert len(set(combinations.rows)) == len(combinations.rows)


def test_too_many_combinations_are_refused():
    columns = [np.array([0, 1 << 30], dtype=np.int32)] * 3
    with pytest.raises(InputError, match=r"too many distinct texts to combine .*are ids among its categories"):
        Combinations().number(columns)


@pytest.mark.parametrize("text", ["3.2", "0.1", "98.6", "-0.3", "1234567.891"])
def test_decimals_are_the_nearest_float(tmp_path: Path, text: str):
    """pyarrow's own cast divides twice and gives 3.1999999999999997, which is in another bin than 3.2."""
    values = pa.array([Decimal(text), None]).cast(pa.decimal128(18, 6))
    pq.write_table(pa.table({"x": values}), tmp_path / "t.parquet")
    (batch,) = read(tmp_path / "t.parquet", x="number")[1]
    assert batch.numbers["x"][0] == float(text)
    assert np.isnan(batch.numbers["x"][1])


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_text_of_any_encoding(tmp_path: Path, encoding: str):
    words = ["a", None, "abc", "a"]
    table = pa.table({"x": words})
    pq.write_table(table, tmp_path / "t.parquet", use_dictionary=False, column_encoding={"x": encoding})
    scan, batches = read(tmp_path / "t.parquet", x="category")
    assert decode(scan, batches, "x") == words


def test_wide_decimals_are_read(tmp_path: Path):
    values = pa.array([Decimal("98.5"), None]).cast(pa.decimal256(50, 3))
    pq.write_table(pa.table({"x": values}), tmp_path / "t.parquet")
    (batch,) = read(tmp_path / "t.parquet", x="number")[1]
    assert batch.numbers["x"][0] == pytest.approx(98.5)
