"""The tokenizer: words of train in a fixed order, frozen elsewhere, the unknown counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from clinrep import artifacts
from clinrep.config import InputError, config_to_yaml
from clinrep.ehr.categories import SCHEMA
from clinrep.ehr.configs.sources import EdgeToken, UnitRule
from clinrep.ehr.configs.tokenize import TokenizeConfig
from clinrep.ehr.tokenizer import TOKEN_SETTINGS, load_tokenizer
from tests.ehr.tiny_clif import (
    ADT,
    LABS,
    PRONE,
    Result,
    at,
    make_config,
    make_stays,
    tokenize_in_memory,
    tokenize_tiny,
    write_tiny_clif,
)

HALF = {"train_fraction": 0.5, "val_fraction": 0.0}


def places(**categories: str) -> list[dict[str, Any]]:
    return [{"hospitalization_id": subject, "location_category": word} for subject, word in categories.items()]


def unknown(result: Result) -> dict[str, tuple[int, int]]:
    """Return the reasons of the ledger's notes of unknown words, with their counts."""
    return {row[4]: (row[2], row[3]) for row in result.ledger if "is not in train" in row[4]}


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


# --- frozen


def finish(directory: Path, config: TokenizeConfig, result: Result) -> Path:
    """Write the tokenizer of `result` as a finished stage-00 directory."""
    tokens = pl.DataFrame(result.vocabulary, schema=["token", "kind", "train_count"], orient="row")
    tokens = tokens.with_row_index("token_id").with_columns(pl.col("train_count").cast(pl.UInt64))
    rows = [(*key, n, edges) for key, (n, edges) in result.quantiles.items()]
    types = {"category": pl.String, "unit": pl.String, "train_count": pl.UInt64, "edges": pl.List(pl.Float64)}
    artifacts.write_table("vocabulary", tokens, directory)
    artifacts.write_table("quantiles", pl.DataFrame(rows, schema=types, orient="row"), directory)
    artifacts.write_table("categories", pl.DataFrame(result.categories, schema=SCHEMA, orient="row"), directory)
    splits = [(patient, subject, split) for subject, (patient, split) in result.splits.items()]
    names = ["patient_id", "subject_id", "split"]
    artifacts.write_table("splits", pl.DataFrame(splits, schema=names, orient="row"), directory)
    (directory / "config.yaml").write_text(config_to_yaml(config))
    artifacts.write_done(directory, "00_tokenize", {}, {})
    return directory


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    clif = write_tiny_clif(
        tmp_path / "home",
        adt=places(H1="ward"),
        labs=[{"lab_value_numeric": v, "lab_result_dttm": at(i)} for i, v in enumerate([0.0, 10.0, 20.0])],
    )
    config = make_config(clif, num_bins=2)
    return finish(tmp_path / "tokenizer", config, tokenize_in_memory(config))


def test_frozen_tokenizer_learns_nothing(tmp_path: Path, frozen: Path):
    settings = {"num_bins": 2, "tokenizer_dir": str(frozen)}
    labs = [{"lab_value_numeric": v, "lab_result_dttm": at(i)} for i, v in enumerate([9.9, 10.0, 1e6])]
    labs.append({"lab_category": "lactate", "lab_result_dttm": at(5)})
    there = tokenize_tiny(
        tmp_path / "b", settings, labs=labs, adt=places(H1="icu"), patient=[{"sex_category": "Other"}]
    )
    home = tokenize_tiny(
        tmp_path / "c",
        {"num_bins": 2},
        adt=places(H1="ward"),
        labs=[{"lab_value_numeric": v, "lab_result_dttm": at(i)} for i, v in enumerate([0.0, 10.0, 20.0])],
    )
    assert there.vocabulary == home.vocabulary
    assert there.quantiles == home.quantiles
    assert there.categories == home.categories
    expected = ["UNK", "LAB_sodium", "Q0", "LAB_sodium", "Q1", "LAB_sodium", "Q1", "UNK", "UNK"]
    assert there.tokens() == ["TL_START", "UNK", *expected, "DISCHARGE_home", "TL_END"]
    assert unknown(there) == {
        "token ADT_icu is not in train: kept as UNK": (1, 1),
        "token LAB_lactate is not in train: kept as UNK": (1, 1),
        "value UNK of LAB_lactate is not in train: kept as UNK": (1, 1),
        "token SEX_other is not in train: kept as UNK": (1, 1),
    }


def test_frozen_tokenizer_serves_a_site_without_train_patients(tmp_path: Path, frozen: Path):
    settings = {"num_bins": 2, "tokenizer_dir": str(frozen), "train_fraction": 0.0}
    result = tokenize_tiny(tmp_path / "b", settings, labs=[{}])
    assert result.timeline_splits == {"train": [], "val": [], "test": ["H1"]}


@pytest.mark.parametrize(
    "settings",
    [
        {"num_bins": 3},
        {"normalize": "lower"},
        {"unknown_token": "None"},
        {"missing_value_token": "nan"},
        {"missing_category": "none"},
        {"sources": [LABS, ADT]},
        {"sources": [ADT, replace(LABS, unit_column=None)]},
        {"static_tokens": [EdgeToken(token="TL_START")]},
        {"discharge_tokens": []},
    ],
)
def test_frozen_tokenizer_refuses_other_token_settings(tmp_path: Path, frozen: Path, settings: dict[str, Any]):
    (name,) = settings
    assert name in TOKEN_SETTINGS
    with pytest.raises(InputError, match=rf"was made with other settings of {name}; pass --config .*config\.yaml"):
        tokenize_tiny(tmp_path / "b", {"num_bins": 2, "tokenizer_dir": str(frozen), **settings}, labs=[{}])


