"""The oddities of real CLIF folders (spec/clif_data.md A1, A2, A5), each on a few rows."""

from __future__ import annotations

import logging
from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from clinrep.config import InputError
from clinrep.ehr.clif import ClifTables
from tests.ehr.tiny_clif import T0, at, tokenize_tiny, write_tiny_clif

TIME = pl.Datetime("us")


def write_table(directory: Path, stem: str, **columns: pl.Series) -> ClifTables:
    directory.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({name: values.alias(name) for name, values in columns.items()}).write_parquet(
        directory / f"{stem}.parquet"
    )
    return ClifTables(directory)


@pytest.mark.parametrize("dtype", [pl.Null, pl.Float64, pl.Int32])
@pytest.mark.parametrize(("kind", "expected"), [("category", pl.String()), ("time", TIME), ("id", pl.String())])
def test_all_null_column_of_another_type_is_read_as_its_own(tmp_path: Path, dtype: Any, kind: Any, expected: Any):
    tables = write_table(tmp_path, "clif_labs", x=pl.Series([None] * 3, dtype=dtype))
    lazy = tables.scan("labs", {"x": kind})
    assert lazy.collect_schema() == {"x": expected}
    for frame in (tables.read("labs", {"x": kind}), lazy.collect(engine="streaming")):
        assert frame.schema == {"x": expected}
        assert frame["x"].to_list() == [None] * 3


def test_times_of_every_unit_and_zone_are_one_instant(tmp_path: Path):
    times = [datetime(2150, 1, 1, 6), None, datetime(2150, 7, 1, 6)]
    utc = pl.Series(times, dtype=pl.Datetime("us", "UTC"))
    written = {
        "ns": utc.dt.cast_time_unit("ns"),
        "ms": utc.dt.cast_time_unit("ms"),
        "chicago": utc.dt.convert_time_zone("America/Chicago"),
        "naive": utc.dt.replace_time_zone(None),
        "naive_ns": utc.dt.replace_time_zone(None).dt.cast_time_unit("ns"),
    }
    frame = write_table(tmp_path, "clif_labs", **written).read("labs", dict.fromkeys(written, "time"))
    assert {name: frame[name].to_list() for name in written} == dict.fromkeys(written, times)
    assert set(frame.dtypes) == {TIME}


@pytest.mark.parametrize(
    "dtype",
    [pl.Datetime(unit, zone) for unit in ("ns", "us", "ms") for zone in ("UTC", "America/Chicago", "Etc/GMT+5", None)],
    ids=str,
)
def test_stage_reads_times_of_every_unit_and_zone(tmp_path: Path, dtype: pl.Datetime):
    if dtype.time_zone is None:
        times = [at(1), at(2), at(3)]
    else:
        aware = pl.Series([at(1), at(2), at(3)]).dt.replace_time_zone("UTC").dt.convert_time_zone(dtype.time_zone)
        times = aware.to_list()
    adt = [{"in_dttm": time} for time in times]
    result = tokenize_tiny(tmp_path / "clif", types={"adt": {"in_dttm": dtype}}, adt=adt)
    assert result.times()[2:-2] == [at(1), at(2), at(3)]


def test_stage_reads_a_date_as_its_midnight(tmp_path: Path):
    adt = [{"in_dttm": day} for day in (date(2150, 1, 3), date(2150, 1, 2), None)]
    result = tokenize_tiny(tmp_path / "clif", types={"adt": {"in_dttm": pl.Date}}, adt=adt)
    assert result.times()[2:-2] == [at(24), at(48)]


@pytest.mark.parametrize("dtype", [pl.Null, pl.Float64, pl.Int32, pl.String, pl.Boolean])
def test_stage_reads_all_null_columns_of_any_type(tmp_path: Path, dtype: Any):
    columns = ("lab_category", "lab_result_dttm", "lab_value_numeric", "reference_unit")
    for column in columns:
        labs = [{column: None}] * 3
        result = tokenize_tiny(tmp_path / column, types={"labs": {column: dtype}}, adt=[{}], labs=labs)
        is_dropped = column in ("lab_category", "lab_result_dttm")
        assert len(result.events()) == (1 if is_dropped else 7), column
        assert result.events()[0] == "ADT_ward"


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["l&d", "ICU ", "ward"])], ids=str)
def test_stage_reads_dictionary_columns_as_text(tmp_path: Path, dtype: Any):
    adt = [{"location_category": word} for word in ("l&d", "ICU ", None, "ward")]
    result = tokenize_tiny(tmp_path / "clif", types={"adt": {"location_category": dtype}}, adt=adt)
    assert result.events() == ["ADT_icu", "ADT_l_and_d", "ADT_ward"]


