"""Event sources beyond one table with one column: fallbacks, tables and columns a site lacks, patients, no times."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from clinrep.config import InputError
from clinrep.ehr.configs.sources import Condition, EventSource, ValueRange
from tests.ehr.random_clif import build_config
from tests.ehr.tiny_clif import (
    ADT,
    LABS,
    RECOMMENDED,
    make_config,
    make_stays,
    tokenize_in_memory,
    tokenize_tiny,
    write_tiny_clif,
)
from tests.ehr.tiny_tables import at

CODE_STATUS = EventSource(
    name="code_status",
    table="code_status",
    id_column="patient_id",
    time_column="start_dttm",
    category_column="code_status_category",
    token="CODE_{category}",
)
DIAGNOSES = EventSource(
    name="diagnoses",
    table="hospital_diagnosis",
    time_column=None,
    category_column="diagnosis_code",
    token="DIAGNOSIS_{category}",
)
MEDICATION = "medication_admin_continuous"


# --- what a condition reads


def doses(*actions: tuple[str | None, str | None], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return a dose an hour with mar_action_category and mar_action_name, as far as the site has the columns."""
    columns = ("mar_action_category", "mar_action_name")
    rows = [dict(zip(columns, action, strict=True)) for action in actions]
    return [
        {"med_category": f"m{i}", "admin_dttm": at(i), **{name: row[name] for name in names}}
        for i, row in enumerate(rows)
    ]


ACTIONS = [("Stopped", None), (None, "STOP"), ("start", "Stopped"), (None, "start"), (" ", "Paused"), (None, None)]


@pytest.mark.parametrize(
    ("names", "stopped"),
    [
        (("mar_action_category", "mar_action_name"), {0, 1, 4}),
        (("mar_action_category",), {0}),
        (("mar_action_name",), {1, 2, 4}),  # the sample has only this one
        ((), set()),
    ],
)
def test_a_stopped_infusion_is_an_event_of_its_own_and_no_dose(
    tmp_path: Path, names: tuple[str, ...], stopped: set[int]
):
    recommended = build_config(yaml.safe_load(RECOMMENDED.read_text()), clif_dir="unused").sources
    sources = [source for source in recommended if source.name in ("medications", "medication_stops")]
    rows = doses(*ACTIONS, names=names)
    result = tokenize_tiny(tmp_path / "a", {"sources": sources}, **{MEDICATION: rows})
    expected = [words for i in range(6) for words in ([f"MED_STOP_m{i}"] if i in stopped else [f"MED_m{i}", "Q9"])]
    assert result.events() == expected
    assert len(result.quantiles) == 6 - len(stopped)


def test_both_columns_of_a_condition_must_be_null_for_it_to_be_null(tmp_path: Path):
    rows = [
        {"lab_category": c, "lab_name": n, "lab_result_dttm": at(i)}
        for i, (c, n) in enumerate([(None, "x"), ("a", None), (None, None)])
    ]
    for columns in (("lab_category", "lab_name"), ("lab_name", "lab_category")):
        condition = Condition(column=columns[0], fallback_column=columns[1], is_null=False)
        source = replace(LABS, keep_if=[condition], null_category="keep")
        result = tokenize_tiny(tmp_path / columns[0], {"sources": [source]}, labs=rows)
        assert result.events() == ["LAB_missing", "Q9", "LAB_a", "Q9"]


@pytest.mark.parametrize(
    ("condition", "kept"),
    [({"none_of": ["x"]}, 1), ({"one_of": ["x"]}, 0), ({"is_null": True}, 1), ({"is_null": False}, 0)],
)
def test_a_column_the_table_lacks_is_null_where_that_is_said(tmp_path: Path, condition: dict[str, Any], kept: int):
    source = replace(ADT, keep_if=[Condition(column="location_type", if_column_missing="null", **condition)])
    result = tokenize_tiny(tmp_path / "a", {"sources": [source]}, adt=[{}])
    assert len(result.events()) == kept


def test_a_column_the_table_lacks_is_an_error_otherwise(tmp_path: Path):
    condition = Condition(column="location_type", fallback_column="hospital_type", one_of=["x"])
    with pytest.raises(
        InputError, match=r"no column 'location_type' or 'hospital_type', which keep_if of source 'adt'"
    ):
        tokenize_tiny(tmp_path / "a", {"sources": [replace(ADT, keep_if=[condition])]}, adt=[{}])