def test_frozen_tokenizer_takes_other_cohort_and_window_settings(tmp_path: Path, frozen: Path):
    settings = {"num_bins": 2, "tokenizer_dir": str(frozen), "min_age_years": 21, "min_length_of_stay_hours": 0}
    assert tokenize_tiny(tmp_path / "b", settings, adt=places(H1="ward")).events() == ["ADT_ward"]


@pytest.mark.parametrize(
    "missing",
    ["DONE", "vocabulary.parquet", "quantiles.parquet", "categories.parquet", "splits.parquet", "config.yaml"],
)
def test_unfinished_tokenizer_is_refused(tmp_path: Path, frozen: Path, missing: str):
    (frozen / missing).unlink()
    with pytest.raises(InputError, match=missing):
        tokenize_tiny(tmp_path / "b", {"num_bins": 2, "tokenizer_dir": str(frozen)}, labs=[{}])


def test_saved_settings_hold_every_token_setting(tmp_path: Path):
    saved = yaml.safe_load(config_to_yaml(make_config(tmp_path)))
    assert set(TOKEN_SETTINGS) <= set(saved)


@pytest.mark.parametrize("style", ["separate", "fused"])
def test_last_bin_of_a_frozen_tokenizer_is_for_categories_of_train(tmp_path: Path, style: str):
    """Train has bun only without a number; the site's own bun says nothing about `new`, which train never had."""
    settings = {"num_bins": 2, "token_style": style, "bin_without_edges": "last"}
    home = write_tiny_clif(tmp_path / "home", labs=[{"lab_category": "bun", "lab_value_numeric": None}, {}])
    config = make_config(home, **settings)
    frozen = finish(tmp_path / "tokenizer", config, tokenize_in_memory(config))
    labs = [{"lab_category": name, "lab_result_dttm": at(i)} for i, name in enumerate(["bun", "new"])]
    result = tokenize_tiny(tmp_path / "site", {**settings, "tokenizer_dir": str(frozen)}, labs=labs)
    expected = ["LAB_bun", "Q1", "UNK", "UNK"] if style == "separate" else ["LAB_bun_Q1", "UNK"]
    assert result.events() == expected


def test_frozen_tokenizer_serves_a_site_that_lacks_a_required_table(tmp_path: Path, frozen: Path):
    """What says only how a lack is treated may differ, too."""
    required = [ADT, replace(LABS, required=True, if_column_missing="skip")]
    settings = {"num_bins": 2, "tokenizer_dir": str(frozen), "sources": required}
    clif = write_tiny_clif(tmp_path / "b", adt=places(H1="ward"), leave_out=["labs"])
    result = tokenize_in_memory(make_config(clif, **settings))
    assert result.events() == ["ADT_ward"]
    assert ("labs", "labs: table", 0, 0, "the folder has no such table") in result.ledger


def test_changed_tokenizer_is_refused(tmp_path: Path, frozen: Path):
    path = frozen / "vocabulary.parquet"
    pl.read_parquet(path).head(5).write_parquet(path)
    with pytest.raises(InputError, match=r"vocabulary\.parquet is not what 00_tokenize\.py wrote there"):
        tokenize_tiny(tmp_path / "b", {"num_bins": 2, "tokenizer_dir": str(frozen)}, labs=[{}])


def test_unit_rules_of_the_other_site_are_warned_of(tmp_path: Path, caplog):
    settings = {"num_bins": 2, "unit_rules": [UnitRule(source="labs", unit="g", new_unit="mg", factor=1000.0)]}
    labs = [{"reference_unit": "g"}]
    config = make_config(write_tiny_clif(tmp_path / "home", labs=labs), **settings)
    directory = finish(tmp_path / "tokenizer", config, tokenize_in_memory(config))
    tokenize_tiny(tmp_path / "b", {**settings, "tokenizer_dir": str(directory)}, labs=labs)
    assert "unit_rules are those of" in caplog.text


def test_tokenizer_without_ids_can_go_to_another_hospital(tmp_path: Path):
    """Without splits.parquet a column of numbers of the static tokens tells how many stays it was learned on."""
    age = EdgeToken(token="AGE_{bin}", table="hospitalization", column="age_at_admission")
    config = make_config(write_tiny_clif(tmp_path / "home", hospitalization=make_stays(3)), static_tokens=[age])
    directory = finish(tmp_path / "tokenizer", config, tokenize_in_memory(config))
    assert load_tokenizer(str(directory), config).num_train_stays == 3
    (directory / "splits.parquet").unlink()
    assert load_tokenizer(str(directory), config).num_train_stays == 3


def test_bare_word_of_two_static_columns_is_one_category(tmp_path: Path):
    edges = [EdgeToken(token="{category}", table="patient", column=f"{name}_category") for name in ("race", "sex")]
    patients = [{"race_category": "Unknown", "sex_category": "Unknown"}]
    result = tokenize_tiny(tmp_path / "a", {"static_tokens": edges}, patient=patients)
    assert [row[:5] for row in result.categories if row[0] == "static"] == [("static", "unknown", None, None, 2)]


def test_unit_without_edges_has_no_last_bin_of_another_unit(tmp_path: Path):
    settings = {"num_bins": 2, "bin_without_edges": "last"}
    config = make_config(write_tiny_clif(tmp_path / "home", labs=[{"reference_unit": "g"}]), **settings)
    frozen = finish(tmp_path / "tokenizer", config, tokenize_in_memory(config))
    result = tokenize_tiny(
        tmp_path / "site", {**settings, "tokenizer_dir": str(frozen)}, labs=[{"reference_unit": "mg"}]
    )
    assert result.events() == ["LAB_sodium", "UNK"]
