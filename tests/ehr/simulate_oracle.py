"""The truths of the simulator, found again from its tables: loops, one stay at a time, none of its functions.

From clinrep only the numbers are taken: catalog.yaml, the chain's constants, the sites' shifts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from clinrep.ehr.simulate import chain as constants
from clinrep.ehr.simulate.sites import SITES, Site

CATALOG = yaml.safe_load((Path(constants.__file__).with_name("catalog.yaml")).read_text())
PLACES = constants.PLACES
SEVERITIES = range(5)
# table -> columns of time, category, value, what stands for the value where there is none
COLUMNS = {
    "vitals": ("recorded_dttm", "vital_category", "vital_value", "vital_value"),
    "labs": ("lab_result_dttm", "lab_category", "lab_value_numeric", "lab_value"),
    "patient_assessments": ("recorded_dttm", "assessment_category", "numerical_value", "categorical_value"),
    "medication_admin_continuous": ("admin_dttm", "med_category", "med_dose", "med_dose"),
    "medication_admin_intermittent": ("admin_dttm", "med_category", "med_dose", "med_dose"),
}


def read_tables(directory: Path) -> dict[str, pl.DataFrame]:
    """Return the CLIF tables of a folder by name."""
    return {path.stem.removeprefix("clif_"): pl.read_parquet(path) for path in directory.glob("clif_*.parquet")}


def label_from_tables(tables: Mapping[str, pl.DataFrame]) -> dict[tuple[str, str], bool | None]:
    """Return (stay, outcome) -> label by the definitions in words of ehr/outcomes.py."""
    labels: dict[tuple[str, str], bool | None] = {}
    adt, devices = tables["adt"], tables["respiratory_support"]
    icu = adt.filter(pl.col("location_category") == "icu").group_by("hospitalization_id").agg(pl.col("in_dttm").min())
    imv = devices.filter(pl.col("device_category") == "IMV")
    imv = imv.group_by("hospitalization_id").agg(pl.col("recorded_dttm").min())
    first = {"icu_admission": dict(icu.iter_rows()), "imv_event": dict(imv.iter_rows())}
    for row in tables["hospitalization"].iter_rows(named=True):
        stay, start, end = row["hospitalization_id"], row["admission_dttm"], row["discharge_dttm"]
        is_over = hours_between(start, end) < 24
        labels[stay, "in_hospital_death"] = None if is_over else row["discharge_category"] == "Expired"
        labels[stay, "long_length_of_stay"] = None if is_over else hours_between(start, end) > 168
        for outcome, times in first.items():
            time = times.get(stay)
            is_seen = time is not None and hours_between(start, time) < 24
            labels[stay, outcome] = None if is_over or is_seen else time is not None
    return labels


def hours_between(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds() / 3600


class StayOracle:
    """What the first 24 h of one stay show, and what follows from it."""

    def __init__(self, tables: Mapping[str, pl.DataFrame], stay: str, site: str) -> None:
        self.site: Site = SITES[site]
        is_stay = pl.col("hospitalization_id") == stay
        self.rows = {
            name: frame.filter(is_stay).to_dicts()
            for name, frame in tables.items()
            if "hospitalization_id" in frame.columns
        }
        (self.stay,) = self.rows["hospitalization"]
        self.admission = self.stay["admission_dttm"]
        is_patient = pl.col("patient_id") == self.stay["patient_id"]
        self.sex = tables["patient"].filter(is_patient)["sex_category"].item()
        self.places = self._find_places()
        self.step = self._make_transition()

    def hour(self, time: datetime) -> int:
        return math.floor(hours_between(self.admission, time))

    def _find_places(self) -> list[str]:
        """Return the place in each of the hours 0 to 23: locations from adt, ventilation from device rows."""
        moves = {self.hour(row["in_dttm"]): row["location_category"] for row in self.rows["adt"]}
        devices = {self.hour(row["recorded_dttm"]): row["device_category"] for row in self.rows["respiratory_support"]}
        places, location, is_ventilated = [], "", False
        for hour in range(24):
            location = moves.get(hour, location)
            if hour in devices:
                is_ventilated = devices[hour] == "IMV"
            places.append("icu_imv" if is_ventilated else location)
            assert not is_ventilated or location == "icu"
        return places

    def _kind(self) -> str:
        name = self.stay["admission_type_name"]
        if name in ("EW EMER.", "URGENT", "DIRECT EMER."):
            return "emergency"
        return "elective" if name in ("ELECTIVE", "SURGICAL SAME DAY ADMISSION") else "observation"

    def _make_transition(self) -> dict[tuple[int, str], dict[Any, float]]:
        """Return (severity, place) -> {(severity, place), 'alive' or 'dead': probability}, from the docstring."""
        age = self.stay["age_at_admission"]
        age_group = (age >= 50) + (age >= 65) + (age >= 80)
        kind = self._kind()
        table = {}
        for s in SEVERITIES:
            worse = constants._WORSEN[s] * constants._AGE_WORSEN[age_group] * constants._SEX_WORSEN[self.sex]
            better = constants._RECOVER[s] * constants._AGE_RECOVER[age_group] * constants._ADMISSION_RECOVER[kind]
            steps = {s + 1: worse, s - 1: better, s: 1 - worse - better}
            dies = constants._DIE[s] * constants._AGE_DIE[age_group]
            for c, place in enumerate(PLACES):
                leaves = constants._DISCHARGE[c][s]
                moves = {PLACES[end]: p[s] for (start, end), p in constants._MOVE.items() if start == c}
                moves[place] = 1 - sum(moves.values())
                ends: dict[Any, float] = {"alive": leaves, "dead": dies}
                for severity, p in steps.items():
                    for other, q in moves.items():
                        if 0 <= severity <= 4:
                            ends[severity, other] = (1 - leaves - dies) * p * q
                table[s, place] = ends
        return table

    def _first_belief(self) -> dict[tuple[int, str], float]:
        kind, shift = self._kind(), self.site.case_mix.severity_shift
        odds = [p * math.exp(shift * s) for s, p in enumerate(constants._FIRST_SEVERITY[kind])]
        places = dict(zip(PLACES, constants._FIRST_PLACE[kind], strict=True))
        return {(s, c): odds[s] / sum(odds) * places[c] for s in SEVERITIES for c in PLACES}

    def _likelihood(self, hour: int, severity: int) -> float:
        """Return the probability of everything that this hour shows, given severity and place."""
        place = PLACES.index(self.places[hour])
        before = self.places[hour - 1] if hour else ""
        total = 1.0
        for panel in CATALOG:
            channels = [channel for channel in panel["channels"] if channel["category"] not in self.site.missing]
            if not channels or panel["table"] not in self.rows:
                continue
            if panel.get("is_first_hour_only") and hour:
                continue
            rate = panel["rates"][place] * self.site.charting_factor
            chance = min(0.95, rate * panel.get("growth", 1) ** severity)
            values = self._find_values(panel, channels, hour)
            is_ventilated, was_ventilated = self.places[hour] == "icu_imv", before == "icu_imv"
            begins, ends = is_ventilated and not was_ventilated, was_ventilated and not is_ventilated
            is_forced = {"intubation": begins, "extubation": ends, None: False}[panel.get("always_at")]
            assert values is not None or not is_forced
            if not is_forced:
                total *= 1 - chance if values is None else chance
            for channel, value in zip(channels, values or (), strict=False):
                total *= self._mass(channel, value, severity)
        return total

    def _find_values(self, panel: Any, channels: Any, hour: int) -> list[Any] | None:
        """Return what a panel shows in an hour, a value for each channel, or None where it was not charted."""
        if panel["name"] in ("gcs", "rass", "oxygen") and self.places[hour] == "icu_imv":
            return None
        if panel["name"] in ("gcs_ventilated", "rass_ventilated", "ventilator") and self.places[hour] != "icu_imv":
            return None
        if panel["table"] in ("respiratory_support", "position"):
            rows = [row for row in self.rows[panel["table"]] if self.hour(row["recorded_dttm"]) == hour]
            if not rows:
                return None
            (row,) = rows
            return [row[c["category"].replace("position_category", "position_name")] for c in channels]
        time, category, number, text = COLUMNS[panel["table"]]
        rows = [row for row in self.rows[panel["table"]] if self.hour(row[time]) == hour]
        rows = [row for row in rows if row.get("mar_action_name") != "Stopped"]
        found = {row[category]: row[text] if row[number] is None else row[number] for row in rows}
        if not any(channel["category"] in found for channel in channels):
            return None
        return [found[channel["category"]] for channel in channels]

    def _mass(self, channel: Any, value: Any, severity: int) -> float:
        """Return the probability of the cell that a written value stands for."""
        factor, offset, step = 1.0, 0.0, channel.get("step", 1)
        low, high = channel["low"], channel["high"]
        if channel["category"] in self.site.conversions:
            conversion = self.site.conversions[channel["category"]]
            factor, offset, step = conversion.factor, conversion.offset, conversion.step
            low, high = (round((end * factor + offset) / step) * step for end in (low, high))
            low = max(low, step) if channel.get("is_log") else low
        if isinstance(value, str) and channel.get("words"):
            words = channel["texts"] if channel["category"] == "position_category" else channel["words"]
            value = low + words.index(value)
        edges = [-math.inf if value < low + step / 4 else value - step / 2,
                 math.inf if value > high - step / 4 else value + step / 2]  # fmt: skip
        below = []
        for edge in edges:
            original = (edge - offset) / factor
            if math.isinf(original):
                below.append(float(original > 0))
            elif channel.get("is_log"):
                median = channel["center"] * channel["slope"] ** severity
                below.append(_normal_cdf(math.log(original / median) / channel["spread"]))
            else:
                mean = channel["center"] + channel["slope"] * severity
                below.append(_normal_cdf((original - mean) / channel["spread"]))
        return below[1] - below[0]

    def filter(self) -> dict[tuple[int, str], float]:
        """Return the probability of each (severity, place) in hour 23."""
        belief = self._first_belief()
        for hour in range(24):
            if hour:
                belief = self._push(belief)
            belief = {
                state: p * self._likelihood(hour, state[0]) if state[1] == self.places[hour] else 0.0
                for state, p in belief.items()
                if state not in ("alive", "dead")
            }
            total = sum(belief.values())
            belief = {state: p / total for state, p in belief.items()}
        return belief

    def _push(self, belief: Mapping[Any, float]) -> dict[Any, float]:
        after: dict[Any, float] = {}
        for state, p in belief.items():
            for end, q in self.step.get(state, {}).items():
                after[end] = after.get(end, 0.0) + p * q
        return after

    def predict(self, belief: Mapping[Any, float]) -> dict[str, float]:
        """Return the probability of each outcome, by following the belief hour by hour until nobody is left."""
        states = [*self.step, "alive", "dead"]
        start = np.array([belief.get(state, 0.0) for state in states])
        forever = 1 << 14  # hours; nobody stays that long
        result = {"in_hospital_death": (start @ self._power(states, (), forever))[-1]}
        for outcome, targets in (("icu_admission", ("icu", "icu_imv")), ("imv_event", ("icu_imv",))):
            ends = start @ self._power(states, targets, forever)
            result[outcome] = sum(p for state, p in zip(states, ends, strict=True) if state[1] in targets)
        # in hospital in hour 167, and in hour 168
        inside = [(start @ self._power(states, (), num_hours))[:-2].sum() for num_hours in (144, 145)]
        result["long_length_of_stay"] = inside[1] + (inside[0] - inside[1]) * 59 / 60
        return result

    def _power(self, states: list[Any], targets: tuple[str, ...], num_hours: int) -> np.ndarray:
        """Return the probabilities from state to state over these hours; whoever reaches a target stays there."""
        matrix = np.eye(len(states))
        for row, state in enumerate(states):
            if state in self.step and state[1] not in targets:
                matrix[row] = [self.step[state].get(end, 0.0) for end in states]
        return np.linalg.matrix_power(matrix, num_hours)


def _normal_cdf(score: float) -> float:
    return math.erfc(-score / math.sqrt(2)) / 2
