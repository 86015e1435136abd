"""Death within 30 days by hand: dates, discharges, signs of life, and where follow-up ends too early."""

from __future__ import annotations

import logging
from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from clinrep.config import InputError
from tests.ehr.tiny_clif import Result, at, make_config, make_window, tokenize_tiny

DEATH = "death_within_30_days"
DAY = 24.0
LAST = 24 + 30 * DAY  # hours: index_time + 30 days, since H1 is admitted at 0
CENSORED = "follow-up ends before the horizon"
CONTRADICTED = "death dates contradict each other or a later sign of life"
STRANGER = {"patient_id": "P9", "death_dttm": at(0)}  # the site has death dates
TIME = pl.Datetime("us", "UTC")


def label(
    directory: Path,
    death: datetime | None = None,
    stay: dict[str, Any] | None = None,
    others: tuple[dict[str, Any], ...] = (),
    **settings: Any,
) -> tuple[bool | None, datetime | None, str | None]:
    """Return label, time and reason of H1, whose patient dies at `death` and also has `others` as stays."""
    stays = [stay or {}, *[{"hospitalization_id": f"X{i}", **other} for i, other in enumerate(others)]]
    patients = [{"patient_id": "P1", "death_dttm": death}, STRANGER]
    return run(directory, settings, hospitalization=stays, patient=patients).outcomes["H1", DEATH][1:]


def run(directory: Path, settings: dict[str, Any], types: dict[str, Any] | None = None, **clif: Any) -> Result:
    types = types or {"patient": {"death_dttm": TIME}}
    return tokenize_tiny(directory, {"outcomes": [DEATH], **settings}, types=types, **clif)


def test_dies_lives_and_is_lost(tmp_path: Path):
    stays = [{"hospitalization_id": f"H{i}", "patient_id": f"P{i}"} for i in (1, 2, 3)]
    back = {"hospitalization_id": "H4", "patient_id": "P2", "admission_dttm": at(LAST), "discharge_dttm": at(LAST + 1)}
    patients = [{"patient_id": f"P{i}", "death_dttm": at(500) if i == 1 else None} for i in (1, 2, 3)]
    result = run(tmp_path / "a", {}, hospitalization=[*stays, back], patient=patients)
    assert result.outcomes["H1", DEATH] == (at(24), True, at(500), None)
    assert result.outcomes["H2", DEATH] == (at(24), False, None, None)
    assert result.outcomes["H3", DEATH] == (at(24), None, None, CENSORED)


@pytest.mark.parametrize("is_end_closed", [False, True])
@pytest.mark.parametrize(("microseconds", "expected"), [(-1, True), (0, True), (1, False)])
def test_horizon_is_closed(tmp_path: Path, microseconds: int, expected: bool, is_end_closed: bool):
    time = at(LAST, microseconds)
    found = label(tmp_path / "a", time, window=make_window(is_end_closed=is_end_closed))
    assert found == (expected, time, None)


@pytest.mark.parametrize(("hours", "last"), [(2.5, 722.5), (48, 768)])
def test_horizon_starts_at_index_time(tmp_path: Path, hours: float, last: float):
    window = make_window(length_hours=hours)
    assert label(tmp_path / "a", at(last), window=window)[0] is True
    assert label(tmp_path / "b", at(last, 1), window=window)[0] is False


@pytest.mark.parametrize(
    ("microseconds", "is_end_closed", "is_before"),
    [(-1, False, True), (0, False, False), (0, True, True), (1, True, False)],
)
def test_death_by_index_time_is_before_it(tmp_path: Path, microseconds: int, is_end_closed: bool, is_before: bool):
    time, window = at(24, microseconds), make_window(is_end_closed=is_end_closed)
    found = label(tmp_path / "a", time, {"discharge_category": "Expired"}, window=window)
    assert found == ((None, time, "event before index_time") if is_before else (True, time, None))