def test_a_date_is_its_midnight(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    days = pl.Series([date(2150, 1, 2), None, date(2150, 1, 1)])
    frame = write_table(tmp_path, "clif_patient_procedure", x=days).read("patient_procedures", {"x": "time"})
    assert frame["x"].to_list() == [datetime(2150, 1, 2), None, datetime(2150, 1, 1)]
    assert "x have no time zone" in caplog.text


def test_naive_times_are_warned_of_once_a_table(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    naive = {"t": pl.Series([T0]), "u": pl.Series([T0])}
    write_table(tmp_path, "clif_vitals", t=pl.Series([T0], dtype=pl.Datetime("us", "UTC")))
    tables = write_table(tmp_path, "clif_labs", **naive)
    for _ in range(3):
        tables.read("labs", {"t": "time", "u": "time"})
        tables.read("vitals", {"t": "time"})
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["clif_labs.parquet: t, u have no time zone and are taken as UTC"]


def test_stray_index_and_unknown_columns_are_ignored(tmp_path: Path):
    rows = [{"location_category": word, "__index_level_0__": i, "x": None} for i, word in enumerate(("icu", "ward"))]
    assert sorted(tokenize_tiny(tmp_path / "clif", adt=rows).events()) == ["ADT_icu", "ADT_ward"]


def test_order_of_columns_does_not_matter(tmp_path: Path):
    clif = write_tiny_clif(tmp_path / "clif", labs=[{}] * 3)
    frame = pl.read_parquet(clif / "clif_labs.parquet")
    frame.select(reversed(frame.columns)).write_parquet(clif / "clif_labs.parquet")
    columns: dict[str, Any] = {"lab_category": "category", "hospitalization_id": "id"}
    assert ClifTables(clif).read("labs", columns).rows() == [("sodium", "H1")] * 3


def test_singular_file_name_is_the_same_table(tmp_path: Path):
    tables = write_table(tmp_path, "clif_patient_procedure", x=pl.Series(["a", "b", None]))
    assert tables.read("patient_procedures", {"x": "category"})["x"].to_list() == ["a", "b", None]


def test_a_subfolder_is_ignored_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    clif = write_tiny_clif(tmp_path / "clif")
    write_tiny_clif(clif / "3.0", adt=[{}] * 3)
    with caplog.at_level(logging.INFO, logger="clinrep"):
        tables = ClifTables(clif)
    assert tables.read("adt", {"location_category": "category"}).is_empty()
    assert "not CLIF tables known here: 3.0/" in caplog.text


def test_a_table_in_parts_is_refused(tmp_path: Path):
    (tmp_path / "clif_labs.parquet").mkdir()
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "clif_labs.parquet" / "part-0.parquet")
    with pytest.raises(InputError, match="is a folder; expected one Parquet file for table labs"):
        ClifTables(tmp_path)


def test_a_folder_name_with_brackets_is_no_pattern(tmp_path: Path):
    tables = write_table(tmp_path / "run[1]*", "clif_labs", x=pl.Series([None, "a"]), y=pl.Series([1.0, 2.0]))
    assert tables.read("labs", {"x": "category"})["x"].to_list() == [None, "a"]
    with pytest.raises(InputError, match="column 'y' should be text"):
        tables.scan("labs", {"y": "category"})


def test_unit_with_a_tab_is_the_unit_without(tmp_path: Path):
    labs = [{"reference_unit": unit} for unit in ("10^3/µL\t", "10^3/µL", " 10^3/µl ")]
    result = tokenize_tiny(tmp_path / "clif", labs=labs)
    assert [(key, count) for key, (count, _) in result.quantiles.items()] == [(("LAB_sodium", "10^3/µl"), 3)]
