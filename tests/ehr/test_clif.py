"""Reading CLIF tables as they are found: files, types, time zones, spelling."""

from __future__ import annotations

import logging
import re
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from clinrep.config import InputError
from clinrep.ehr.clif import TABLE_FILES, ClifTables, normalize_column, normalize_text
from clinrep.ehr.units import normalize_unit
from tests.ehr.tiny_clif import T0, at, make_config, tokenize_in_memory, tokenize_tiny, write_tiny_clif


def write_labs(directory: Path, **columns: pl.Series) -> ClifTables:
    directory.mkdir()
    pl.DataFrame({name: values.rename(name) for name, values in columns.items()}).write_parquet(
        directory / "clif_labs.parquet"
    )
    return ClifTables(directory)


def read_one(tmp_path: Path, values: pl.Series, kind: str) -> list[object]:
    frame = write_labs(tmp_path / "clif", x=values).read("labs", {"x": kind})
    expected = {"time": pl.Datetime("us"), "number": pl.Float64(), "any": values.dtype}.get(kind, pl.String())
    assert frame.schema["x"] == expected
    return frame["x"].to_list()


# --- which file is which table


def test_each_table_is_found_by_its_exact_stem(tmp_path: Path):
    for table, stems in TABLE_FILES.items():
        for stem in stems:
            folder = tmp_path / stem
            folder.mkdir()
            pl.DataFrame({"a": [1]}).write_parquet(folder / f"{stem}.parquet")
            assert list(ClifTables(folder).paths) == [table]


def test_procedures_are_not_patients_and_the_medication_tables_stay_apart(tmp_path: Path):
    stems = ["patient_procedures", "patient", "medication_admin_continuous", "medication_admin_intermittent"]
    for stem in stems:
        pl.DataFrame({"a": [stem]}).write_parquet(tmp_path / f"clif_{stem}.parquet")
    tables = ClifTables(tmp_path)
    assert {stem: tables.read(stem, {"a": "category"})["a"].item() for stem in stems} == {s: s for s in stems}


def test_unknown_files_are_ignored_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    clif = write_tiny_clif(tmp_path / "clif")
    (clif / "notes.txt").write_text("x")
    (clif / "clif_labs_old.parquet").write_text("not even Parquet")
    (clif / "3.0").mkdir()  # a newer edition in a subfolder must not be read twice
    write_tiny_clif(clif / "3.0")
    with caplog.at_level(logging.INFO, logger="clinrep"):
        tokenize_in_memory(make_config(clif))
    for name in ("notes.txt", "clif_labs_old.parquet", "3.0"):
        assert any(name in record.message and "ignored" in record.message for record in caplog.records)


def test_two_files_for_one_table_are_refused(tmp_path: Path):
    for stem in TABLE_FILES["patient_procedures"]:
        pl.DataFrame({"a": [1]}).write_parquet(tmp_path / f"{stem}.parquet")
    with pytest.raises(InputError, match=r"clif_patient_procedure.parquet and clif_patient_procedures.parquet"):
        ClifTables(tmp_path)


def test_folder_without_tables_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="holds no CLIF table"):
        ClifTables(tmp_path)
    with pytest.raises(InputError, match="is not a directory"):
        ClifTables(tmp_path / "none")


@pytest.mark.parametrize("table", ["patient", "hospitalization", "adt"])
def test_missing_required_table_names_file_and_reason(tmp_path: Path, table: str):
    clif = write_tiny_clif(tmp_path / "clif", leave_out=[table])
    source = make_config(clif).sources[0].__dict__ | {"required": True}
    config = make_config(clif, sources=[type(make_config(clif).sources[0])(**source)])
    with pytest.raises(InputError, match=rf"lacks clif_{table}\.parquet.*require|lacks clif_{table}\.parquet.*needs"):
        tokenize_in_memory(config)


def test_missing_optional_table_is_noted_and_gives_no_events(tmp_path: Path):
    result = tokenize_tiny(tmp_path / "clif", adt=[{}], leave_out=["labs"])
    assert result.events() == ["ADT_ward"]
    assert [row[2:4] for row in result.ledger if row[:2] == ("labs", "labs: table")] == [(0, 0)]


def test_file_that_is_not_parquet_is_an_input_error(tmp_path: Path):
    clif = write_tiny_clif(tmp_path / "clif")
    for content in (b"", b"not Parquet at all"):
        (clif / "clif_labs.parquet").write_bytes(content)
        with pytest.raises(InputError, match=r"clif_labs\.parquet is not a readable Parquet file"):
            tokenize_in_memory(make_config(clif))


def test_file_damaged_behind_a_good_footer_is_an_input_error(tmp_path: Path):
    clif = write_tiny_clif(tmp_path / "clif", labs=[{"lab_value_numeric": float(i)} for i in range(5000)])
    path = clif / "clif_labs.parquet"
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = b"\xff" * (len(content) // 2 - 4)
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"clif_labs\.parquet"):
        tokenize_in_memory(make_config(clif))