# When the patient died ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("death", "category", "expected"),
    [
        (None, "Expired", at(72)),
        (None, "expired", at(72)),
        (at(93), "Expired", at(72)),  # MIMIC: a discharge at midnight, the death on the evening of the next day
        (at(70), "Expired", at(70)),  # the discharge is when the body left
        (at(500), "Home", at(500)),
        (at(72), "Home", at(72)),
        (at(71), "Home", at(72)),  # a date stands for its midnight: the death was later that day
        (at(48), "Hospice", at(72)),
        (at(60), None, at(60)),  # how the stay ended is unknown
        (at(30), "Missing", at(30)),  # likewise: a missing category is no sign of life
        (at(-1), "Expired", None),  # up to a day before the admission: at the admission, which is before index_time
    ],
)
def test_time_of_death(tmp_path: Path, death: datetime | None, category: str | None, expected: datetime | None):
    found = label(tmp_path / "a", death, {"discharge_category": category})
    assert found == ((True, expected, None) if expected else (None, at(0), "event before index_time"))


def test_death_in_a_later_stay_counts(tmp_path: Path):
    later = {"admission_dttm": at(400), "discharge_dttm": at(410), "discharge_category": "Expired"}
    assert label(tmp_path / "a", None, None, (later,)) == (True, at(410), None)


@pytest.mark.parametrize(
    ("death", "category", "others"),
    [
        (at(48, -1), "Home", ()),  # went home more than a day later
        (at(-24, -1), "Expired", ()),
        (at(300), "Home", ({"admission_dttm": at(324, 1)},)),
        (at(300), "Home", ({"admission_dttm": at(290), "discharge_dttm": at(324, 1)},)),
        (None, "Expired", ({"admission_dttm": at(5000), "discharge_dttm": at(5001)},)),
        (at(-5000), "Home", ()),
    ],
)
def test_signs_of_life_after_death_are_no_label(tmp_path: Path, death, category: str, others):
    found = label(tmp_path / "a", death, {"discharge_category": category}, others, death_follow_up_days=365)
    assert found == (None, None, CONTRADICTED)


def test_a_day_between_death_and_a_sign_of_life_is_allowed(tmp_path: Path):
    assert label(tmp_path / "a", at(300), None, ({"admission_dttm": at(324)},))[:2] == (True, at(324))


def test_two_dates_of_one_patient_are_no_label(tmp_path: Path):
    patients = [{"death_dttm": time} for time in (at(400), None, at(500))]
    result = run(tmp_path / "a", {"duplicate_patients": "first"}, patient=patients)
    assert result.outcomes["H1", DEATH][1:] == (None, None, CONTRADICTED)
    same = run(tmp_path / "b", {"duplicate_patients": "first"}, patient=patients[:2] + patients[:1])
    assert same.outcomes["H1", DEATH][1:] == (True, at(400), None)


# Follow-up ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("microseconds", "expected"), [(-1, None), (0, False), (1, False)])
def test_still_in_hospital_at_the_horizon(tmp_path: Path, microseconds: int, expected: bool | None):
    found = label(tmp_path / "a", None, {"discharge_dttm": at(LAST, microseconds)})
    assert found == (expected, None, CENSORED if expected is None else None)


@pytest.mark.parametrize(("microseconds", "expected"), [(-1, None), (0, False)])
@pytest.mark.parametrize("column", ["admission_dttm", "discharge_dttm"])
def test_a_later_stay_shows_that_the_patient_lived(
    tmp_path: Path, column: str, microseconds: int, expected: bool | None
):
    """Short stays, which get no timeline, and those of other people's splits count too."""
    time = at(LAST, microseconds)
    dates = {"admission_dttm": at(LAST - 9), "discharge_dttm": None, column: time}
    assert label(tmp_path / "a", None, None, (dates,))[0] is expected
    window = ["2150-01-01", "2150-01-02"]
    assert label(tmp_path / "b", None, None, (dates,), admission_window=window)[0] is expected
    assert label(tmp_path / "c", None, None, ({**dates, "patient_id": "P2"},))[0] is None


