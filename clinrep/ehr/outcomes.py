"""The outcomes: one table of definitions over CLIF tables; clinrep.ehr.labels applies them to stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from clinrep.config import lookup
from clinrep.ehr.clif import ClifTables, Kind
from clinrep.ehr.configs.tokenize import TokenizeConfig
from clinrep.ehr.deaths import DEATH_DATE, find_deaths, find_last_signs_of_life
from clinrep.ehr.outcome_events import (
    ADT,
    AMA,
    EXPIRED,
    HOSPICE,
    ICU,
    IMV,
    Finder,
    find_discharges,
    find_icu_readmissions,
    find_long_stays,
    find_rows,
)


@dataclass(frozen=True)
class Precondition:
    """What must have been seen at index_time for the question to make sense."""

    find_events: Finder
    reason: str
    """Why the label of a stay without it is null."""


@dataclass(frozen=True)
class FollowUp:
    """Until when it is known that nothing happened, for what can happen after the stay."""

    find_ends: Finder
    """(tables, stays, config) -> subject_id, followed_until; null is not at all."""
    setting: str
    """Setting of stage 00 that says more about it, for a warning where many stays are censored."""


@dataclass(frozen=True)
class Outcome:
    """One outcome: what happens, from which tables, until when it counts, and of whom it is asked.

    The label is whether the earliest event comes after index_time and, with a horizon, by index_time +
    horizon, that instant included. `label_outcome` says of whom no outcome is asked.
    """

    name: str
    definition: str
    columns: Mapping[str, Mapping[str, Kind]]
    """Table -> the columns it needs: without the table every label is null, without a column stage 00 stops."""
    find_events: Finder
    horizon: timedelta | None = None
    """None: to the end of the stay, which is always known; a row of the stay after its discharge_dttm counts."""
    precondition: Precondition | None = None
    follow_up: FollowUp | None = None
    """None: nothing can happen unseen before the horizon."""
    optional_columns: Mapping[str, Mapping[str, Kind]] = field(default_factory=dict)
    """Columns that it reads where there are, of tables that every site has."""


_STAY: dict[str, Kind] = {"hospitalization_id": "id", "admission_dttm": "time", "discharge_dttm": "time"}
_DISCHARGE: dict[str, Kind] = {**_STAY, "discharge_category": "category"}
_DEVICE: dict[str, Kind] = {"hospitalization_id": "id", "recorded_dttm": "time", "device_category": "category"}
_CRRT: dict[str, Kind] = {"hospitalization_id": "id", "recorded_dttm": "time"}

# One entry an outcome; CONTRIBUTING.md says what else an outcome needs.
OUTCOMES = {
    outcome.name: outcome
    for outcome in (
        Outcome(
            "in_hospital_death",
            "discharge_category is Expired; the event is the discharge; a null category is unknown",
            {"hospitalization": _DISCHARGE},
            find_discharges(*EXPIRED),
        ),
        Outcome(
            "long_length_of_stay",
            "discharge is more than 7 days (168 h) after admission; the event is the end of day 7",
            {"hospitalization": _STAY},
            find_long_stays,
        ),
        Outcome(
            "icu_admission",
            "first ADT row with location_category ICU",
            {"adt": ADT},
            find_rows("adt", ADT, *ICU),
        ),
        Outcome(
            "imv_event",
            "first respiratory_support row with device_category IMV (invasive mechanical ventilation)",
            {"respiratory_support": _DEVICE},
            find_rows("respiratory_support", _DEVICE, *IMV),
        ),
        Outcome(
            "death_within_30_days",
            "the patient dies, in hospital or after it, within 30 days (720 h) of index_time: the earlier of "
            "patient.death_dttm and the discharge of a stay that ended as Expired",
            {"hospitalization": _DISCHARGE},
            find_deaths,
            horizon=timedelta(days=30),
            follow_up=FollowUp(find_last_signs_of_life, "death_follow_up_days"),
            optional_columns={"patient": DEATH_DATE},
        ),
        Outcome(
            "icu_readmission",
            "back in an ICU (ADT) after another place, procedural, radiology and dialysis aside, in the same stay; "
            "asked of stays that were in an ICU before index_time",
            {"adt": ADT},
            find_icu_readmissions,
            precondition=Precondition(find_rows("adt", ADT, *ICU), "not in an ICU before index_time"),
        ),
        Outcome(
            "renal_replacement",
            "first row of crrt_therapy: continuous renal replacement, which is what CLIF charts with times",
            {"crrt_therapy": _CRRT},
            find_rows("crrt_therapy", _CRRT),
        ),
        Outcome(
            "hospice_discharge",
            "discharge_category is Hospice; the event is the discharge; a null category is unknown",
            {"hospitalization": _DISCHARGE},
            find_discharges(*HOSPICE),
        ),
        Outcome(
            "discharge_against_advice",
            "discharge_category is Against Medical Advice (AMA), else like hospice_discharge",
            {"hospitalization": _DISCHARGE},
            find_discharges(*AMA),
        ),
    )
}


def describe_question(name: str) -> tuple[str, float | None, str]:
    """Return an outcome's definition, its horizon in hours (None: to the end of the stay), and of whom it is asked."""
    outcome = lookup(OUTCOMES, name, "outcome")
    hours = None if outcome.horizon is None else outcome.horizon.total_seconds() / 3600
    asked = "every stay with a timeline that lasts beyond index_time without the event before it"
    return (
        outcome.definition,
        hours,
        asked if outcome.precondition is None else f"{asked}; not: {outcome.precondition.reason}",
    )


def check_outcomes(tables: ClifTables, config: TokenizeConfig) -> None:
    """Raise an InputError for an unknown outcome, or a missing or wrong column of one that is known."""
    for name in config.outcomes:
        outcome = lookup(OUTCOMES, name, "outcome")
        for table, columns in outcome.columns.items():
            if tables.has(table):
                tables.check_columns(table, columns)
        for table, columns in outcome.optional_columns.items():
            found = tables.read_schema(table)
            tables.check_columns(table, {name: kind for name, kind in columns.items() if name in found})