def test_a_source_without_its_column_is_skipped_and_noted_where_that_is_said(tmp_path: Path):
    labs = replace(LABS, if_column_missing="skip", unit_column="lab_unit")
    result = tokenize_tiny(tmp_path / "a", {"sources": [ADT, labs]}, labs=[{}], adt=[{}])
    assert result.events() == ["ADT_ward"]
    assert ("labs", "labs: table", 0, 0, "the table has no column lab_unit") in result.ledger


def test_a_table_the_site_lacks_is_noted(tmp_path: Path):
    result = tokenize_tiny(tmp_path / "a", {"sources": [ADT, CODE_STATUS]}, adt=[{}])
    assert result.events() == ["ADT_ward"]
    assert ("code_status", "code_status: table", 0, 0, "the folder has no such table") in result.ledger


# --- tables that know patients only


def test_a_row_of_a_patient_belongs_to_the_stay_it_falls_in(tmp_path: Path):
    """Stays of P1: days 0 to 3 (H1) and 2 to 5 (H2, which overlaps); of P2, days 0 to 3. Both ends are in."""
    stays = [
        {"hospitalization_id": "H1", "admission_dttm": at(0), "discharge_dttm": at(72)},
        {"hospitalization_id": "H2", "admission_dttm": at(48), "discharge_dttm": at(120)},
        {"hospitalization_id": "H3", "patient_id": "P2", "admission_dttm": at(0), "discharge_dttm": at(72)},
    ]
    times = {-1: None, 0: "H1", 47: "H1", 48: "H2", 72: "H2", 120: "H2", 121: None}
    rows = [{"start_dttm": at(hour), "code_status_category": f"c{hour + 1}"} for hour in times]
    rows.append({"patient_id": "stranger"})
    result = tokenize_tiny(tmp_path / "a", {"sources": [CODE_STATUS]}, hospitalization=stays, code_status=rows)
    expected = {stay: [f"CODE_c{hour + 1}" for hour in times if times[hour] == stay] for stay in ("H1", "H2", "H3")}
    assert {stay: result.events(stay) for stay in expected} == expected
    assert result.dropped("code_status", "adult stay") == (8, 7)
    assert result.dropped("code_status", "code_status: stay") == (7, 5)


def test_a_stay_without_a_discharge_has_no_end(tmp_path: Path):
    stays = [{"discharge_dttm": None}, {"hospitalization_id": "H2", "patient_id": "P2"}]
    result = tokenize_tiny(tmp_path / "a", {"sources": [CODE_STATUS]}, hospitalization=stays, code_status=[{}])
    assert result.dropped("code_status", "code_status: stay") == (1, 1)
    assert result.dropped("code_status", "code_status: kept stay") == (1, 0)


# --- what has no time


def test_what_has_no_time_stands_at_the_very_end(tmp_path: Path):
    rows = [{"diagnosis_code": "b"}, {"diagnosis_code": "a"}]
    settings = {"sources": [ADT, DIAGNOSES]}
    result = tokenize_tiny(
        tmp_path / "a", settings, adt=[{"in_dttm": at(72)}, {"in_dttm": at(80)}], hospital_diagnosis=rows
    )
    assert result.events() == ["ADT_ward", "ADT_ward", "DIAGNOSIS_a", "DIAGNOSIS_b"]
    assert result.times()[-4:] == [at(80)] * 4  # stamped as the discharge tokens are
    alone = tokenize_tiny(tmp_path / "b", settings, hospital_diagnosis=rows)
    assert alone.times() == [at(0)] * 2 + [at(72)] * 4


def test_sources_without_a_time_come_last_in_the_settings(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"sources is .* but must name those without time_column last.*; move them down"
    ):
        make_config(tmp_path, sources=[DIAGNOSES, ADT])


def test_rows_without_a_time_teach_only_where_that_is_said(tmp_path: Path):
    rows = [
        {"lab_value_numeric": 1.0},
        {"lab_value_numeric": 3.0, "lab_result_dttm": None},
        {"lab_category": "bun", "lab_result_dttm": None},
    ]
    for is_learned, count in ((False, 1), (True, 2)):
        settings = {"sources": [LABS], "learn_from_untimed": is_learned}
        result = tokenize_tiny(tmp_path / str(is_learned), settings, labs=rows)
        assert len(result.events()) == 2
        assert result.quantiles["LAB_sodium", "mmol/l"][0] == count
        assert ("LAB_bun" in [token for token, _, _ in result.vocabulary]) == is_learned
        assert result.dropped("labs", "labs: time") == (3, 1)
        assert result.dropped("labs", "labs: kept stay") == (1, 1)


