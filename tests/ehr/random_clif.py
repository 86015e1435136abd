"""Random CLIF folders with everything that real exports get wrong, and random settings to tokenize them with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from clinrep.ehr.configs.sources import Condition, EdgeToken, EventSource, UnitRule, ValueRange
from clinrep.ehr.configs.tokenize import TokenizeConfig, WindowConfig
from tests.ehr.tiny_clif import RECOMMENDED, write_tiny_clif
from tests.ehr.tiny_tables import at

LENGTHS = (0, 23.5, 24, 24, 24, 48, 72, 167, 168, 169, 300, -2, None)
DISCHARGES = (
    *("Home", "home ", "Acute Care Hospital", "Expired", "expired", "Hospice", "hospice"),
    *("Against Medical Advice (AMA)", "ama", "AMA", None, " "),
)
PLACES = ("ICU", "ICU", "icu", "icu ", "ward", "ward", "procedural", "Dialysis", "l&d", None, " ")
HOURS = (-30, -1, 0, 1, 1, 2, 23, 24, 24, 25, 80)  # from admission
SIGNS = ("+", "++", "-2", "- 2", "<5", "> 5", "1-2", "2020-03-01", "?", "*", " ", "", "(none)", "Γ-GT", "a/b", "½")
ACTIONS = ("stop", "Stopped", "PAUSED", "Finished Running", "FinishedRunning", "start", "rate_change", "", " ", None)


class Maker:
    """Draws the rows of one folder."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.seed = seed
        self.is_whole = seed % 4 < 2  # whole seconds, or also microseconds, which another way of sorting takes
        self.is_long = seed % 4 == 3  # an event so far away that stay, time and rank fit no one integer
        self.stays = self.make_stays()
        self.starts = {stay["hospitalization_id"]: stay["admission_dttm"] for stay in self.stays}

    def pick(self, *values: Any) -> Any:
        return values[self.rng.integers(len(values))]

    def jitter(self) -> timedelta:
        return timedelta(microseconds=0 if self.is_whole else self.pick(0, 0, 1, 500_000))

    def make_stays(self) -> list[dict[str, Any]]:
        stays = []
        for i in range(30):
            admission = at(float(self.rng.integers(0, 12) * 24))
            length = self.pick(*LENGTHS)
            stays.append(
                {
                    "hospitalization_id": f"H{self.rng.permutation(1000)[0]:03d}{i}",
                    "patient_id": self.pick(*[f"P{k}" for k in range(14)]),
                    "admission_dttm": admission,
                    "discharge_dttm": None if length is None else admission + timedelta(hours=length) + self.jitter(),
                    "age_at_admission": self.pick(17, 18, 40, 41, 90, None),
                    "admission_type_name": self.pick("EW EMER.", "Urgent", None, "-"),
                    "discharge_category": self.pick(*DISCHARGES),
                }
            )
        return stays

    def make_rows(
        self, num: int, fill: Callable[[], dict[str, Any]], time: str | None = "recorded_dttm", is_patient: bool = False
    ) -> list[dict[str, Any]]:
        patients = {stay["hospitalization_id"]: stay["patient_id"] for stay in self.stays}
        rows = []
        for number in range(num):
            subject = self.pick(*self.starts, *self.starts, *self.starts, "stranger", None)
            moment = self.starts.get(subject, at(0)) + timedelta(hours=float(self.pick(*HOURS))) + self.jitter()
            if self.is_long and number == 0:
                moment = datetime(1905, 1, 1)
            ids = {"patient_id": patients.get(subject, "P13")} if is_patient else {"hospitalization_id": subject}
            when = {} if time is None else {time: self.pick(moment, moment, moment, None)}
            rows.append({**ids, **when, **fill()})
        return rows

    def draw_value(self) -> float | None:
        return self.pick(
            None, float("nan"), float("inf"), 0.0, 0.0, 1.0, 7.0, float(self.rng.normal()), float(self.rng.normal())
        )

    def draw_lab(self) -> dict[str, Any]:
        rare = f"rare {self.rng.integers(9)}"
        return {
            "lab_category": self.pick("Sodium", "sodium", "glucose_serum", "Glucose", "bun", "wbc", None, rare, "-2"),
            "lab_name": self.pick("x", None),
            "lab_value_numeric": self.draw_value(),
            "reference_unit": self.pick("mmol/L", "MMOL/l\t", "g", None, ""),
        }

    def draw_dose(self) -> dict[str, Any]:
        dose = {"med_dose": self.pick(0.0, 0.0, 2.0, None), "med_dose_unit": self.pick("g", "mL")}
        words = {"mar_action_category": self.pick(*ACTIONS), "mar_action_name": self.pick(*ACTIONS)}
        for column in {0: ["mar_action_category"], 1: ["mar_action_name"], 2: list(words)}.get(self.seed % 5, []):
            del words[column]  # a site may have one of the two, or neither
        return {"med_category": self.pick("a b", "c", None), **dose, **words}

    def draw_assessment(self) -> dict[str, Any]:
        return {
            "assessment_category": self.pick("RASS", "cam", None),
            "numerical_value": self.pick(None, None, 0.0, -1.0, float("nan")),
            "categorical_value": self.pick(None, "Yes", "No (Stop)", "yes ", *SIGNS),
        }

    def draw_ventilation(self) -> dict[str, Any]:
        columns = {
            "fio2_set": self.pick(None, 0.21, 0.4, 1.0, 40.0),
            "peep_set": self.pick(None, 5.0, 5.0, 70.0),
            "tidal_volume_set": self.pick(None, 400.0),
        }
        if self.seed % 3 == 1:
            del columns["peep_set"]
        return {
            "mode_category": self.pick(None, "Assist/Control", "Assist Control-Volume Control"),
            "device_category": self.pick("IMV", "NIPPV", "imv", None, "High Flow NC"),
            **columns,
        }

    def draw_death(self, patient: str) -> dict[str, Any]:
        """Draw a date of death around the end of a stay, for every patient or for some; some sites have none."""
        if self.seed % 6 == 5:
            return {}
        ends = [
            stay["discharge_dttm"] or stay["admission_dttm"] for stay in self.stays if stay["patient_id"] == patient
        ]
        is_known = bool(ends) and self.pick(True, self.seed % 6 == 4, False)
        days = self.pick(-40, -1.5, -1, -0.5, 0, 0.5, 12, 29, 29, 40)
        return {"death_dttm": max(ends) + timedelta(days=days) + self.jitter() if is_known else None}

    def draw_walk(self, subject: str) -> list[dict[str, Any]]:
        """Draw a stay's way through the hospital, in no order of time."""
        start, places = self.starts[subject], self.rng.choice(PLACES[:8], 5)
        hours = self.rng.choice((-1, 1, 2, 2.5, 3, 10, 23, 24, 25, 30, 40, 80), 5)
        return [
            {"hospitalization_id": subject, "in_dttm": start + timedelta(hours=hour), "location_category": str(place)}
            for hour, place in zip(hours.tolist(), places, strict=True)
        ]

    def make_optional(self) -> dict[str, list[dict[str, Any]]]:
        number = lambda *values: {"crrt_mode_category": self.pick("CVVH", None), **values[0]}  # noqa: E731
        return {
            "code_status": self.make_rows(
                60, lambda: {"code_status_category": self.pick("Full", "DNR/DNI", None)}, "start_dttm", is_patient=True
            ),
            "medication_admin_intermittent": self.make_rows(
                60,
                lambda: {**self.draw_dose(), "mar_action_category": self.pick("given", "Not Given", None)},
                "admin_dttm",
            ),
            "crrt_therapy": self.make_rows(
                40,
                lambda: number({"blood_flow_rate": self.pick(None, 200.0), "ultrafiltration_out": self.draw_value()}),
            ),
            "hospital_diagnosis": self.make_rows(60, lambda: {"diagnosis_code": self.pick("I21.4", "J96", None)}, None),
        }

    def make_tables(self) -> dict[str, list[dict[str, Any]]]:
        races = ("White", "Black", None)
        tables = {
            "hospitalization": self.stays,
            "patient": [
                {"patient_id": f"P{k}", "race_category": self.pick(*races), "sex_category": self.pick("Male", "Female")}
                for k in range(13)
            ],
            "adt": self.make_rows(60, lambda: {"location_category": self.pick(*PLACES)}, "in_dttm"),
            "labs": self.make_rows(250, self.draw_lab, "lab_result_dttm"),
            "vitals": self.make_rows(
                150,
                lambda: {"vital_category": self.pick("sbp", "map", "one"), "vital_value": self.draw_value()},
            ),
            "medication_admin_continuous": self.make_rows(90, self.draw_dose, "admin_dttm"),
            "patient_assessments": self.make_rows(150, self.draw_assessment),
            "respiratory_support": self.make_rows(60, self.draw_ventilation),
            "position": self.make_rows(20, lambda: {"position_category": self.pick("prone", "Prone ", "no", None)}),
        }
        # Drawn last, so that what came before it stayed as it was.
        optional = {table: rows for table, rows in self.make_optional().items() if self.rng.random() < 0.7}
        tables["patient"] = [row | self.draw_death(row["patient_id"]) for row in tables["patient"]]
        tables["adt"] += [row for subject in self.starts if self.rng.random() < 0.5 for row in self.draw_walk(subject)]
        return tables | optional


