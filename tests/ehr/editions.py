"""The sample rewritten as other editions of CLIF, and as the oddities found in real folders.

A folder is {file stem: table}. Each transformer returns a new folder with the same content; its inverse
gives back what stage 00 reads of the first. The crosswalk is written out here, not taken from clinrep.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import polars as pl

Folder = dict[str, pl.DataFrame]

# What spelling alone does not turn into 3.0; the sample has no fingerstick glucose, 2.1 has both.
CROSSWALK = {
    "discharge_category": {
        "Skilled Nursing Facility (SNF)": "snf",
        "Acute Inpatient Rehab Facility": "acute_ip_rehab",
        "Long Term Care Hospital (LTACH)": "ltach",
        "Acute Care Hospital": "acute_care_hosp",
        "Against Medical Advice (AMA)": "ama",
        "Psychiatric Hospital": "mental_health_hosp",
    },
    "lab_category": {"glucose_serum": "glucose"},
    "device_category": {"High Flow NC": "hfnc"},
    "mode_category": {
        "Assist Control-Volume Control": "acvc",
        "Pressure-Regulated Volume Control": "prvc",
        "Pressure Support/CPAP": "ps_or_cpap",
    },
    "language_category": {"Unknown or NA": "unknown"},
}
# What 3.0 respells by rule alone: the sample's words that are not in lower snake_case.
RESPELLED = {
    "discharge_category": ("Home", "Expired", "Hospice", "Missing"),
    "race_category": ("Black or African American", "Other", "Unknown", "White"),
    "ethnicity_category": ("Hispanic", "Non-Hispanic", "Unknown"),
    "sex_category": ("Female", "Male"),
    "assessment_category": ("RASS",),
    "med_category": ("sodium bicarbonate",),
    "device_category": ("CPAP", "Face Mask", "IMV", "NIPPV", "Nasal Cannula", "Other"),
    "mode_category": ("Other", "Pressure Control", "Volume Support"),
}
COLUMNS_OF_3_0 = {
    "clif_patient": ("language_interpreter",),
    "clif_hospitalization": ("fips_version",),
    "clif_adt": ("hospital_type", "room_id", "bed_id"),
    "clif_labs": ("loinc_version",),
    "clif_vitals": ("measured_dttm",),
    "clif_medication_admin_continuous": ("rx_norm_code", "volume_infusion_rate", "mar_action_group"),
    "clif_patient_assessments": ("documenting_provider_id",),
    "clif_respiratory_support": ("device_id",),
}
_TIME = datetime(2150, 1, 1)
_STRAY = "__index_level_0__"


def read_folder(directory: Path) -> Folder:
    return {path.stem: pl.read_parquet(path) for path in sorted(directory.glob("clif_*.parquet"))}


def write_folder(directory: Path, folder: Folder) -> Path:
    directory.mkdir(parents=True)
    for stem, frame in folder.items():
        frame.write_parquet(directory / f"{stem}.parquet")
    return directory


def round_doses(folder: Folder) -> Folder:
    """Return the folder with doses that Float32 holds exactly, as 2.1 stores them."""
    return folder | {_MEDS: folder[_MEDS].with_columns(pl.col("med_dose").cast(pl.Float32).cast(pl.Float64))}


_MEDS, _LABS, _ADT = "clif_medication_admin_continuous", "clif_labs", "clif_adt"


def to_2_1(folder: Folder) -> Folder:
    made = dict(folder)
    is_other = (pl.col("lab_category") == "glucose_serum") & (pl.int_range(pl.len()) % 2 == 0)
    category = pl.when(is_other).then(pl.lit("glucose_fingerstick")).otherwise("lab_category")
    made[_LABS] = made[_LABS].with_columns(lab_category=category, lab_order_dttm="lab_collect_dttm")
    made[_ADT] = made[_ADT].with_columns(hospital_type=pl.lit("academic"))
    made[_MEDS] = made[_MEDS].with_columns(pl.col("med_dose").cast(pl.Float32), mar_action_group=pl.lit(None))
    respiratory = "clif_respiratory_support"
    made[respiratory] = made[respiratory].with_columns(device_id=pl.lit(None))
    made |= _make_extra_tables(folder)
    return {stem: frame.with_row_index(_STRAY).select(pl.all().exclude(_STRAY), _STRAY) for stem, frame in made.items()}


def from_2_1(folder: Folder) -> Folder:
    extra = set(_make_extra_tables(folder))
    made = {stem: frame.drop(_STRAY) for stem, frame in folder.items() if stem not in extra}
    category = pl.col("lab_category").replace({"glucose_fingerstick": "glucose_serum"})
    made[_LABS] = made[_LABS].with_columns(category)
    made[_ADT] = made[_ADT].drop("hospital_type")
    made[_MEDS] = made[_MEDS].with_columns(pl.col("med_dose").cast(pl.Float64)).drop("mar_action_group")
    return made


def to_3_0(folder: Folder) -> Folder:
    made = {}
    for stem, frame in _replace_words(folder, crosswalk).items():
        nulls = [column for column in frame.columns if frame[column].null_count() == frame.height]
        frame = frame.with_columns(pl.lit(None, dtype=pl.Int32).alias(column) for column in nulls)
        added = [pl.lit(1).alias(column) for column in COLUMNS_OF_3_0.get(stem, ()) if column not in frame.columns]
        frame = frame.with_columns(added)
        made[stem] = frame.select(reversed(frame.columns))
    return made


def from_3_0(folder: Folder) -> Folder:
    def revert(column: str) -> dict[str, str]:
        return {new: old for old, new in crosswalk(column).items()}

    reverted = _replace_words(folder, revert)
    return {stem: frame.drop(COLUMNS_OF_3_0.get(stem, ()), strict=False) for stem, frame in reverted.items()}


def crosswalk(column: str) -> dict[str, str]:
    """Return {word of the sample: word of 3.0} of a column."""
    regular = {word: re.sub(r"[- ]", "_", word.lower()) for word in RESPELLED.get(column, ())}
    return {**regular, **CROSSWALK.get(column, {})}


def to_naive(folder: Folder) -> Folder:
    return _map_times(folder, lambda time: time.dt.replace_time_zone(None))


def from_naive(folder: Folder) -> Folder:
    return _map_times(folder, lambda time: time.dt.replace_time_zone("UTC"))


def to_chicago(folder: Folder) -> Folder:
    return _map_times(from_naive(to_naive(folder)), lambda time: time.dt.convert_time_zone("America/Chicago"))


def from_chicago(folder: Folder) -> Folder:
    return _map_times(folder, lambda time: time.dt.convert_time_zone("UTC"))


def to_ns(folder: Folder) -> Folder:
    return _map_times(folder, lambda time: time.dt.cast_time_unit("ns"))


def from_ns(folder: Folder) -> Folder:
    return _map_times(folder, lambda time: time.dt.cast_time_unit("us"))


def to_singular(folder: Folder) -> Folder:
    """Return the folder with the procedures under the name that some exports give them."""
    return folder | {"clif_patient_procedure": _make_extra_tables(folder)["clif_patient_procedures"]}


def from_singular(folder: Folder) -> Folder:
    return {stem: frame for stem, frame in folder.items() if stem != "clif_patient_procedure"}


def to_untidy(folder: Folder) -> Folder:
    """Return the folder with blanks around every other word, capitals where there were none, tabs in units."""
    made = {}
    is_even = pl.int_range(pl.len()) % 2 == 0
    for stem, frame in folder.items():
        words = [pl.col(column) for column in _get_words(frame)]
        untidy = [
            pl.when(is_even).then(w.str.to_uppercase() + "  ").otherwise(w).alias(w.meta.output_name()) for w in words
        ]
        units = [pl.col(column) + "\t" for column in frame.columns if column.endswith("_unit")]
        made[stem] = frame.with_columns(*untidy, *units)
    return made


def from_untidy(folder: Folder) -> Folder:
    """Return the folder in lower case and stripped: not as it was, but read alike."""
    return {
        stem: frame.with_columns(pl.col(_get_words(frame)).str.strip_chars().str.to_lowercase())
        for stem, frame in folder.items()
    }


def _get_words(frame: pl.DataFrame) -> list[str]:
    return [column for column in frame.columns if column.endswith("_category") and frame.schema[column] == pl.String]


def _replace_words(folder: Folder, find: Callable[[str], Mapping[str, str]]) -> Folder:
    return {
        stem: frame.with_columns(pl.col(column).replace(dict(find(column))) for column in _get_words(frame))
        for stem, frame in folder.items()
    }


def _map_times(folder: Folder, change: Callable[[pl.Expr], pl.Expr]) -> Folder:
    made = {}
    for stem, frame in folder.items():
        times = [column for column, dtype in frame.schema.items() if isinstance(dtype, pl.Datetime)]
        made[stem] = frame.with_columns(change(pl.col(column)) for column in times)
    return made


def _make_extra_tables(folder: Folder) -> Folder:
    """Return the tables that 2.1 has beside the sample's, with a made-up row for the first stay."""
    stay, patient = folder["clif_hospitalization"].select("hospitalization_id", "patient_id").row(0)
    ids, time = {"hospitalization_id": [stay]}, pl.Series([_TIME], dtype=pl.Datetime("us", "UTC"))
    drug = {"med_category": ["vancomycin"], "med_dose": [1000.0], "med_dose_unit": ["mg"]}
    return {
        "clif_medication_admin_intermittent": pl.DataFrame(
            {**ids, "admin_dttm": time, **drug, "mar_action_category": ["given"], "mar_action_name": ["Bolus"]}
        ),
        "clif_crrt_therapy": pl.DataFrame(
            {**ids, "recorded_dttm": time, "crrt_mode_category": ["cvvhdf"], "blood_flow_rate": [9000.0]}
        ),
        "clif_code_status": pl.DataFrame(
            {"patient_id": [patient], "start_dttm": time, "code_status_category": ["DNR/DNI"]}
        ),
        "clif_hospital_diagnosis": pl.DataFrame({**ids, "diagnosis_code": ["I10"], "poa_present": [None]}),
        "clif_patient_procedures": pl.DataFrame({**ids, "procedure_billed_dttm": time, "procedure_code": ["0BH17EZ"]}),
    }
