"""Random nine-table CLIF-2.0 folders with everything that real exports get wrong, for the manuscript config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tests.ehr.tiny_clif import COLUMNS, Row, at, write_tiny_clif

NUM_PATIENTS = 18
NO_ROW = {3, 11}  # patients that the patient table lacks
LENGTHS = (0, -2, 23.5, 24, 24, 24, 30, 48, 72, 167.5, 168, 168.5, 169, 300)
# Hours from admission (ties, both sides of the cut) and from discharge.
FROM_ADMISSION = (-3, -1, 0, 0, 0, 1, 1, 2, 21, 23, 24, 24, 25, 47, 48, 80)
LONG_BEFORE = (-24, -30, -50)
FROM_DISCHARGE = (-1, 0, 0, 1, 30)
TIME_TYPES = {  # what a time column may be stored as
    "adt": ("in_dttm", pl.Datetime("us", "America/Chicago")),
    "labs": ("lab_result_dttm", pl.Datetime("us")),
    "vitals": ("recorded_dttm", pl.Datetime("ns", "UTC")),
    "position": ("recorded_dttm", pl.Datetime("ms", "UTC")),
}


@dataclass(frozen=True)
class Mess:
    """What a folder holds beside the usual: each of these is a question of its own."""

    has_number_ids: bool = False
    has_odd_time_types: bool = False
    has_undated_rows: bool = False
    has_unknown_admission: bool = False
    has_unknown_discharge: bool = False
    has_empty_text: bool = False


class Maker:
    """Draws the rows of one folder."""

    def __init__(self, seed: int, mess: Mess) -> None:
        self.rng = np.random.default_rng(seed)
        self.mess = mess
        self.blank = "" if mess.has_empty_text else " "
        self.stays = self.make_stays()
        self.spans: dict[Any, tuple[datetime, datetime]] = {}
        for stay in self.stays[3:]:  # the first three have no events
            admission = stay["admission_dttm"] or at(0)
            self.spans[stay["hospitalization_id"]] = (admission, stay["discharge_dttm"] or admission)

    def pick(self, *values: Any) -> Any:
        return values[self.rng.integers(len(values))]

    def name(self, letter: str, number: int) -> Any:
        return number if self.mess.has_number_ids else f"{letter}{number}"

    def make_stays(self) -> list[dict[str, Any]]:
        stays = []
        for number in self.rng.permutation(1000)[:45].tolist():
            admission = at(24.0 * self.pick(*range(20)), self.pick(0, 0, 1000))
            discharge = admission + timedelta(hours=self.pick(*LENGTHS))
            stays.append(
                {
                    "hospitalization_id": self.name("H", number),
                    "patient_id": self.name("P", int(self.rng.integers(NUM_PATIENTS))),
                    "admission_dttm": None if self.mess.has_unknown_admission and number % 8 == 0 else admission,
                    "discharge_dttm": None if self.mess.has_unknown_discharge and number % 8 == 1 else discharge,
                    "age_at_admission": self.pick(17, 18, 18, 40, 41, 57, 63, 90, None),
                    "admission_type_name": self.pick("EW EMER.", "Urgent", "urgent", None, self.blank),
                    "discharge_category": self.pick("Home", "home ", "Expired", "EXPIRED", "Hospice", None),
                }
            )
        return stays

    def make_patients(self) -> list[dict[str, Any]]:
        """One row for most patients, two that differ for some, and strangers."""
        numbers = [number for number in range(NUM_PATIENTS + 4) if number not in NO_ROW]
        numbers += self.rng.permutation(numbers)[:6].tolist()
        return [
            {
                "patient_id": self.name("P", int(number)),
                "race_category": self.pick("White", "WHITE", "Other", "Unknown", None, self.blank, f"race {number}"),
                "ethnicity_category": self.pick("Hispanic", "Unknown", None),
                "sex_category": self.pick("Male", "Female", None),
            }
            for number in self.rng.permutation(numbers).tolist()
        ]

    def make_rows(self, time: str, num: int, fill: Callable[[], Row]) -> list[dict[str, Any]]:
        rows = []
        for _ in range(num):
            subject = self.pick(*self.spans, *self.spans, self.name("X", 5000), None)
            admission, discharge = self.spans.get(subject, (at(0), at(48)))
            moment = admission + timedelta(hours=self.pick(*FROM_ADMISSION), milliseconds=self.pick(0, 0, 0, 1))
            if self.pick(True, False, False):
                moment = discharge + timedelta(hours=self.pick(*FROM_DISCHARGE))
            if self.pick(*range(120)) == 0:
                moment = admission + timedelta(hours=self.pick(*LONG_BEFORE))
            if self.mess.has_undated_rows and self.pick(*range(8)) == 0:
                moment = None
            rows.append({"hospitalization_id": subject, time: moment, **fill()})
        return [*rows, *rows[:3]]  # the same row again

    def make_number(self, category: str, value: str, *names: str | None) -> dict[str, Any]:
        """Draw a common name and a value, or a rare name, which some splits lack.

        Only the most common have infinite values, so few that no decile is beside one, where it were NaN.
        """
        if self.pick(*range(8)) == 0:
            return {category: f"Rare {self.rng.integers(12)}", value: float(self.rng.integers(9))}
        name = self.pick(*names)
        odd = self.pick(None, float("nan"), *[0.0] * 6, *[1.0] * 4, 7.0)
        number = self.pick(odd, float(self.rng.normal()), round(float(self.rng.normal()), 1))
        if name in ("sodium", "sbp") and self.pick(*range(50)) == 0:
            number = float(self.pick("inf", "-inf"))
        return {category: name, value: number}

    def make_assessment(self) -> dict[str, Any]:
        return {
            "assessment_category": self.pick("RASS", "rass", "cam_total", None, self.blank),
            "numerical_value": self.pick(None, None, None, 0.0, -1.0, 3.0, float("nan")),
            "categorical_value": self.pick(
                None, "Yes", "yes", "No (Stop - Not delirious)", "Other", "None", self.blank
            ),
        }

    def make_tables(self) -> dict[str, list[dict[str, Any]]]:
        places = ("ICU", "icu", "Ward", "L&D", "Other", None, self.blank, "icu ")
        units = ("mmol/L", "MMOL/l\t", "g", None)
        return {
            "hospitalization": self.stays,
            "patient": self.make_patients(),
            "adt": self.make_rows("in_dttm", 70, lambda: {"location_category": self.pick(*places)}),
            "labs": self.make_rows(
                "lab_result_dttm",
                400,
                lambda: {
                    **self.make_number(
                        "lab_category", "lab_value_numeric", "Sodium", "sodium", "wbc", None, self.blank
                    ),
                    "reference_unit": self.pick(*units),
                },
            ),
            "vitals": self.make_rows(
                "recorded_dttm",
                300,
                lambda: self.make_number("vital_category", "vital_value", "sbp", "MAP", None),
            ),
            "medication_admin_continuous": self.make_rows(
                "admin_dttm",
                150,
                lambda: self.make_number("med_category", "med_dose", "sodium bicarbonate", "Insulin", None),
            ),
            "patient_assessments": self.make_rows("recorded_dttm", 150, self.make_assessment),
            "respiratory_support": self.make_rows(
                "recorded_dttm",
                90,
                lambda: {
                    "mode_category": self.pick(None, None, "Assist Control-Volume Control", "Other", self.blank),
                    "device_category": self.pick("IMV", "imv", "NIPPV", "Other", None),
                },
            ),
            "position": self.make_rows(
                "recorded_dttm",
                40,
                lambda: {"position_category": self.pick("prone", "Prone", "prone ", "not_prone", None)},
            ),
        }


def write_messy_clif(directory: Path, seed: int, mess: Mess) -> Path:
    """Write a folder; the same seed and mess give the same rows."""
    types: dict[str, dict[str, Any]] = {table: {} for table in COLUMNS}
    if mess.has_odd_time_types:
        types |= {table: {column: dtype} for table, (column, dtype) in TIME_TYPES.items()}
    if mess.has_number_ids:
        for table, columns in COLUMNS.items():
            types[table] |= {column: pl.Int64 for column in columns if column.endswith("_id")}
    return write_tiny_clif(directory, types=types, **Maker(seed, mess).make_tables())
