"""The CLIF tables with one row per patient, stay, move or device check."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from clinrep.ehr.simulate.chain import ADMISSIONS, ICU, IMV, PLACES, SEXES
from clinrep.ehr.simulate.charts import MINUTES_PER_HOUR, Chart
from clinrep.ehr.simulate.columns import Shard, finish_table, write_numbers, write_texts, write_times
from clinrep.ehr.simulate.signals import make_grid

_RACES = (  # share, race_name, race_category, ethnicity_name, ethnicity_category
    (0.62, "WHITE", "White", "WHITE", "Non-Hispanic"),
    (0.16, "BLACK/AFRICAN AMERICAN", "Black or African American", "BLACK/AFRICAN AMERICAN", "Non-Hispanic"),
    (0.05, "ASIAN", "Asian", "ASIAN", "Non-Hispanic"),
    (0.07, "HISPANIC OR LATINO", "Other", "HISPANIC OR LATINO", "Hispanic"),
    (0.10, "UNKNOWN", "Unknown", "UNKNOWN", "Unknown"),
)
_ADMISSION_NAMES = (  # kind of admission, share within it, admission_type_name, admission_type_category
    ("emergency", 0.7, "EW EMER.", "ed"),
    ("emergency", 0.2, "URGENT", "ed"),
    ("emergency", 0.1, "DIRECT EMER.", "ed"),
    ("elective", 0.6, "SURGICAL SAME DAY ADMISSION", "elective"),
    ("elective", 0.4, "ELECTIVE", "elective"),
    ("observation", 0.5, "OBSERVATION ADMIT", "ed"),
    ("observation", 0.4, "EU OBSERVATION", "ed"),
    ("observation", 0.1, "DIRECT OBSERVATION", "direct"),
)
_DISCHARGES = (  # share below 65 years, share from 65, discharge_name, discharge_category
    (0.48, 0.27, "HOME", "Home"),
    (0.27, 0.28, "HOME HEALTH CARE", "Home"),
    (0.07, 0.25, "SKILLED NURSING FACILITY", "Skilled Nursing Facility (SNF)"),
    (0.05, 0.07, "REHAB", "Acute Inpatient Rehab Facility"),
    (0.02, 0.04, "CHRONIC/LONG TERM ACUTE CARE", "Long Term Care Hospital (LTACH)"),
    (0.01, 0.03, "HOSPICE", "Hospice"),
    (0.03, 0.01, "AGAINST ADVICE", "Against Medical Advice (AMA)"),
    (0.07, 0.05, None, "Missing"),
)
_LOCATIONS = (  # place, location_name, location_category, location_type; equally frequent within a place
    ("ed", "Emergency Department", "ed", None),
    ("ward", "Medicine", "ward", None),
    ("ward", "Med/Surg", "ward", None),
    ("ward", "Neurology", "ward", None),
    ("ward", "Cardiac Surgery", "ward", None),
    ("ward", "Vascular", "ward", None),
    ("stepdown", "Medicine/Cardiology Intermediate", "stepdown", None),
    ("stepdown", "Neuro Stepdown", "stepdown", None),
    ("icu", "Medical Intensive Care Unit (MICU)", "icu", "medical_icu"),
    ("icu", "Surgical Intensive Care Unit (SICU)", "icu", "surgical_icu"),
    ("icu", "Cardiac Vascular Intensive Care Unit (CVICU)", "icu", "cvicu_icu"),
    ("icu", "Coronary Care Unit (CCU)", "icu", "cardiac_icu"),
)


def _choose(shares: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return one column number per row of shares (N, K), which need not sum to 1."""
    cumulative = np.cumsum(shares, axis=1)
    drawn: np.ndarray = (generator.random(len(shares))[:, None] * cumulative[:, -1:] >= cumulative).sum(axis=1)
    return drawn


def make_patients(shard: Shard) -> pa.Table:
    """Return table patient; race and ethnicity go with nothing else."""
    stays = shard.stays
    _, first = np.unique(stays.patient, return_index=True)
    last = np.append(first[1:], len(stays.patient)) - 1
    shares = np.tile([row[0] for row in _RACES], (len(first), 1))
    race = _choose(shares, shard.make_generator("patients"))
    sex, nothing = shard.arrivals.sexes[first], np.zeros(len(first), dtype=np.int64)
    names = ("race_name", "race_category", "ethnicity_name", "ethnicity_category")
    columns = {
        "patient_id": pa.array(shard.patient_ids, pa.string()),
        **{name: write_texts([str(row[i]) for row in _RACES], race) for i, name in enumerate(names, 1)},
        "sex_name": write_texts([name[0] for name in SEXES], sex),
        "sex_category": write_texts(SEXES, sex),
        "death_dttm": write_times(stays.discharge[last], is_null=~shard.course.has_died[last]),
        "language_name": write_texts(["ENGLISH"], nothing),
        "language_category": write_texts(["Unknown or NA"], nothing),
    }
    return finish_table("patient", columns)