# --- types


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_of_any_unit_become_microseconds(tmp_path: Path, unit: str):
    values = pl.Series([T0, None, datetime(2150, 7, 1, 12, 30)], dtype=pl.Datetime(unit, "UTC"))
    assert read_one(tmp_path, values, "time") == [T0, None, datetime(2150, 7, 1, 12, 30)]


def test_local_times_are_converted_with_daylight_saving(tmp_path: Path):
    zone = "America/Chicago"
    summer, winter = datetime(2020, 7, 1, 12), datetime(2020, 1, 1, 12)
    values = pl.Series([summer, winter]).dt.replace_time_zone(zone)
    expected = [
        t.replace(tzinfo=ZoneInfo(zone)).astimezone(ZoneInfo("UTC")).replace(tzinfo=None) for t in (summer, winter)
    ]
    assert expected == [datetime(2020, 7, 1, 17), datetime(2020, 1, 1, 18)]
    assert read_one(tmp_path, values, "time") == expected


def test_naive_times_are_taken_as_they_are_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert read_one(tmp_path, pl.Series([T0], dtype=pl.Datetime("us")), "time") == [T0]
    assert any("clif_labs.parquet: x have no time zone" in record.message for record in caplog.records)
    caplog.clear()
    (tmp_path / "aware").mkdir()
    read_one(tmp_path / "aware", pl.Series([T0], dtype=pl.Datetime("us", "UTC")), "time")
    assert not caplog.records


@pytest.mark.parametrize("kind", ["id", "time", "number", "category", "any"])
@pytest.mark.parametrize("dtype", [pl.Null, pl.Float64, pl.Int32, pl.String, pl.Boolean])
def test_column_that_is_all_null_may_have_any_type(tmp_path: Path, kind: str, dtype: pl.DataType):
    values = pl.Series([None, None], dtype=dtype)
    frame = write_labs(tmp_path / "clif", x=values).read("labs", {"x": kind})
    assert frame["x"].to_list() == [None, None]
    if kind != "any":
        expected = {"time": pl.Datetime("us"), "number": pl.Float64()}.get(kind, pl.String())
        assert frame.schema["x"] == expected


def test_all_null_number_column_where_text_is_expected_gives_no_events(tmp_path: Path):
    types = {"labs": {"lab_category": pl.Float64, "reference_unit": pl.Null}}
    result = tokenize_tiny(tmp_path / "a", labs=[{"lab_category": None, "reference_unit": None}] * 2, types=types)
    assert result.events() == []
    assert result.dropped("labs", "labs: category") == (2, 0)


@pytest.mark.parametrize("dtype", [pl.Int64, pl.UInt32, pl.Int16])
def test_whole_number_ids_are_the_same_as_text_ids(tmp_path: Path, dtype: pl.DataType):
    assert read_one(tmp_path, pl.Series([7, None, 20], dtype=dtype), "id") == ["7", None, "20"]


def test_integer_ids_join_with_text_ids_of_another_table(tmp_path: Path):
    types = {"hospitalization": {"hospitalization_id": pl.Int64}}
    result = tokenize_tiny(
        tmp_path / "a", hospitalization=[{"hospitalization_id": 7}], adt=[{"hospitalization_id": "7"}], types=types
    )
    assert result.events("7") == ["ADT_ward"]


@pytest.mark.parametrize("dtype", [pl.Float32, pl.Int8, pl.Decimal(10, 1)])
def test_numbers_of_any_width_become_float64(tmp_path: Path, dtype: pl.DataType):
    assert read_one(tmp_path, pl.Series([1, None, 3], dtype=pl.Int8).cast(dtype), "number") == [1.0, None, 3.0]


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["b", "A"])])
def test_dictionary_columns_are_text(tmp_path: Path, dtype: pl.DataType):
    assert read_one(tmp_path, pl.Series(["b", "A", None], dtype=dtype), "category") == ["b", "A", None]


@pytest.mark.parametrize(
    ("values", "kind", "expected", "found"),
    [
        (pl.Series(["1"]), "number", "a number", "String"),
        (pl.Series([1.5]), "category", "text", "Float64"),
        (pl.Series([True]), "category", "text", "Boolean"),
        (pl.Series([1.0]), "id", "text or a whole number", "Float64"),
        (pl.Series(["2020-01-01"]), "time", "a datetime", "String"),
        (pl.Series([T0.time()]), "time", "a datetime", "Time"),
        (pl.Series([T0]), "number", "a number", "Datetime"),
        (pl.Series([None, "x"]), "number", "a number", "String"),
    ],
)
def test_wrong_type_names_file_column_expected_and_found(tmp_path: Path, values, kind, expected, found):
    tables = write_labs(tmp_path / "clif", x=values)
    pattern = rf"clif_labs\.parquet: column 'x' should be {expected}, found {found}"
    with pytest.raises(InputError, match=pattern):
        tables.check_columns("labs", {"x": kind})
    with pytest.raises(InputError, match=pattern):
        tables.read("labs", {"x": kind})