def test_rows_without_a_time_that_teach_leave_the_ledger_right(tmp_path: Path):
    """What is dropped for want of a time is not dropped again for its range or its patient's stay."""
    sources = [replace(LABS, ranges=[ValueRange(category="sodium", low=50)]), CODE_STATUS]
    settings = {"sources": sources, "learn_from_untimed": True}
    labs = [{"lab_value_numeric": 1.0, "lab_result_dttm": None}]
    result = tokenize_tiny(tmp_path / "a", settings, labs=labs, code_status=[{"start_dttm": None}])
    assert result.dropped("labs", "labs: range") == (0, 0)
    assert result.dropped("code_status", "code_status: stay") == (0, 0)
    assert not result.quantiles


def test_a_folder_without_any_event_is_tokenized(tmp_path: Path):
    """Three stays and empty tables, as the recommended settings see them."""
    clif = write_tiny_clif(tmp_path / "a", hospitalization=make_stays(3))
    settings = yaml.safe_load(RECOMMENDED.read_text())
    result = tokenize_in_memory(build_config(settings, clif_dir=str(clif)))
    assert [len(result.tokens(f"H0{i}")) for i in range(3)] == [8, 8, 8]


# --- which stays, and where the edges stand


def test_stays_without_events_or_patient_can_be_left_out(tmp_path: Path):
    clif = {"hospitalization": make_stays(3), "adt": [{"hospitalization_id": "H00"}, {"hospitalization_id": "H01"}]}
    patients = [{"patient_id": "P00"}, {"patient_id": "P02"}]
    for i, (settings, kept) in enumerate(
        [
            ({}, ["H00", "H01", "H02"]),
            ({"keep_without_events": False}, ["H00", "H01"]),
            ({"keep_without_patient": False}, ["H00", "H02"]),
            ({"keep_without_events": False, "keep_without_patient": False}, ["H00"]),
        ]
    ):
        result = tokenize_tiny(tmp_path / str(i), settings, patient=patients, **clif)
        assert list(result.timelines) == kept
        assert len(result.splits) == 3


def test_only_named_sources_move_the_edges(tmp_path: Path):
    clif = {"adt": [{"in_dttm": at(-9)}, {"in_dttm": at(99)}], "labs": [{"lab_result_dttm": at(-1)}]}
    result = tokenize_tiny(tmp_path / "a", {"edge_time_sources": ["labs"]}, **clif)
    assert result.times() == [at(-1), at(-1), at(-9), at(-1), at(-1), at(99), at(72), at(72)]
    with pytest.raises(InputError, match=r"unknown source in edge_time_sources 'lab'; known: adt, labs"):
        make_config(tmp_path, edge_time_sources=["lab"])


def test_length_of_the_timeline_can_decide_instead_of_that_of_the_stay(tmp_path: Path):
    stays = [{"discharge_dttm": at(20)}, {"hospitalization_id": "H2", "patient_id": "P2", "discharge_dttm": at(20)}]
    adt = [{"in_dttm": at(-4)}]
    with pytest.raises(InputError, match=r"no stay of .* is left"):
        tokenize_tiny(tmp_path / "a", {}, hospitalization=stays, adt=adt)
    result = tokenize_tiny(tmp_path / "b", {"length_filter": "timeline"}, hospitalization=stays, adt=adt)
    assert list(result.timelines) == ["H1"]


def test_first_row_of_a_patient_can_count(tmp_path: Path):
    patients = [{"sex_category": "Male"}, {"sex_category": "Female"}, {"sex_category": "Male"}]
    with pytest.raises(InputError, match="1 values of patient_id have several rows that differ"):
        tokenize_tiny(tmp_path / "a", patient=patients)
    result = tokenize_tiny(tmp_path / "b", {"duplicate_patients": "first"}, patient=patients)
    assert result.tokens()[1] == "SEX_male"
    assert result.dropped("patient", "duplicates") == (3, 2)
    assert result.dropped("patient", "first row") == (2, 1)


