"""Event sources as data: what each setting keeps, drops and counts."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from clinrep.config import InputError
from clinrep.ehr.configs.sources import Condition, EventSource
from tests.ehr.tiny_clif import ADT, LABS, PRONE, at, make_config, tokenize_in_memory, tokenize_tiny, write_tiny_clif

ASSESSMENT = EventSource(
    name="assessments",
    table="patient_assessments",
    time_column="recorded_dttm",
    category_column="assessment_category",
    categorical_value_column="categorical_value",
    token="ASSESSMENT_{category}",
    value_token="ASSESSMENT_{category}={value}",
)


def keep(*conditions: dict[str, Any]) -> list[EventSource]:
    return [replace(ADT, keep_if=[Condition(**condition) for condition in conditions])]


def places(*categories: str | None, **settings: Any) -> list[dict[str, Any]]:
    return [{"location_category": category, "in_dttm": at(i), **settings} for i, category in enumerate(categories)]


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ({"one_of": ["icu"]}, ["ADT_icu", "ADT_icu"]),
        ({"one_of": ["ICU ", "L&D"]}, ["ADT_icu", "ADT_l_and_d", "ADT_icu"]),
        ({"none_of": ["icu"]}, ["ADT_ward", "ADT_l_and_d", "ADT_missing"]),
        ({"one_of": ["icu", "ward"], "none_of": ["ward"]}, ["ADT_icu", "ADT_icu"]),
        ({"is_null": True}, ["ADT_missing"]),
        ({"is_null": False}, ["ADT_ward", "ADT_icu", "ADT_l_and_d", "ADT_icu"]),
    ],
)
def test_keep_if_of_the_category(tmp_path: Path, condition: dict[str, Any], kept: list[str]):
    (source,) = keep({"column": "location_category", **condition})
    rows = places("ward", "ICU", "l&d", None, "icu")
    result = tokenize_tiny(tmp_path / "a", {"sources": [replace(source, null_category="keep")]}, adt=rows)
    assert result.events() == kept
    steps = [row for row in result.ledger if row[1] == "adt: keep_if location_category"]
    assert (steps[0][2], steps[-1][3]) == (5, len(kept))


def test_keep_if_of_another_column_and_of_a_number(tmp_path: Path):
    rows = [
        {"lab_value_numeric": v, "lab_name": n, "lab_result_dttm": at(i)}
        for i, (v, n) in enumerate([(1.0, "A "), (None, "a"), (2.0, None)])
    ]
    wanted = [Condition(column="lab_value_numeric", is_null=False), Condition(column="lab_name", one_of=["a"])]
    result = tokenize_tiny(tmp_path / "a", {"sources": [replace(LABS, keep_if=wanted)]}, labs=rows)
    assert result.events() == ["LAB_sodium", "Q9"]
    assert result.dropped("labs", "labs: keep_if lab_value_numeric") == (3, 2)
    assert result.dropped("labs", "labs: keep_if lab_name") == (2, 1)


def test_nan_is_a_value_not_a_null(tmp_path: Path):
    wanted = [Condition(column="lab_value_numeric", is_null=False)]
    rows = [{"lab_value_numeric": float("nan")}, {"lab_value_numeric": None}]
    result = tokenize_tiny(tmp_path / "a", {"sources": [replace(LABS, keep_if=wanted)]}, labs=rows)
    assert result.events() == ["LAB_sodium", "MISSING_VALUE"]


def test_null_check_needs_no_type(tmp_path: Path):
    source = keep({"column": "out_dttm", "is_null": False})
    rows = places("ward", "icu", out_dttm=None)
    rows[1]["out_dttm"] = at(5)
    assert tokenize_tiny(tmp_path / "a", {"sources": source}, adt=rows).events() == ["ADT_icu"]


def test_comparing_numbers_as_categories_is_refused(tmp_path: Path):
    source = replace(LABS, keep_if=[Condition(column="lab_value_numeric", one_of=["1"])])
    with pytest.raises(InputError, match="column 'lab_value_numeric' holds numbers"):
        tokenize_tiny(tmp_path / "a", {"sources": [source]}, labs=[{}])


def test_word_that_never_occurs_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    source = keep({"column": "location_category", "one_of": ["icuu"]})
    with caplog.at_level(logging.WARNING, logger="clinrep"):
        tokenize_tiny(tmp_path / "a", {"sources": source}, adt=places("icu"))
    assert any("['icuu'] never occurs in location_category; found: icu" in r.message for r in caplog.records)


def test_null_category_is_dropped_and_counted_or_kept(tmp_path: Path):
    rows = places("icu", None, " ", None)
    dropped = tokenize_tiny(tmp_path / "a", {"sources": [ADT]}, adt=rows)
    assert dropped.events() == ["ADT_icu"]
    assert dropped.dropped("adt", "adt: category") == (4, 1)
    kept = tokenize_tiny(tmp_path / "b", {"sources": [replace(ADT, null_category="keep")]}, adt=rows)
    assert kept.events() == ["ADT_icu", "ADT_missing", "ADT_missing", "ADT_missing"]
    named = {"sources": [replace(ADT, null_category="keep")], "missing_category": "None"}
    assert tokenize_tiny(tmp_path / "c", named, adt=rows).events()[1] == "ADT_None"


def test_events_without_a_time_are_dropped_and_counted(tmp_path: Path):
    rows = [*places("icu", "ward"), {"location_category": "ward", "in_dttm": None}]
    result = tokenize_tiny(tmp_path / "a", adt=rows, labs=[{"lab_result_dttm": None}] * 2)
    assert result.events() == ["ADT_icu", "ADT_ward"]
    assert result.dropped("adt", "adt: time") == (3, 2)
    assert result.dropped("labs", "labs: time") == (2, 0)
    assert not result.quantiles  # what never becomes a token teaches no edge


def test_events_of_unknown_minor_or_nameless_stays_are_counted_once_per_table(tmp_path: Path):
    stays = [{}, {"hospitalization_id": "H2", "patient_id": "P2", "age_at_admission": 17}]
    rows = [{"hospitalization_id": subject} for subject in ("H1", "H2", "H3", None)]
    sources = [ADT, replace(ADT, name="again", token="AGAIN_{category}")]
    result = tokenize_tiny(tmp_path / "a", {"sources": sources}, hospitalization=stays, adt=rows)
    assert result.events() == ["ADT_ward", "AGAIN_ward"]
    assert result.dropped("adt", "read") == (4, 4)
    assert result.dropped("adt", "adult stay") == (4, 1)
    assert result.dropped("adt", "again: time") == (1, 1)


def test_events_of_stays_without_a_timeline_are_counted_per_source(tmp_path: Path):
    stays = [{}, {"hospitalization_id": "H2", "patient_id": "P2", "discharge_dttm": at(1)}]
    rows = [{"hospitalization_id": subject} for subject in ("H1", "H2", "H2")]
    result = tokenize_tiny(tmp_path / "a", hospitalization=stays, adt=rows, labs=rows[:2])
    assert result.dropped("adt", "adt: kept stay") == (3, 1)
    assert result.dropped("labs", "labs: kept stay") == (2, 1)


def test_categorical_values_become_the_second_token(tmp_path: Path):
    rows = [
        {"assessment_category": "CAM_total", "categorical_value": value, "recorded_dttm": at(i)}
        for i, value in enumerate(["Positive", " positive", None, "No (Stop - Not delirious)"])
    ]
    result = tokenize_tiny(tmp_path / "a", {"sources": [ASSESSMENT]}, patient_assessments=rows)
    assert result.events() == [
        *["ASSESSMENT_cam_total", "ASSESSMENT_cam_total=positive"] * 2,
        *["ASSESSMENT_cam_total", "ASSESSMENT_cam_total=missing"],
        *["ASSESSMENT_cam_total", "ASSESSMENT_cam_total=no_stop_not_delirious"],
    ]


def test_value_template_wraps_bins_too(tmp_path: Path):
    source = replace(LABS, value_token="{category}:{value}")
    rows = [{"lab_value_numeric": 1.0}, {"lab_value_numeric": None, "lab_result_dttm": at(1)}]
    result = tokenize_tiny(tmp_path / "a", {"sources": [source]}, labs=rows)
    assert result.events() == ["LAB_sodium", "sodium:Q9", "LAB_sodium", "sodium:MISSING_VALUE"]


def test_braces_in_a_category_stay_text(tmp_path: Path):
    result = tokenize_tiny(tmp_path / "a", {"normalize": "none"}, adt=places("{value} {0}"))
    assert result.events() == ["ADT_{value} {0}"]


def test_source_without_category_is_one_token(tmp_path: Path):
    rows = [{"position_category": c, "recorded_dttm": at(i)} for i, c in enumerate(["Prone ", "supine", None])]
    assert tokenize_tiny(tmp_path / "a", {"sources": [PRONE]}, position=rows).events() == ["POSITION_prone"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token": "LAB"}, r"token of labs is 'LAB' but must hold \{category\} exactly when"),
        ({"category_column": None}, "exactly when category_column is given"),
        ({"token": "LAB_{categry}"}, r"token of source labs is 'LAB_\{categry\}' but must be text with no field"),
        ({"token": "LAB_{}{category}"}, "must be text with no field"),
        ({"token": "LAB_{category"}, "token of source labs|expected '}'"),
        ({"categorical_value_column": "x"}, "value_column of labs"),
        ({"value_column": None}, "unit_column of labs"),
        ({"value_token": "{unit}"}, "value_token of source labs"),
    ],
)
def test_contradicting_source_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        replace(LABS, **change)


def test_empty_condition_and_double_names_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="keep_if of column x is 'empty'"):
        Condition(column="x")
    with pytest.raises(ValueError, match=r"sources is .* but must have different names"):
        make_config(tmp_path, sources=[ADT, replace(LABS, name="adt")])
    with pytest.raises(ValueError, match="declare at least one event source"):
        make_config(tmp_path, sources=[])


@pytest.mark.parametrize("column", ["lab_result_dttm", "lab_category", "lab_value_numeric", "reference_unit"])
def test_missing_column_of_a_source_is_found_before_anything_is_read(tmp_path: Path, column: str):
    clif = write_tiny_clif(tmp_path / "a", labs=[{}])
    pl.read_parquet(clif / "clif_labs.parquet").drop(column).write_parquet(clif / "clif_labs.parquet")
    with pytest.raises(InputError, match=rf"clif_labs\.parquet has no column '{column}'"):
        tokenize_in_memory(make_config(clif))


def test_a_table_whose_ids_match_no_stay_is_refused_or_at_least_named(tmp_path: Path, caplog):
    """Zero-padded or prefixed ids would leave every timeline without these events."""
    rows = [{"hospitalization_id": "0H1"}, {"hospitalization_id": "0H1"}]
    required = {"sources": [ADT, replace(LABS, required=True)]}
    with pytest.raises(InputError, match=r"clif_labs\.parquet: none of its 2 rows has the id of an adult stay"):
        tokenize_tiny(tmp_path / "a", required, labs=rows)
    with caplog.at_level(logging.WARNING):
        tokenize_tiny(tmp_path / "b", {"sources": [ADT, LABS]}, labs=rows)
    assert "clif_labs.parquet: none of its 2 rows has the id of an adult stay: it gives no events" in caplog.text
    assert tokenize_tiny(tmp_path / "c", required, labs=[*rows, {}]).events() == ["LAB_sodium", "Q9"]