@pytest.mark.parametrize(
    ("days", "expected"), [(None, None), (0, None), (27.99, None), (28, False), (28.5, False), (365, False)]
)
def test_follow_up_is_a_setting(tmp_path: Path, days: float | None, expected: bool | None):
    """28 days from the discharge at 72 h are the 30 days from index_time at 24 h."""
    found = label(tmp_path / "a", None, None, death_follow_up_days=days)
    assert found == (expected, None, CENSORED if expected is None else None)


def test_known_deaths_count_beyond_follow_up(tmp_path: Path):
    assert label(tmp_path / "a", at(700), death_follow_up_days=1)[0] is True


def test_who_has_no_row_in_patient_is_not_followed_after_the_last_record(tmp_path: Path):
    stays = [{}, {"hospitalization_id": "H2", "patient_id": "P9"}]
    result = run(tmp_path / "a", {"death_follow_up_days": 365}, hospitalization=stays, patient=[STRANGER])
    assert result.reason(DEATH) == CENSORED
    assert result.reason(DEATH, "H2") == CONTRADICTED


@pytest.mark.parametrize("days", [-1, float("nan"), float("inf")])
def test_follow_up_must_be_a_length(days: float):
    with pytest.raises(ValueError, match="death_follow_up_days"):
        make_config(Path("x"), death_follow_up_days=days)


# Sites without death dates -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, TIME, pl.Float64, pl.Null])
def test_without_death_dates_every_label_is_null(tmp_path: Path, dtype: Any, caplog: pytest.LogCaptureFixture):
    stays = [{"discharge_category": "Expired"}, {"hospitalization_id": "H2", "discharge_dttm": at(2000)}]
    patient = [{}] if dtype is None else [{"death_dttm": None}]
    types = {} if dtype is None else {"patient": {"death_dttm": dtype}}
    with caplog.at_level(logging.WARNING, logger="clinrep"):
        result = run(tmp_path / "a", {}, types, hospitalization=stays, patient=patient)
    assert {row[1:] for row in result.outcomes.values()} == {(None, None, "no death dates")}
    assert "patient.death_dttm is missing or empty" in caplog.text


def test_dates_may_be_dates(tmp_path: Path):
    day = date(2150, 1, 10)
    patients = [{"patient_id": "P1", "death_dttm": day}]
    result = run(tmp_path / "a", {}, {"patient": {"death_dttm": pl.Date}}, patient=patients)
    assert result.outcomes["H1", DEATH][1:] == (True, at(9 * DAY), None)


def test_dates_as_text_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="column 'death_dttm' should be a datetime, found String"):
        run(tmp_path / "a", {}, {"patient": {"death_dttm": pl.String}}, patient=[{"death_dttm": "2150-01-10"}])


def test_other_outcomes_do_not_read_it(tmp_path: Path):
    settings = {"outcomes": ["in_hospital_death"]}
    run(tmp_path / "a", settings, {"patient": {"death_dttm": pl.String}}, patient=[{"death_dttm": "2150-01-10"}])


def test_censoring_of_many_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="clinrep"):
        label(tmp_path / "a")
    assert f"{DEATH}: 1 of 1 stays have no label because their follow-up ends" in caplog.text
    assert "the setting death_follow_up_days says" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="clinrep"):
        label(tmp_path / "b", death_follow_up_days=365)
    assert "follow-up ends" not in caplog.text


@pytest.mark.parametrize(("death", "is_warned_of"), [(at(72 + 24), True), (at(72 + 24, 1), False)])
def test_dates_of_deaths_in_hospital_only_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, death: datetime, is_warned_of: bool
):
    with caplog.at_level(logging.WARNING, logger="clinrep"):
        label(tmp_path / "a", death, death_follow_up_days=365)
    assert ("record deaths in hospital only" in caplog.text) is is_warned_of