def test_infinite_values_take_part_in_the_edges_where_that_is_said(tmp_path: Path):
    values = [1.0, 2.0, 3.0, float("inf")]
    rows = [{"lab_value_numeric": value, "lab_result_dttm": at(i)} for i, value in enumerate(values)]
    settings = {"num_bins": 2, "sources": [LABS]}
    assert tokenize_tiny(tmp_path / "a", settings, labs=rows).quantiles["LAB_sodium", "mmol/l"] == (3, [2.0])
    result = tokenize_tiny(tmp_path / "b", {**settings, "quantiles_include_infinite": True}, labs=rows)
    assert result.quantiles["LAB_sodium", "mmol/l"] == (4, [2.5])
    assert result.events()[1::2] == ["Q0", "Q0", "Q1", "MISSING_VALUE"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Condition(column="x"),
            "keep_if of column x is 'empty' but must state something; give one_of or is_null",
        ),
        (lambda: replace(CODE_STATUS, time_column=None), "id_column of code_status is 'patient_id' but must go with a"),
        (lambda: make_config(Path("x"), memory_gb=0.5), r"memory_gb is 0\.5 but must be in 1 to 100,000; use 4"),
        (
            lambda: make_config(Path("x"), admission_window=["2150-01-02", "2150-01-01"]),
            "must be two dates or times in",
        ),
        (
            lambda: make_config(Path("x"), unknown_token=""),
            r"unknown_token, missing_value_token is .* must not be empty",
        ),
    ],
)
def test_contradicting_settings_are_refused(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_times_before_1970_and_far_ahead(tmp_path: Path):
    types = {"adt": {"in_dttm": pl.Datetime("us")}}
    rows = [{"in_dttm": datetime(1901, 1, 1, microsecond=1)}, {"in_dttm": datetime(2261, 12, 31)}]
    result = tokenize_tiny(tmp_path / "a", adt=rows, types=types)
    assert result.times() == [rows[0]["in_dttm"]] * 3 + [rows[1]["in_dttm"]] * 3


def test_sources_without_a_time_forbid_edges_that_do_not_follow_every_source(tmp_path: Path):
    """Their events stand at the time of the discharge tokens, and an ADT row after it would come later still."""
    untimed = EventSource(
        name="d", table="hospital_diagnosis", time_column=None, category_column="diagnosis_code", token="DX_{category}"
    )
    with pytest.raises(ValueError, match=r"edge_time_sources is \['labs'\] but must be null with such sources"):
        make_config(tmp_path, sources=[ADT, LABS, untimed], edge_time_sources=["labs"])


def test_patient_with_overlapping_stays(tmp_path: Path):
    """Of the stays that a time lies in, the one that admitted last: at 50 h only the first, longer stay is left."""
    stays = [
        {"hospitalization_id": "H1", "admission_dttm": at(0), "discharge_dttm": at(72)},
        {"hospitalization_id": "H2", "admission_dttm": at(10), "discharge_dttm": at(40)},
        {"hospitalization_id": "H3", "admission_dttm": at(72), "discharge_dttm": at(140)},
    ]
    clif = write_tiny_clif(tmp_path / "clif", hospitalization=stays)
    rows = [("P1", hour, f"c{hour}") for hour in (5, 20, 50, 72, 141)]
    frame = pl.DataFrame(rows, schema=["patient_id", "hour", "code_status_category"], orient="row")
    times = frame.with_columns(start_dttm=pl.lit(at(0)) + pl.duration(hours="hour")).drop("hour")
    times.write_parquet(clif / "clif_code_status.parquet")
    settings = {"sources": [CODE_STATUS], "min_length_of_stay_hours": 0}
    result = tokenize_in_memory(make_config(clif, **settings))
    found = {subject: result.events(subject) for subject in ("H1", "H2", "H3")}
    assert found == {"H1": ["CODE_c5", "CODE_c50"], "H2": ["CODE_c20"], "H3": ["CODE_c72"]}
    assert result.dropped("code_status", "code_status: stay") == (5, 4)


def test_condition_on_ids_is_refused(tmp_path: Path):
    source = replace(ADT, keep_if=[Condition(column="hospitalization_id", is_null=False)])
    with pytest.raises(InputError, match="keep_if of source adt: column 'hospitalization_id' holds ids; leave it out"):
        tokenize_tiny(tmp_path / "a", {"sources": [source]}, adt=[{}])


@pytest.mark.parametrize(("word", "is_warned"), [("wardd", True), ("icu", False)])
def test_word_that_looks_misspelt_is_warned_of(tmp_path: Path, caplog, word: str, is_warned: bool):
    source = replace(ADT, keep_if=[Condition(column="location_category", none_of=[word])])
    tokenize_tiny(tmp_path / "a", {"sources": [source]}, adt=[{}])
    assert (f"['{word}'] never occurs in location_category; found: ward" in caplog.text) == is_warned


def test_source_of_numbers_without_any_is_warned_of(tmp_path: Path, caplog):
    tokenize_tiny(tmp_path / "a", labs=[{"lab_value_numeric": None}])
    assert "source labs: none of its 1 rows has a number in lab_value_numeric" in caplog.text
