from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from clinrep.config import InputError, config_to_dict, parse_config
from clinrep.ehr.configs.tokenize import TokenizeConfig
from clinrep.ehr.outcome_tokens import find_event_tokens

CONFIGS = Path(__file__).parents[2] / "configs" / "ehr"

VOCABULARY = [
    ("PAD", "special"), ("UNK", "special"), ("TL_END", "special"), ("Q0", "bin"),
    ("ADT_icu", "adt"), ("ADT_ward", "adt"), ("ADT_icu_step_down", "adt"),
    ("RESP_DEVICE_imv", "respiratory_device"), ("RESP_DEVICE_nippv", "respiratory_device"),
    ("CRRT_MODE_cvvh", "crrt_mode"), ("CRRT_SET_blood_flow", "crrt_blood_flow"), ("LAB_sodium", "labs"),
    ("DISCHARGE_expired", "discharge"), ("DISCHARGE_hospice", "discharge"), ("DISCHARGE_ama", "discharge"),
    ("DISCHARGE_home", "discharge"),
]  # fmt: skip


@cache
def read_settings(config: str, **flags: str) -> dict[str, Any]:
    """Return the settings of a YAML file of the repository; the parser takes a second over all sources."""
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    argv = ["--config", str(CONFIGS / config), "--clif_dir", "x", "--output_dir", "x", *words]
    return config_to_dict(parse_config(TokenizeConfig, argv, "00", ""))


def find(outcome: str, vocabulary: list[tuple[str, str]], config: str = "00_tokenize.yaml", **flags: str) -> list[str]:
    """Return the tokens of an outcome under the settings of a YAML file of the repository."""
    frame = pl.DataFrame(vocabulary, schema=["token", "kind"], orient="row")
    is_event = find_event_tokens(outcome, frame, read_settings(config, **flags), Path("runs/x"))
    return frame.filter(pl.Series(is_event))["token"].to_list()


@pytest.mark.parametrize(
    ("outcome", "tokens"),
    [
        ("in_hospital_death", ["DISCHARGE_expired"]),
        ("hospice_discharge", ["DISCHARGE_hospice"]),
        ("discharge_against_advice", ["DISCHARGE_ama"]),
        ("icu_admission", ["ADT_icu"]),
        ("imv_event", ["RESP_DEVICE_imv"]),
        ("renal_replacement", ["CRRT_MODE_cvvh", "CRRT_SET_blood_flow"]),
        ("long_length_of_stay", []),
    ],
)
@pytest.mark.parametrize("style", ["separate", "fused"])
def test_recommended_settings(outcome, tokens, style):
    assert find(outcome, VOCABULARY, token_style=style) == tokens


def test_the_words_of_the_manuscript():
    """There the device is the value of the respiratory mode, words are bare, a shared one is its first source's."""
    words = [("icu", "adt"), ("imv", "respiratory_support"), ("nippv", "respiratory_support"), ("expired", "discharge")]
    name = "manuscript/00_tokenize.yaml"
    assert find("imv_event", words, name) == ["imv"]
    assert find("icu_admission", words, name) == ["icu"]
    assert find("in_hospital_death", words, name) == ["expired"]
    with pytest.raises(InputError, match="looked for imv"):
        find("imv_event", [("imv", "static")], name)


def test_fused_values_are_all_the_tokens_of_their_category():
    """A category with values is a family of tokens; a longer category with the same beginning is another."""
    names = ["imv=acvc", "imv=missing", "imv_Q0", "imv_Q9", "imv_MISSING_VALUE"]
    names += ["imv_niv_Q3", "imv_Q10", "imv", "nippv=acvc"]
    words = [(f"RESP_DEVICE_{name}", "respiratory_device") for name in names]
    source = (
        "[{name: respiratory_device, table: respiratory_support, time_column: t, category_column: device_category,"
        " value_column: fio2_set, token: 'RESP_DEVICE_{category}'}]"
    )
    found = find("imv_event", words, token_style="fused", sources=source)
    expected = ["imv=acvc", "imv=missing", "imv_Q0", "imv_Q9", "imv_MISSING_VALUE"]
    assert found == [f"RESP_DEVICE_{name}" for name in expected]


@pytest.mark.parametrize(
    ("style", "template", "tokens"),
    [
        ("separate", "{value}", ["imv"]),
        ("separate", "{category}:{value}", ["acvc:imv", "simv:imv"]),
        ("fused", "{value}", ["MODE_acvc=imv", "MODE_simv=imv"]),
    ],
)
def test_a_categorical_value_is_found_whatever_its_category(style, template, tokens):
    names = ["imv", "acvc:imv", "simv:imv", "acvc:nippv", "MODE_acvc=imv", "MODE_simv=imv", "MODE_acvc=nippv"]
    source = (
        "[{name: mode, table: respiratory_support, time_column: t, category_column: mode_category,"
        f" categorical_value_column: device_category, token: 'MODE_{{category}}', value_token: '{template}'}}]"
    )
    assert find("imv_event", [(name, "mode") for name in names], token_style=style, sources=source) == tokens


def test_an_outcome_without_its_token_is_refused_and_named():
    without = [row for row in VOCABULARY if row[0] != "DISCHARGE_expired"]
    with pytest.raises(InputError, match=r"vocabulary of runs/x has no token .* looked for DISCHARGE_expired;"):
        find("in_hospital_death", without)
    with pytest.raises(InputError, match="looked for a source or discharge token of its table and column"):
        find("renal_replacement", [row for row in VOCABULARY if not row[0].startswith("CRRT")])


def test_an_outcome_that_no_token_tells_is_refused_with_those_that_do():
    with pytest.raises(InputError, match=r"'death_within_30_days', which no token .* those that do: .*icu_admission"):
        find("death_within_30_days", VOCABULARY)
