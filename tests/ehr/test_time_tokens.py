"""Optional tokens of gaps and of parts of the day, and one token for an event with its value."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.ehr.tiny_clif import LABS, make_config, make_stays, tokenize_tiny
from tests.ehr.tiny_tables import at

ONE, TWO = 1 / 60, 2 / 60  # minutes, in hours


def run(directory: Path, hours: list[float], **settings: Any) -> list[tuple[str, datetime]]:
    """Return what stands between the edges, without its prefix, with its time; admission is at 0, discharge at 72."""
    result = tokenize_tiny(directory, settings, adt=[{"in_dttm": at(hour)} for hour in hours])
    tokens, times = result.timelines["H1"]
    return list(zip((token.removeprefix("ADT_") for token in tokens), times, strict=True))[2:-2]


def test_gaps_stand_before_what_follows_them_with_its_time(tmp_path: Path):
    """A gap has the name of the greatest length that it reaches; the first is measured from the static tokens."""
    hours = [TWO, TWO, 3 * ONE, 1.05, 2.05 - 1e-6, 25.05]
    found = run(tmp_path / "a", hours, gap_minutes=[1, 2, 60, 1440])
    assert found == [
        *[("GAP_2m", at(TWO)), ("ward", at(TWO)), ("ward", at(TWO))],
        *[("GAP_1m", at(3 * ONE)), ("ward", at(3 * ONE))],
        *[("GAP_60m", at(1.05)), ("ward", at(1.05))],
        *[("GAP_2m", at(2.05 - 1e-6)), ("ward", at(2.05 - 1e-6))],
        *[("GAP_60m", at(25.05)), ("ward", at(25.05))],
    ]


@pytest.mark.parametrize(("microseconds", "has_gap"), [(-1, False), (0, True), (1, True)])
def test_a_gap_of_exactly_its_length_has_its_token(tmp_path: Path, microseconds: int, has_gap: bool):
    result = tokenize_tiny(tmp_path / "a", {"gap_minutes": [60]}, adt=[{"in_dttm": at(1, microseconds)}])
    assert result.events() == ["GAP_60m"] * has_gap + ["ADT_ward"]


def test_gaps_before_admission_are_measured_from_the_first_event(tmp_path: Path):
    assert [word for word, _ in run(tmp_path / "a", [-5, -4], gap_minutes=[60])] == ["ward", "GAP_60m", "ward"]


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        (0.0, ["CLOCK_00", "ward", "ward", "CLOCK_06", "ward", "CLOCK_06", "ward", "CLOCK_18", "ward"]),
        (-5.0, ["CLOCK_18", "ward", "CLOCK_00", "ward", "ward", "CLOCK_00", "ward", "CLOCK_18", "ward"]),
        (5.5, ["CLOCK_00", "ward", "CLOCK_06", "ward", "ward", "CLOCK_06", "ward", "CLOCK_00", "ward"]),
    ],
)
def test_clock_tokens_stand_where_a_new_part_of_the_day_begins(tmp_path: Path, offset: float, words: list[str]):
    """Hours 0, 5.25 and 6 of one day, 6 and 23.5 of the next: the same part of another day is a new one."""
    found = run(tmp_path / "a", [0, 5.25, 6, 30, 47.5], clock_hours=6, clock_offset_hours=offset)
    assert [word for word, _ in found] == words


def test_the_first_event_of_every_stay_has_a_clock_token(tmp_path: Path):
    adt = [{"hospitalization_id": f"H0{i}", "in_dttm": at(24 * i + 7)} for i in range(3)]
    result = tokenize_tiny(tmp_path / "a", {"clock_hours": 12}, hospitalization=make_stays(3), adt=adt)
    assert [result.events(f"H0{i}") for i in range(3)] == [["CLOCK_00", "ADT_ward"]] * 3


def test_gap_then_clock_then_event_then_value(tmp_path: Path):
    settings = {"sources": [LABS], "gap_minutes": [60], "clock_hours": 24}
    result = tokenize_tiny(tmp_path / "a", settings, labs=[{"lab_result_dttm": at(2)}])
    assert result.events() == ["GAP_60m", "CLOCK_00", "LAB_sodium", "Q9"]
    assert result.times() == [at(0)] * 2 + [at(2)] * 4 + [at(72)] * 2


def test_time_tokens_are_in_the_vocabulary_in_their_order_used_or_not(tmp_path: Path):
    result = tokenize_tiny(tmp_path / "a", {"gap_minutes": [0.5, 60], "clock_hours": 8}, adt=[{"in_dttm": at(9)}])
    found = [(token, count) for token, kind, count in result.vocabulary if kind == "time"]
    expected = [("GAP_0.5m", 0), ("GAP_60m", 1), ("CLOCK_00", 0), ("CLOCK_08", 1), ("CLOCK_16", 0)]
    assert found == expected
    kinds = [kind for _, kind, _ in result.vocabulary]
    assert kinds.index("time") == kinds.index("static") - 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gap_minutes": [60, 5]}, r"gap_minutes is \[60, 5\] but must be lengths above 0 in rising order; write"),
        ({"gap_minutes": [5, 5]}, "gap_minutes is"),
        ({"gap_minutes": [0, 5]}, "gap_minutes is"),
        ({"gap_minutes": [5, float("inf")]}, "gap_minutes is"),
        ({"gap_minutes": [float("nan")]}, "gap_minutes is"),
        ({"clock_hours": 5}, "clock_hours is 5 but must be 0 or divide 24; use 6"),
        ({"clock_hours": -6}, "clock_hours is -6"),
        ({"clock_hours": 48}, "clock_hours is 48"),
        ({"clock_offset_hours": 25.0}, r"clock_offset_hours is 25\.0 but must be between -24 and 24; use -5 for UTC-5"),
        ({"clock_offset_hours": float("nan")}, "clock_offset_hours is nan"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make_config(Path("x"), **settings)


# --- one token for an event with its value

FUSED = {"token_style": "fused", "num_bins": 4}


def labs(values: dict[str, list[float | None]]) -> list[dict[str, Any]]:
    return [
        {"hospitalization_id": subject, "lab_value_numeric": value, "lab_result_dttm": at(24 + i)}
        for subject, numbers in values.items()
        for i, value in enumerate(numbers)
    ]


def words_of(result: Any, start: str = "LAB_") -> list[str]:
    return [token for token, _, _ in result.vocabulary if token.startswith(start)]


def test_fused_words_are_those_of_every_bin_a_value_can_be_in(tmp_path: Path):
    """Edges 1, 1 and 2: nothing is between the two 1s; a bin that only val and test fill is known all the same."""
    rows = labs({"H00": [1.0, 1.0, 1.0, 2.0, 4.0], "H01": [0.0, 1.5, 9.0, None]})
    result = tokenize_tiny(tmp_path / "a", {**FUSED, "train_fraction": 0.5}, hospitalization=make_stays(2), labs=rows)
    assert result.quantiles["LAB_sodium", "mmol/l"] == (5, [1.0, 1.0, 2.0])
    assert words_of(result) == ["LAB_sodium_Q0", "LAB_sodium_Q2", "LAB_sodium_Q3"]
    assert result.events("H01") == ["LAB_sodium_Q0", "LAB_sodium_Q2", "LAB_sodium_Q3", "UNK"]
    assert [row[2:] for row in result.ledger if row[1] == "labs: unknown"] == [
        (1, 1, "token LAB_sodium_MISSING_VALUE is not in train: kept as UNK")
    ]
    assert not [token for token, kind, _ in result.vocabulary if kind == "bin"]


def test_fused_missing_value_is_a_word_where_train_has_one(tmp_path: Path):
    result = tokenize_tiny(tmp_path / "a", FUSED, labs=labs({"H1": [None]}))
    assert words_of(result) == result.events() == ["LAB_sodium_MISSING_VALUE"]


def test_fused_categorical_values(tmp_path: Path):
    source = replace(
        LABS, value_column=None, unit_column=None, categorical_value_column="lab_name", value_token="{category}={value}"
    )
    rows = [{"lab_name": name, "lab_result_dttm": at(i)} for i, name in enumerate(["High", None])]
    result = tokenize_tiny(tmp_path / "a", {**FUSED, "sources": [source]}, labs=rows)
    assert result.events() == ["LAB_sodium=high", "LAB_sodium=missing"]


@pytest.mark.parametrize(
    ("style", "template", "word"),
    [
        ("separate", "{value}", ["LAB_sodium", "Q3"]),
        ("separate", "{category}:{value}", ["LAB_sodium", "sodium:Q3"]),
        ("fused", "{value}", ["LAB_sodium_Q3"]),
    ],
)
def test_a_number_where_train_has_none_is_in_the_last_bin_where_that_is_said(
    tmp_path: Path, style: str, template: str, word: list[str]
):
    rows = [*labs({"H00": [None], "H01": [7.0]}), {"hospitalization_id": "H01", "lab_category": "new"}]
    settings = {"token_style": style, "num_bins": 4, "train_fraction": 0.5, "bin_without_edges": "last"}
    settings["sources"] = [replace(LABS, value_token=template)]
    result = tokenize_tiny(tmp_path / "a", settings, hospitalization=make_stays(2), labs=rows)
    new = ["UNK"] if style == "fused" else ["UNK", "UNK"]
    assert result.events("H01") == [*new, *word]  # a category that train lacks stays unknown
    settings["bin_without_edges"] = "unknown"
    result = tokenize_tiny(tmp_path / "b", settings, hospitalization=make_stays(2), labs=rows)
    assert result.events("H01") == [*new, *(["UNK"] if style == "fused" else ["LAB_sodium", "UNK"])]
