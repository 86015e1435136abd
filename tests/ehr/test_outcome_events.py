"""Readmission to an ICU, renal replacement, hospice and leaving against advice: a few rows each, by hand."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from clinrep.config import InputError
from clinrep.ehr.outcome_events import NOT_RECORDED
from tests.ehr.tiny_clif import Result, at, make_window, tokenize_tiny

AGAIN, RENAL, HOSPICE, AMA = "icu_readmission", "renal_replacement", "hospice_discharge", "discharge_against_advice"
NEVER = "not in an ICU before index_time"
Place = tuple[float | None, str | None]  # hours after admission, location_category


def label(directory: Path, settings: dict[str, Any] | None = None, **clif: Any) -> Result:
    return tokenize_tiny(directory, {"outcomes": [AGAIN, RENAL, HOSPICE, AMA], **(settings or {})}, **clif)


def get(result: Result, outcome: str, subject: str = "H1") -> tuple[bool | None, datetime | None, str | None]:
    return result.outcomes[subject, outcome][1:]


def walk(*places: Place, subject: str = "H1") -> list[dict[str, Any]]:
    rows = [
        {"hospitalization_id": subject, "in_dttm": None if hour is None else at(hour), "location_category": place}
        for hour, place in places
    ]
    return rows[::-1]  # rows of a file are in no order


# Readmission -------------------------------------------------------------------------------------


def test_back_in_the_icu_not_back_and_back_too_early(tmp_path: Path):
    stays = [{"hospitalization_id": name} for name in ("H1", "H2", "H3")]
    adt = [
        *walk((1, "icu"), (10, "ward"), (30, "icu"), (40, "ward"), (50, "icu")),
        *walk((1, "icu"), (10, "ward"), (30, "stepdown"), subject="H2"),
        *walk((1, "icu"), (10, "ward"), (20, "icu"), (40, "ward"), (50, "icu"), subject="H3"),
    ]
    result = label(tmp_path / "a", hospitalization=stays, adt=adt)
    assert get(result, AGAIN, "H1") == (True, at(30), None)
    assert get(result, AGAIN, "H2") == (False, None, None)
    assert get(result, AGAIN, "H3") == (None, at(20), "event before index_time")


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([(1, "icu"), (30, "icu"), (50, "ICU")], (False, None)),  # from unit to unit
        ([(1, "icu"), (30, "procedural"), (32, "icu")], (False, None)),
        ([(1, "icu"), (30, "radiology"), (31, "Dialysis"), (32, "icu")], (False, None)),
        ([(1, "icu"), (30, "procedural"), (32, "ward"), (34, "procedural"), (36, "icu")], (True, at(36))),
        ([(1, "icu"), (30, None), (32, "icu")], (False, None)),  # where is not known
        ([(1, "icu"), (30, " "), (32, "icu")], (False, None)),
        ([(1, "icu"), (30, "other"), (32, "icu")], (True, at(32))),
        ([(1, "icu"), (30, "ward"), (30, "icu")], (False, None)),  # of one instant, the ICU counts
        ([(1, "icu"), (30, "icu"), (30, "ward"), (31, "icu")], (False, None)),
        ([(1, "ward"), (2, "icu"), (30, "ward")], (False, None)),
        ([(-9, "ICU"), (-8, "ed"), (40, "icu")], (True, at(40))),
        ([(1, "icu"), (23, "ward"), (71, "icu")], (True, at(71))),
    ],
)
def test_what_leaving_the_icu_is(tmp_path: Path, places: list[Place], expected: tuple[bool, datetime | None]):
    assert get(label(tmp_path / "a", adt=walk(*places)), AGAIN) == (*expected, None)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([(1, "ward"), (30, "icu"), (40, "ward"), (50, "icu")], (None, at(50), NEVER)),
        ([(1, "ward")], (None, None, NEVER)),
        ([(None, "ward")], (None, None, NEVER)),
        ([(1, "icu"), (None, "icu")], (None, None, "event without a time")),
        ([(1, "icu"), (None, "ward"), (30, "icu")], (None, None, "event without a time")),
        ([(1, "icu"), (2, "ward"), (3, "icu"), (None, "icu")], (None, at(3), "event before index_time")),
        ([(1, "icu"), (None, None), (None, "procedural")], (False, None, None)),  # neither is leaving nor coming
    ],
)
def test_of_whom_readmission_is_not_asked(tmp_path: Path, places: list[Place], expected: tuple):
    assert get(label(tmp_path / "a", adt=walk(*places)), AGAIN) == expected


@pytest.mark.parametrize(
    ("microseconds", "is_end_closed", "is_asked"),
    [(-1, False, True), (0, False, False), (0, True, True), (1, True, False)],
)
def test_the_first_icu_must_be_seen(tmp_path: Path, microseconds: int, is_end_closed: bool, is_asked: bool):
    adt = [{"in_dttm": at(24, microseconds), "location_category": "ICU"}]
    result = label(tmp_path / "a", {"window": make_window(is_end_closed=is_end_closed)}, adt=adt)
    assert get(result, AGAIN) == ((False, None, None) if is_asked else (None, None, NEVER))


@pytest.mark.parametrize(
    ("microseconds", "is_end_closed", "is_before"),
    [(-1, False, True), (0, False, False), (1, False, False), (-1, True, True), (0, True, True), (1, True, False)],
)
def test_new_events_keep_the_end_of_the_window(tmp_path: Path, microseconds: int, is_end_closed: bool, is_before: bool):
    time = at(24, microseconds)
    adt = [*walk((1, "icu"), (2, "ward")), {"in_dttm": time, "location_category": "icu"}]
    clif = {"adt": adt, "crrt_therapy": [{"recorded_dttm": time}]}
    result = label(tmp_path / "a", {"window": make_window(is_end_closed=is_end_closed)}, **clif)
    expected = (None, time, "event before index_time") if is_before else (True, time, None)
    assert [get(result, name) for name in (AGAIN, RENAL)] == [expected] * 2


# Renal replacement -------------------------------------------------------------------------------


def test_renal_replacement_starts_does_not_and_had_started(tmp_path: Path):
    stays = [{"hospitalization_id": name} for name in ("H1", "H2", "H3", "H4")]
    rows = [
        {"recorded_dttm": at(41)},
        {"recorded_dttm": at(40), "crrt_mode_category": None},
        {"recorded_dttm": at(23), "hospitalization_id": "H3"},
        {"recorded_dttm": at(40), "hospitalization_id": "H3"},
        {"recorded_dttm": None, "hospitalization_id": "H4"},
    ]
    result = label(tmp_path / "a", hospitalization=stays, crrt_therapy=rows)
    assert get(result, RENAL, "H1") == (True, at(40), None)
    assert get(result, RENAL, "H2") == (False, None, None)
    assert get(result, RENAL, "H3") == (None, at(23), "event before index_time")
    assert get(result, RENAL, "H4") == (None, None, "event without a time")


def test_without_crrt_therapy_nobody_is_known_to_need_none(tmp_path: Path):
    assert get(label(tmp_path / "a"), RENAL) == (None, None, "no table crrt_therapy")


# Discharges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["none", "lower", "snake_case"])
@pytest.mark.parametrize(
    ("category", "hospice", "against_advice"),
    [
        ("Hospice", True, False),
        ("hospice", True, False),
        ("Against Medical Advice (AMA)", False, True),
        ("ama", False, True),
        ("Home", False, False),
        ("Expired", False, False),
        ("Missing", False, False),
    ],
)
def test_discharge_category_in_both_editions(
    tmp_path: Path, rule: str, category: str, hospice: bool, against_advice: bool
):
    stay = {"discharge_category": category, "discharge_dttm": at(72)}
    result = label(tmp_path / "a", {"normalize": rule}, hospitalization=[stay])
    assert get(result, HOSPICE) == (hospice, at(72) if hospice else None, None)
    assert get(result, AMA) == (against_advice, at(72) if against_advice else None, None)


@pytest.mark.parametrize("outcome", [HOSPICE, AMA])
def test_discharge_without_a_category_is_unknown(tmp_path: Path, outcome: str):
    result = label(tmp_path / "a", hospitalization=[{"discharge_category": None}])
    assert get(result, outcome) == (None, None, "whether it happened is not recorded")


@pytest.mark.parametrize("outcome", ["in_hospital_death", "hospice_discharge", "discharge_against_advice"])
@pytest.mark.parametrize("normalize", ["snake_case", "lower", "none"])
def test_a_discharge_called_missing_is_unknown_where_the_settings_say_so(
    tmp_path: Path, outcome: str, normalize: str, caplog: pytest.LogCaptureFixture
):
    stays = [{"discharge_category": "Missing"}, {"hospitalization_id": "H2", "discharge_category": "Home"}]
    settings = {"outcomes": [outcome], "normalize": normalize}
    for unknown, expected, is_warned in (([], (False, None), True), (["Missing"], (None, NOT_RECORDED), False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="clinrep"):
            directory = tmp_path / str(is_warned)
            result = tokenize_tiny(directory, {**settings, "unknown_discharges": unknown}, hospitalization=stays)
        assert (result.label(outcome), result.reason(outcome)) == expected
        assert result.label(outcome, "H2") is False
        assert ("'Missing' for 1 of 2 stays" in caplog.text) == is_warned


def test_discharge_by_index_time_is_before_it(tmp_path: Path):
    stay = {"discharge_category": "ama", "discharge_dttm": at(24, -1)}
    result = label(tmp_path / "a", {"min_length_of_stay_hours": 0}, hospitalization=[stay])
    assert get(result, AMA) == (None, at(24, -1), "event before index_time")
    assert get(result, HOSPICE) == (None, None, "stay ended before index_time")


def test_words_that_never_occur_are_named_together(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="clinrep"):
        label(tmp_path / "a", {"normalize": "lower"}, hospitalization=[{"discharge_category": "AMA "}])
    assert "discharge_category never holds 'against medical advice (ama)' or 'ama', so no stay has that" in caplog.text


# Counts ------------------------------------------------------------------------------------------


def test_labels_are_counted_by_split_and_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    stays = [
        {"hospitalization_id": f"H{i}", "patient_id": f"P{i}", "admission_dttm": at(i), "discharge_dttm": at(99)}
        for i in range(5)
    ]
    rows = [
        {"hospitalization_id": name, "recorded_dttm": at(hour)} for name, hour in (("H0", 1), ("H1", 80), ("H4", 5))
    ]
    settings = {"outcomes": [RENAL], "train_fraction": 0.8}
    with caplog.at_level(logging.INFO, logger="clinrep"):
        label(tmp_path / "a", settings, hospitalization=stays, crrt_therapy=[*rows, {**rows[1], "recorded_dttm": None}])
    assert (
        "outcome renal_replacement: train 0 events in 2 labelled stays, 1 event without a time, 1 event before "
        "index_time; val 0 events in 0 labelled stays; test 0 events in 0 labelled stays, 1 event before index_time"
    ) in caplog.text


def test_crrt_therapy_without_its_time_column_is_refused(tmp_path: Path):
    types = {"crrt_therapy": {"recorded_dttm": pl.String}}
    with pytest.raises(InputError, match="column 'recorded_dttm' should be a datetime, found String"):
        label(tmp_path / "a", crrt_therapy=[{"recorded_dttm": "2150-01-01"}], types=types)