def write_random_clif(directory: Path, seed: int) -> Path:
    """Write a folder full of ties, nulls, NaN, odd spellings, strangers, minors and times on the edge."""
    leave_out = ["position"] if seed % 3 == 0 else []
    return write_tiny_clif(directory, leave_out=leave_out, **Maker(seed).make_tables())


def draw_settings(seed: int) -> dict[str, Any]:
    """Return the recommended settings with a random choice of every one that decides about tokens or stays."""
    rng = np.random.default_rng([seed, 1])

    def pick(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    settings = yaml.safe_load(RECOMMENDED.read_text())
    settings |= {
        "normalize": pick("snake_case", "snake_case", "lower", "none"),
        "num_bins": pick(2, 4, 10),
        "token_style": pick("separate", "fused"),
        "gap_minutes": pick([], [0.5, 60, 1440], [60]),
        "clock_hours": pick(0, 6, 24),
        "clock_offset_hours": pick(0.0, -5.0, 5.5),
        "bin_without_edges": pick("unknown", "last"),
        "learn_from_untimed": pick(False, True),
        "missing_category": pick("missing", "None"),
        "keep_without_events": pick(False, True),
        "keep_without_patient": pick(False, True),
        "length_filter": pick("stay", "timeline"),
        "min_length_of_stay_hours": pick(0, 24),
        "admission_window": pick(None, ["2150-01-01", "2150-01-09T12:00"]),
        "window": {"length_hours": pick(24, 2.5), "is_end_closed": pick(False, True)},
        "unit_rules": [rule for rule in UNIT_RULES if rng.random() < 0.5],
        "edge_time_sources": pick(None, None, ["labs", "vitals"]),
        "death_follow_up_days": pick(None, 0, 20, 365),
    }
    settings["window"]["origin"] = pick("admission", "first_event")
    sources = {source["name"]: source for source in settings["sources"]}
    sources["labs"]["ranges"] = [one for one in RANGES if rng.random() < 0.5]
    sources["vitals"] |= {"ranges": [], "value_token": pick("{value}", "{category}:{value}")}
    sources["adt"]["null_category"] = pick("keep", "drop")
    sources["assessments_categorical"]["normalize_value"] = pick(None, "lower")
    if rng.random() < 0.3:
        is_named = {"column": "lab_category", "fallback_column": "lab_name", "is_null": False}
        sources["labs"] |= {"keep_if": [is_named], "null_category": "keep"}
    if settings["edge_time_sources"] is None:
        settings["sources"].append(DIAGNOSES)
    return copy.deepcopy(settings)


RANGES = [
    {"category": "sodium", "low": -0.5, "high": 1.5},
    {"category": "glucose", "low": 0.5, "action": "clip"},
    {"category": "bun", "unit": "G", "low": 0, "high": 5, "action": "keep"},
    {"category": "bun", "high": 0.9},
    {"category": "WBC", "unit": "mmol/l", "low": 0, "high": 5, "action": "clip"},
]
UNIT_RULES = [
    {"source": "labs", "category": "Sodium", "unit": "g", "new_unit": "mg", "factor": 1000.0},
    {"source": "labs", "unit": None, "new_unit": "Count"},
    {"source": "labs", "unit": "MMOL/L", "new_unit": "g", "factor": 0.5, "offset": 1.0},
    {"source": "vitals", "category": "sbp", "unit": None, "new_unit": "mmHg", "offset": 0.25},
    {"source": "medications", "unit": "ml", "new_unit": "g", "factor": 2.0},
]
DIAGNOSES = {
    "name": "diagnoses",
    "table": "hospital_diagnosis",
    "time_column": None,
    "category_column": "diagnosis_code",
    "token": "DIAGNOSIS_{category}",
}


def build_config(settings: dict[str, Any], **more: Any) -> TokenizeConfig:
    """Return settings of a YAML file as the stage's config, without the second that its parser takes."""
    settings = {**settings, "output_dir": "unused", **more}
    sources = [
        EventSource(
            **source
            | {"keep_if": [Condition(**one) for one in source.get("keep_if", [])]}
            | {"ranges": [ValueRange(**one) for one in source.get("ranges", [])]}
        )
        for source in settings["sources"]
    ]
    edges = {name: [EdgeToken(**e) for e in settings[name]] for name in ("static_tokens", "discharge_tokens")}
    rules = [UnitRule(**rule) for rule in settings["unit_rules"]]
    window = WindowConfig(**settings["window"])
    return TokenizeConfig(**settings | edges | {"sources": sources, "unit_rules": rules, "window": window})
