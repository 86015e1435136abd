"""Tables of a hand-made CLIF folder: their columns with types and defaults, and frames of rows over these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import polars as pl

T0 = datetime(2150, 1, 1)

Row = Mapping[str, Any]
_TIME = pl.Datetime("us", "UTC")

# Table -> column -> (type, value where a row does not say).
COLUMNS: dict[str, dict[str, tuple[Any, Any]]] = {
    "patient": {
        "patient_id": (pl.String, "P1"),
        "race_category": (pl.String, "White"),
        "ethnicity_category": (pl.String, "Non-Hispanic"),
        "sex_category": (pl.String, "Female"),
    },
    "hospitalization": {
        "hospitalization_id": (pl.String, "H1"),
        "patient_id": (pl.String, "P1"),
        "admission_dttm": (_TIME, T0),
        "discharge_dttm": (_TIME, T0 + timedelta(hours=72)),
        "age_at_admission": (pl.Int64, 60),
        "admission_type_name": (pl.String, "EW EMER."),
        "discharge_category": (pl.String, "Home"),
    },
    "adt": {
        "hospitalization_id": (pl.String, "H1"),
        "in_dttm": (_TIME, T0),
        "location_category": (pl.String, "ward"),
    },
    "labs": {
        "hospitalization_id": (pl.String, "H1"),
        "lab_result_dttm": (_TIME, T0),
        "lab_category": (pl.String, "sodium"),
        "lab_value_numeric": (pl.Float64, 140.0),
        "reference_unit": (pl.String, "mmol/L"),
    },
    "vitals": {
        "hospitalization_id": (pl.String, "H1"),
        "recorded_dttm": (_TIME, T0),
        "vital_category": (pl.String, "heart_rate"),
        "vital_value": (pl.Float64, 80.0),
    },
    "medication_admin_continuous": {
        "hospitalization_id": (pl.String, "H1"),
        "admin_dttm": (_TIME, T0),
        "med_category": (pl.String, "insulin"),
        "med_dose": (pl.Float64, 2.0),
        "med_dose_unit": (pl.String, "units/h"),
    },
    "patient_assessments": {
        "hospitalization_id": (pl.String, "H1"),
        "recorded_dttm": (_TIME, T0),
        "assessment_category": (pl.String, "cam_total"),
        "numerical_value": (pl.Float64, None),
        "categorical_value": (pl.String, None),
    },
    "respiratory_support": {
        "hospitalization_id": (pl.String, "H1"),
        "recorded_dttm": (_TIME, T0),
        "mode_category": (pl.String, None),
        "device_category": (pl.String, None),
    },
    "position": {
        "hospitalization_id": (pl.String, "H1"),
        "recorded_dttm": (_TIME, T0),
        "position_category": (pl.String, "prone"),
    },
}

# Written only where a test gives rows: a folder may lack them.
OPTIONAL: dict[str, dict[str, tuple[Any, Any]]] = {
    "code_status": {
        "patient_id": (pl.String, "P1"),
        "start_dttm": (_TIME, T0),
        "code_status_category": (pl.String, "Full"),
    },
    "medication_admin_intermittent": {
        "hospitalization_id": (pl.String, "H1"),
        "admin_dttm": (_TIME, T0),
        "med_category": (pl.String, "cefazolin"),
        "med_dose": (pl.Float64, 2.0),
        "med_dose_unit": (pl.String, "g"),
    },
    "crrt_therapy": {
        "hospitalization_id": (pl.String, "H1"),
        "recorded_dttm": (_TIME, T0),
        "crrt_mode_category": (pl.String, "cvvh"),
        "blood_flow_rate": (pl.Float64, None),
        "dialysate_flow_rate": (pl.Float64, None),
        "ultrafiltration_out": (pl.Float64, None),
    },
    "hospital_diagnosis": {
        "hospitalization_id": (pl.String, "H1"),
        "diagnosis_code": (pl.String, "I21.4"),
    },
}


def at(hours: float, microseconds: int = 0) -> datetime:
    """Return T0 + hours (+ microseconds); H1 is admitted at T0 unless its row says otherwise."""
    return T0 + timedelta(hours=hours, microseconds=microseconds)


def make_frame(table: str, rows: Sequence[Row], types: Mapping[str, Any] | None = None) -> pl.DataFrame:
    """Return a table of `rows` over the defaults; columns without a default are added, typed by polars."""
    columns = (COLUMNS | OPTIONAL)[table]
    extra = {column for row in rows for column in row} - set(columns)
    data = {c: [row.get(c, default) for row in rows] for c, (_, default) in columns.items()}
    data |= {c: [row.get(c) for row in rows] for c in sorted(extra)}
    schema = {c: dtype for c, (dtype, _) in columns.items()} | dict(types or {})
    return pl.DataFrame({c: pl.Series(c, values, dtype=schema.get(c)) for c, values in data.items()})
