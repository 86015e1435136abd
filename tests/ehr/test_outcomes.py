"""Labels by hand: what happened after index_time, and null where that cannot be asked."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from clinrep.config import InputError
from clinrep.ehr.configs.tokenize import MANUSCRIPT_OUTCOMES
from clinrep.ehr.outcomes import OUTCOMES
from tests.ehr.tiny_clif import Result, at, make_config, make_window, tokenize_in_memory, tokenize_tiny, write_tiny_clif

DEATH, LONG, ICU, IMV = MANUSCRIPT_OUTCOMES


def label(
    directory: Path, settings: dict[str, Any] | None = None, stay: dict[str, Any] | None = None, **clif: Any
) -> Result:
    return tokenize_tiny(directory, settings, hospitalization=[stay or {}], **clif)


def go_to_icu(*times: datetime | None) -> list[dict[str, Any]]:
    return [{"location_category": "ICU", "in_dttm": time} for time in times]


def test_those_of_the_manuscript_come_first():
    assert tuple(OUTCOMES)[:4] == MANUSCRIPT_OUTCOMES
    assert make_config(Path("x")).outcomes == list(MANUSCRIPT_OUTCOMES)
    assert all(name == outcome.name for name, outcome in OUTCOMES.items())


def test_index_time_is_admission_and_a_day(tmp_path: Path):
    result = label(tmp_path / "a", adt=go_to_icu(at(-5)))
    assert {row[0] for row in result.outcomes.values()} == {at(24)}
    assert list(result.outcomes) == [("H1", name) for name in MANUSCRIPT_OUTCOMES]


@pytest.mark.parametrize(
    ("time", "is_end_closed", "expected"),
    [
        (at(24, -1), False, (None, "event before index_time")),
        (at(24), False, (True, None)),
        (at(24, 1), False, (True, None)),
        (at(24, -1), True, (None, "event before index_time")),
        (at(24), True, (None, "event before index_time")),
        (at(24, 1), True, (True, None)),
        (at(-100), False, (None, "event before index_time")),
        (at(71), False, (True, None)),
    ],
)
@pytest.mark.parametrize("outcome", [ICU, IMV])
def test_window_is_half_open_unless_closed(tmp_path: Path, time, is_end_closed: bool, expected, outcome: str):
    tables = {
        "adt": go_to_icu(time),
        "respiratory_support": [{"device_category": "IMV", "recorded_dttm": time}],
    }
    result = label(tmp_path / "a", {"window": make_window(is_end_closed=is_end_closed)}, **tables)
    assert (result.label(outcome), result.reason(outcome)) == expected
    assert result.outcomes["H1", outcome][2] == time  # the event's time is told also where the label is null


def test_the_first_event_decides(tmp_path: Path):
    result = label(tmp_path / "a", adt=go_to_icu(at(30), at(3), at(50)))
    assert (result.label(ICU), result.outcomes["H1", ICU][2]) == (None, at(3))


def test_other_categories_and_other_stays_are_no_events(tmp_path: Path):
    rows = [
        {"location_category": "stepdown", "in_dttm": at(30)},
        {"location_category": "icu stepdown", "in_dttm": at(30)},
        {"location_category": "ICU", "in_dttm": at(30), "hospitalization_id": "H9"},
        {"location_category": None, "in_dttm": at(30)},
    ]
    result = label(
        tmp_path / "a", adt=rows, respiratory_support=[{"device_category": "NIPPV", "recorded_dttm": at(30)}]
    )
    assert [result.label(name) for name in (ICU, IMV)] == [False, False]
    assert [result.reason(name) for name in (ICU, IMV)] == [None, None]


@pytest.mark.parametrize("rule", ["none", "lower", "snake_case"])
@pytest.mark.parametrize("spelling", ["ICU", "icu"])
def test_words_of_both_editions_are_known_however_tokens_are_spelled(tmp_path: Path, spelling: str, rule: str):
    result = label(tmp_path / "a", {"normalize": rule}, adt=[{"location_category": spelling, "in_dttm": at(30)}])
    assert result.label(ICU) is True


@pytest.mark.parametrize("spelling", ["ICU", "icu", " Icu "])
def test_spelling_of_the_edition_does_not_matter(tmp_path: Path, spelling: str):
    result = label(tmp_path / "a", adt=[{"location_category": spelling, "in_dttm": at(30)}])
    assert result.label(ICU) is True


def test_word_that_never_occurs_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="clinrep"):
        label(tmp_path / "a", adt=[{"location_category": "intensive care"}])
    assert any("adt.location_category never holds 'icu'" in record.message for record in caplog.records)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([None], (None, "event without a time")),
        ([None, at(30)], (None, "event without a time")),
        ([None, at(3)], (None, "event before index_time")),
    ],
)
def test_event_without_a_time_is_never_false(tmp_path: Path, times, expected):
    result = label(tmp_path / "a", adt=go_to_icu(*times))
    assert (result.label(ICU), result.reason(ICU)) == expected


@pytest.mark.parametrize(
    ("hours", "microseconds", "expected"),
    [(168, 0, False), (168, 1, True), (168, -1, False), (168.5, 0, True), (169, 0, True), (24, 0, False)],
)
def test_long_stay_is_exact(tmp_path: Path, hours: float, microseconds: int, expected: bool):
    result = label(tmp_path / "a", stay={"discharge_dttm": at(hours, microseconds)})
    assert result.label(LONG) is expected
    assert result.outcomes["H1", LONG][2] == (at(168) if expected else None)


def test_late_events_do_not_make_a_stay_long(tmp_path: Path):
    assert label(tmp_path / "a", adt=[{"in_dttm": at(-30)}, {"in_dttm": at(500)}]).label(LONG) is False


@pytest.mark.parametrize(
    ("category", "expected"),
    [
        ("Expired", (True, at(72), None)),
        ("expired", (True, at(72), None)),
        ("Hospice", (False, None, None)),
        (None, (None, None, "whether it happened is not recorded")),
        (" ", (None, None, "whether it happened is not recorded")),
    ],
)
def test_death_is_the_discharge_category(tmp_path: Path, category: str | None, expected):
    result = label(tmp_path / "a", stay={"discharge_category": category})
    assert result.outcomes["H1", DEATH][1:] == expected


@pytest.mark.parametrize(
    ("discharge", "is_end_closed", "is_over"),
    [(at(24, -1), False, True), (at(24), False, False), (at(24), True, True), (at(24, 1), True, False)],
)
def test_stay_that_ended_by_index_time_has_no_labels(tmp_path: Path, discharge, is_end_closed: bool, is_over: bool):
    settings = {"min_length_of_stay_hours": 0, "window": make_window(is_end_closed=is_end_closed)}
    stay = {"discharge_dttm": discharge, "discharge_category": "Home"}
    result = label(tmp_path / "a", settings, stay)
    expected = (None, "stay ended before index_time") if is_over else (False, None)
    assert [(result.label(name), result.reason(name)) for name in MANUSCRIPT_OUTCOMES] == [expected] * 4
    died = label(tmp_path / "b", settings, {**stay, "discharge_category": "Expired"})
    assert (died.label(DEATH), died.reason(DEATH)) == ((None, "event before index_time") if is_over else (True, None))


def test_event_after_the_end_of_a_short_stay_is_no_positive(tmp_path: Path):
    settings = {"min_length_of_stay_hours": 0}
    result = label(tmp_path / "a", settings, {"discharge_dttm": at(10)}, adt=go_to_icu(at(30)))
    assert (result.label(ICU), result.reason(ICU)) == (None, "stay ended before index_time")


@pytest.mark.parametrize(("table", "outcome"), [("adt", ICU), ("respiratory_support", IMV)])
def test_missing_table_makes_every_label_null_with_the_reason(tmp_path: Path, table: str, outcome: str):
    result = label(tmp_path / "a", leave_out=[table])
    assert result.outcomes["H1", outcome][1:] == (None, None, f"no table {table}")
    assert result.label(DEATH) is False


@pytest.mark.parametrize(
    ("first_event", "origin", "index"),
    [
        (at(-5), "first_event", at(19)),
        (at(5), "first_event", at(24)),
        (None, "first_event", at(24)),
        (at(-5), "admission", at(24)),
    ],
)
def test_origin_is_a_setting(tmp_path: Path, first_event, origin: str, index: datetime):
    rows = [] if first_event is None else [{"in_dttm": first_event}]
    result = label(tmp_path / "a", {"window": make_window(origin=origin)}, adt=rows)
    assert {row[0] for row in result.outcomes.values()} == {index}


def test_first_event_is_each_stays_own(tmp_path: Path):
    stays = [{}, {"hospitalization_id": "H2"}, {"hospitalization_id": "H3"}]
    rows = [{"in_dttm": at(-5), "hospitalization_id": "H3"}, {"in_dttm": at(-2)}, {"in_dttm": at(-1)}]
    result = tokenize_tiny(
        tmp_path / "a", {"window": make_window(origin="first_event")}, hospitalization=stays, adt=rows
    )
    assert [result.outcomes[f"H{i}", ICU][0] for i in (1, 2, 3)] == [at(22), at(24), at(19)]


@pytest.mark.parametrize("hours", [0.5, 48, 200])
def test_length_is_a_setting(tmp_path: Path, hours: float):
    settings = {"window": make_window(length_hours=hours)}
    result = label(tmp_path / "a", settings, {"discharge_dttm": at(300)}, adt=go_to_icu(at(40)))
    assert result.outcomes["H1", ICU][0] == at(hours)
    assert result.label(ICU) is (True if hours < 40 else None)
    assert result.label(LONG) is (None if hours > 168 else True)


@pytest.mark.parametrize("hours", [0, -1, float("nan"), float("inf")])
def test_window_needs_a_length(hours: float):
    with pytest.raises(ValueError, match="length_hours"):
        make_window(length_hours=hours)


def test_unknown_outcome_lists_the_known(tmp_path: Path):
    config = make_config(write_tiny_clif(tmp_path / "a"), outcomes=["in_hospital_deth"])
    with pytest.raises(InputError, match="unknown outcome 'in_hospital_deth'; known: death_within_30_days, dis"):
        tokenize_in_memory(config)


def test_same_outcome_twice_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="outcomes"):
        make_config(tmp_path, outcomes=[ICU, ICU])


def test_no_outcomes(tmp_path: Path):
    assert label(tmp_path / "a", {"outcomes": []}).outcomes == {}


def test_outcome_column_of_the_wrong_type_is_found(tmp_path: Path):
    types = {"respiratory_support": {"device_category": pl.Int64}}
    with pytest.raises(InputError, match="column 'device_category' should be text, found Int64"):
        label(tmp_path / "a", respiratory_support=[{"device_category": 3}], types=types)