def make_hospitalizations(shard: Shard) -> pa.Table:
    """Return table hospitalization; where a survivor goes depends on age alone."""
    arrivals, generator = shard.arrivals, shard.make_generator("hospitalizations")
    kinds = np.array([ADMISSIONS.index(row[0]) for row in _ADMISSION_NAMES])
    shares = np.array([row[1] for row in _ADMISSION_NAMES])
    admission = _choose(np.where(kinds == arrivals.admissions[:, None], shares, 0), generator)
    by_age = np.array([row[:2] for row in _DISCHARGES], dtype=float).T
    discharge = _choose(by_age[(arrivals.ages >= 65).astype(int)], generator)
    discharge[shard.course.has_died] = len(_DISCHARGES)
    columns = {
        "patient_id": write_texts(shard.patient_ids, shard.stays.patient),
        "hospitalization_id": pa.array(shard.stay_ids, pa.string()),
        "admission_dttm": write_times(shard.stays.admission),
        "discharge_dttm": write_times(shard.stays.discharge),
        "age_at_admission": pa.array(arrivals.ages),
        "admission_type_name": write_texts([row[2] for row in _ADMISSION_NAMES], admission),
        "admission_type_category": write_texts([row[3] for row in _ADMISSION_NAMES], admission),
        "discharge_name": write_texts([*[row[2] for row in _DISCHARGES], "DIED"], discharge),
        "discharge_category": write_texts([*[row[3] for row in _DISCHARGES], "Expired"], discharge),
    }
    return finish_table("hospitalization", columns)


def make_adt(shard: Shard) -> pa.Table:
    """Return table adt: a row for each move, and one without a location at discharge, as the sample has it."""
    course, stays, generator = shard.course, shard.stays, shard.make_generator("adt")
    place = np.where(course.place == IMV, ICU, course.place)
    is_move = (course.hour == 0) | np.concatenate([[True], place[1:] != place[:-1]])
    position = np.flatnonzero(is_move)
    hour, minutes = course.hour[position], generator.integers(MINUTES_PER_HOUR, size=len(position))
    start = stays.admission[course.stay[position]] + np.where(hour == 0, 0, MINUTES_PER_HOUR * hour + minutes)
    codes = np.array([PLACES.index(row[0]) for row in _LOCATIONS])
    location = _choose((codes == place[position][:, None]).astype(float), generator)
    # the stable sort puts the discharges, with a code beyond the last location, behind each stay's moves
    stay = np.concatenate([course.stay[position], np.arange(len(course.hours))])
    order = np.argsort(stay, kind="stable")
    stay, start = stay[order], np.concatenate([start, stays.discharge])[order]
    location = np.concatenate([location, np.full(len(course.hours), len(_LOCATIONS))])[order]
    names = [*[row[1:] for row in _LOCATIONS], (None, None, None)]
    columns = {
        "patient_id": write_texts(shard.patient_ids, stays.patient[stay]),
        "hospitalization_id": write_texts(shard.stay_ids, stay),
        "in_dttm": write_times(start),
        "out_dttm": write_times(np.append(start[1:], 0), is_null=location == len(_LOCATIONS)),
        "location_name": write_texts([row[0] for row in names], location),
        "location_category": write_texts([row[1] for row in names], location),
        "location_type": write_texts([row[2] for row in names], location),
    }
    return finish_table("adt", columns)


def make_respiratory_support(shard: Shard) -> pa.Table:
    """Return table respiratory_support."""
    columns = _make_checks(shard, "respiratory_support")
    columns["tracheostomy"] = pa.array(np.zeros(len(columns["recorded_dttm"]), dtype=bool))
    return finish_table("respiratory_support", columns)


def make_positions(shard: Shard) -> pa.Table:
    """Return table position."""
    return finish_table("position", _make_checks(shard, "position"))


def _make_checks(shard: Shard, table: str) -> dict[str, pa.Array]:
    """Return one row each time a panel was charted, with a column for each channel of any of them."""
    charts = shard.select(table)
    stay = np.concatenate([shard.course.stay[chart.position] for chart in charts])
    minute = np.concatenate([chart.minute for chart in charts])
    order = np.lexsort((minute, stay))
    columns = {
        "hospitalization_id": write_texts(shard.stay_ids, stay[order]),
        "recorded_dttm": write_times(shard.stays.admission[stay[order]] + minute[order]),
    }
    for category in dict.fromkeys(channel.category for chart in charts for channel in chart.panel.channels):
        parts = [_write_check(chart, category) for chart in charts]
        columns |= {name: pa.concat_arrays([part[name] for part in parts]).take(pa.array(order)) for name in parts[0]}
    return columns


def _write_check(chart: Chart, category: str) -> dict[str, pa.Array]:
    """Return the column of one channel, or those of its words and their local names; null where the panel has none."""
    found = [pair for pair in zip(chart.panel.channels, chart.cells, strict=True) if pair[0].category == category]
    if category.endswith("_category"):
        lists = {category: "words", category.replace("_category", "_name"): "texts"}
        if not found:
            return {name: pa.nulls(len(chart.position), pa.string()) for name in lists}
        channel, cells = found[0]
        return {name: write_texts(getattr(channel, attribute), cells) for name, attribute in lists.items()}
    if not found:
        return {category: pa.nulls(len(chart.position), pa.float64())}
    channel, cells = found[0]
    return {category: write_numbers(make_grid(channel)[cells])}
