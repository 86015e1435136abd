"""The tokenizer learned at one site and applied frozen at another: nothing is learned, the unknown is counted."""

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
    Result,
    at,
    make_config,
    make_stays,
    places,
    tokenize_in_memory,
    tokenize_tiny,
    unknown,
    write_tiny_clif,
)


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


def test_unit_without_edges_has_no_last_bin_of_another_unit(tmp_path: Path):
    settings = {"num_bins": 2, "bin_without_edges": "last"}
    config = make_config(write_tiny_clif(tmp_path / "home", labs=[{"reference_unit": "g"}]), **settings)
    frozen = finish(tmp_path / "tokenizer", config, tokenize_in_memory(config))
    result = tokenize_tiny(
        tmp_path / "site", {**settings, "tokenizer_dir": str(frozen)}, labs=[{"reference_unit": "mg"}]
    )
    assert result.events() == ["LAB_sodium", "UNK"]