def test_missing_column_names_file_column_and_what_is_there(tmp_path: Path):
    tables = write_labs(tmp_path / "clif", hospitalization_id=pl.Series(["H1"]), value=pl.Series([1.0]))
    pattern = re.escape("clif_labs.parquet has no column 'lab_category'; its columns are hospitalization_id, value")
    with pytest.raises(InputError, match=pattern):
        tables.check_columns("labs", {"lab_category": "category"})


def test_rows_keep_the_order_of_the_file(tmp_path: Path):
    values = [3, 1, 2, 2, 9, 0] * 50_000
    assert read_one(tmp_path, pl.Series(values), "number") == values


# --- spelling


@pytest.mark.parametrize(
    ("text", "snake", "lower"),
    [
        ("l&d", "l_and_d", "l&d"),
        ("L & D", "l_and_d", "l & d"),
        ("Pressure Support/CPAP", "pressure_support_or_cpap", "pressure support/cpap"),
        ("Bipap mask ", "bipap_mask", "bipap mask "),
        ("  High Flow  NC\t", "high_flow_nc", "  high flow  nc\t"),
        ("Skilled Nursing Facility (SNF)", "skilled_nursing_facility_snf", "skilled nursing facility (snf)"),
        ("Non-Hispanic", "non_hispanic", "non-hispanic"),
        ("EW EMER.", "ew_emer", "ew emer."),
        ("already_snake_2", "already_snake_2", "already_snake_2"),
        ("RASS", "rass", "rass"),
        ("Äther 5%", "äther_5", "äther 5%"),
        ("__x__", "x", "__x__"),
        ("N/A", "n_or_a", "n/a"),
        # signs count where there is no letter, so that no two of these meet and none is lost
        ("+", "plus", "+"),
        ("++", "plus_plus", "++"),
        ("-", "minus", "-"),
        ("+/-", "plus_or_minus", "+/-"),
        ("+2", "plus_2", "+2"),
        ("-2", "minus_2", "-2"),
        ("2+", "2_plus", "2+"),
        ("2", "2", "2"),
        ("<5", "below_5", "<5"),
        (" 10 - 20", "10_20", " 10 - 20"),
        ("2020-01-01", "2020_01_01", "2020-01-01"),
        ("1-2-3", "1_2_3", "1-2-3"),
        ("50%", "50", "50%"),
        ("?", "question", "?"),
        ("\N{HORIZONTAL ELLIPSIS}", "symbol", "\N{HORIZONTAL ELLIPSIS}"),
        (" \t", None, " \t"),
        ("", None, ""),
        (None, None, None),
    ],
)
def test_spelling_rules(text: str | None, snake: str | None, lower: str | None):
    values = pl.Series("x", [text], dtype=pl.String)
    assert normalize_text(values, "snake_case").to_list() == [snake]
    assert normalize_text(values, "lower").to_list() == [lower]
    assert normalize_text(values, "none").to_list() == [text]
    spelled = normalize_text(values, "snake_case")
    assert normalize_text(spelled, "snake_case").to_list() == [snake]
    assert normalize_column(values.to_frame(), "x", "snake_case")["x"].to_list() == [snake]


def test_normalising_a_column_keeps_rows_in_place(tmp_path: Path):
    frame = pl.DataFrame({"i": range(6), "x": ["B b", None, "a", "b_B", "B b", ""]})
    made = normalize_column(frame, "x", "snake_case")
    assert made.rows() == [(0, "b_b"), (1, None), (2, "a"), (3, "b_b"), (4, "b_b"), (5, None)]
    assert normalize_column(frame, "x", "lower")["x"].to_list() == ["b b", None, "a", "b_b", "b b", ""]
    assert made.columns == ["i", "x"]


def test_units_are_spelled_alike_but_never_merged():
    units = pl.DataFrame({"u": ["10^3/µL\t", " mL/H ", "ml / h", "", None, "G"]})
    assert units.select(normalize_unit(pl.col("u")))["u"].to_list() == ["10^3/µl", "ml/h", "ml / h", None, None, "g"]


@pytest.mark.parametrize(("rule", "word"), [("snake_case", "l_and_d"), ("lower", "l&d "), ("none", "L&D ")])
def test_rule_is_a_setting_of_the_stage(tmp_path: Path, rule: str, word: str):
    result = tokenize_tiny(tmp_path / "a", {"normalize": rule}, adt=[{"location_category": "L&D ", "in_dttm": at(1)}])
    assert result.events() == [f"ADT_{word}"]


def test_a_folder_in_place_of_a_table_is_refused(tmp_path):
    (tmp_path / "clif_labs.parquet").mkdir()
    with pytest.raises(InputError, match=r"clif_labs\.parquet is a folder; expected one Parquet file"):
        ClifTables(tmp_path)
