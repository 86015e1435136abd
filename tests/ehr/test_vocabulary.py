"""The tokenizer: words of train in a fixed order, frozen elsewhere, the unknown counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clinrep.config import InputError
from clinrep.ehr.configs.sources import EdgeToken
from tests.ehr.tiny_clif import (
    ADT,
    LABS,
    PRONE,
    at,
    make_config,
    make_stays,
    places,
    tokenize_tiny,
    unknown,
)

HALF = {"train_fraction": 0.5, "val_fraction": 0.0}


def test_order_by_hand(tmp_path: Path):
    stays = [{**stay, "discharge_category": place} for stay, place in zip(make_stays(2), ["Home", "AMA"], strict=True)]
    patients = [{"patient_id": "P00", "sex_category": "Male"}, {"patient_id": "P01", "sex_category": "Female"}]
    labs = [{"hospitalization_id": "H01", "lab_category": category} for category in ("sodium", "bun")]
    settings = {"num_bins": 2, "sources": [LABS, ADT]}
    result = tokenize_tiny(
        tmp_path / "a", settings, hospitalization=stays, patient=patients, labs=labs, adt=places(H00="ward", H01="icu")
    )
    assert result.vocabulary == [
        ("PAD", "special", 0),
        ("UNK", "special", 0),
        ("TL_START", "special", 2),
        ("TL_END", "special", 2),
        ("Q0", "bin", 0),
        ("Q1", "bin", 2),
        ("MISSING_VALUE", "bin", 0),
        ("SEX_female", "static", 1),
        ("SEX_male", "static", 1),
        ("LAB_bun", "labs", 1),
        ("LAB_sodium", "labs", 1),
        ("ADT_icu", "adt", 1),
        ("ADT_ward", "adt", 1),
        ("DISCHARGE_ama", "discharge", 1),
        ("DISCHARGE_home", "discharge", 1),
    ]


def test_word_of_two_sources_has_one_id_and_the_first_kind(tmp_path: Path):
    sources = [replace(ADT, token="{category}"), replace(PRONE, token="icu")]
    result = tokenize_tiny(tmp_path / "a", {"sources": sources}, adt=places(H1="icu"), position=[{}])
    assert [row for row in result.vocabulary if row[0] == "icu"] == [("icu", "adt", 2)]


def test_words_of_val_and_test_are_unknown_and_counted(tmp_path: Path):
    adt = places(H00="ward", H01="icu") + places(H01="icu") + places(H01="ward")
    result = tokenize_tiny(tmp_path / "a", HALF, hospitalization=make_stays(2), adt=adt)
    assert sorted(result.events("H01")) == ["ADT_ward", "UNK", "UNK"]
    assert result.events("H00") == ["ADT_ward"]
    assert unknown(result) == {"token ADT_icu is not in train: kept as UNK": (2, 2)}


def test_unknown_static_and_discharge_words_are_counted(tmp_path: Path):
    stays = make_stays(3)
    stays[1]["discharge_category"] = stays[2]["discharge_category"] = "Hospice"
    patients = [{"patient_id": f"P0{i}", "sex_category": sex} for i, sex in enumerate(["Male", "Female", "Male"])]
    result = tokenize_tiny(tmp_path / "a", {"train_fraction": 0.34}, hospitalization=stays, patient=patients)
    assert result.tokens("H01") == ["TL_START", "UNK", "UNK", "TL_END"]
    assert result.tokens("H02") == ["TL_START", "SEX_male", "UNK", "TL_END"]
    assert unknown(result) == {
        "token SEX_female is not in train: kept as UNK": (1, 1),
        "token DISCHARGE_hospice is not in train: kept as UNK": (2, 2),
    }


def test_category_train_never_measured_is_unknown(tmp_path: Path):
    labs = [
        {"hospitalization_id": "H00", "lab_value_numeric": None},
        {"hospitalization_id": "H01", "lab_value_numeric": 1.0},
        {"hospitalization_id": "H01", "lab_value_numeric": 1.0, "lab_category": "new", "lab_result_dttm": at(30)},
        {"hospitalization_id": "H01", "lab_value_numeric": None, "lab_category": "new", "lab_result_dttm": at(31)},
    ]
    result = tokenize_tiny(tmp_path / "a", HALF, hospitalization=make_stays(2), labs=labs)
    assert result.events("H00") == ["LAB_sodium", "MISSING_VALUE"]
    assert result.events("H01") == ["LAB_sodium", "UNK", "UNK", "UNK", "UNK", "MISSING_VALUE"]
    assert unknown(result) == {
        "token LAB_new is not in train: kept as UNK": (2, 2),
        "value UNK of LAB_new is not in train: kept as UNK": (1, 1),
        "value UNK of LAB_sodium is not in train: kept as UNK": (1, 1),
    }


def test_numeric_edge_tokens_have_bins(tmp_path: Path):
    stays = [{**stay, "age_at_admission": age} for stay, age in zip(make_stays(5), [20, 40, 60, 80, 100], strict=True)]
    age = EdgeToken(token="AGE_{bin}", table="hospitalization", column="age_at_admission")
    settings = {"static_tokens": [age], "train_fraction": 0.6, "num_bins": 4}
    result = tokenize_tiny(tmp_path / "a", settings, hospitalization=stays)
    assert result.quantiles["age_at_admission", None] == (3, [30.0, 40.0, 50.0])
    assert [result.tokens(f"H0{i}")[0] for i in range(5)] == ["AGE_Q0", "AGE_Q2", "AGE_Q3", "AGE_Q3", "AGE_Q3"]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_numeric_edge_token_without_a_number_is_missing(tmp_path: Path, value: float | None):
    stays = [{**stay, "score": score} for stay, score in zip(make_stays(2), [value, 3.0], strict=True)]
    edge = EdgeToken(token="SCORE_{bin}", table="hospitalization", column="score")
    result = tokenize_tiny(tmp_path / "a", {"static_tokens": [edge]}, hospitalization=stays)
    assert [result.tokens(f"H0{i}")[0] for i in range(2)] == ["SCORE_MISSING_VALUE", "SCORE_Q9"]


@pytest.mark.parametrize(
    "settings",
    [
        {"token": "AGE_{bin}"},
        {"token": "AGE", "table": "hospitalization", "column": "age_at_admission"},
        {"token": "AGE_{bin}", "column": "age_at_admission"},
        {"token": "AGE_{value}", "table": "hospitalization", "column": "age_at_admission"},
        {"token": "AGE_{bin}_{category}", "table": "hospitalization", "column": "age_at_admission"},
    ],
)
def test_contradicting_edge_token_is_refused(settings: dict[str, str]):
    with pytest.raises(ValueError, match="token is 'AGE"):
        EdgeToken(**settings)


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        (EdgeToken(token="{category}", table="hospitalization", column="age_at_admission"), "age_at_admission"),
        (EdgeToken(token="{category}", table="hospitalization", column="admission_dttm"), "admission_dttm"),
        (EdgeToken(token="{bin}", table="patient", column="race_category"), "race_category"),
        (EdgeToken(token="{bin}", table="patient", column="nothing"), "has no column 'nothing'"),
    ],
)
def test_edge_token_of_a_column_of_the_wrong_kind_is_an_input_error(tmp_path: Path, edge: EdgeToken, message: str):
    with pytest.raises(InputError, match=message):
        tokenize_tiny(tmp_path / "a", {"static_tokens": [edge]})


@pytest.mark.parametrize("where", ["event", "static"])
def test_word_spelled_like_padding_is_refused(tmp_path: Path, where: str):
    sex = EdgeToken(token="{category}", table="patient", column="sex_category")
    edges = {"static_tokens": [sex]} if where == "static" else {}
    settings = {"normalize": "none", "sources": [replace(ADT, token="{category}")], **edges}
    with pytest.raises(InputError, match="'PAD', the token that fills batches"):
        tokenize_tiny(
            tmp_path / "a",
            settings,
            adt=places(H1="PAD" if where == "event" else "x"),
            patient=[{"sex_category": "PAD"}],
        )


@pytest.mark.parametrize(
    "settings", [{"unknown_token": "PAD"}, {"missing_value_token": ""}, {"static_tokens": [EdgeToken(token="PAD")]}]
)
def test_special_tokens_are_checked(tmp_path: Path, settings: dict[str, Any]):
    with pytest.raises(ValueError, match="but must not"):
        make_config(tmp_path, **settings)


def test_train_count_is_the_number_of_occurrences_in_kept_train_timelines(tmp_path: Path):
    stays = make_stays(4)
    stays[1]["discharge_dttm"] = stays[1]["admission_dttm"]
    adt = places(H00="ward", H01="icu", H02="ward", H03="ward") + places(H00="ward")
    result = tokenize_tiny(tmp_path / "a", {"train_fraction": 0.75}, hospitalization=stays, adt=adt)
    expected = [token for subject in ("H00", "H02") for token in result.tokens(subject)]
    assert {token: n for token, _, n in result.vocabulary} == {t: expected.count(t) for t, _, _ in result.vocabulary}
    assert ("ADT_icu", "adt", 0) in result.vocabulary
    assert ("ADT_ward", "adt", 3) in result.vocabulary


def test_bare_word_of_two_static_columns_is_one_category(tmp_path: Path):
    edges = [EdgeToken(token="{category}", table="patient", column=f"{name}_category") for name in ("race", "sex")]
    patients = [{"race_category": "Unknown", "sex_category": "Unknown"}]
    result = tokenize_tiny(tmp_path / "a", {"static_tokens": edges}, patient=patients)
    assert [row[:5] for row in result.categories if row[0] == "static"] == [("static", "unknown", None, None, 2)]
