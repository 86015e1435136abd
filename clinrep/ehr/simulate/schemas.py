"""Columns and types of the CLIF 2.0 tables, as in sample_data/clif_demo, all-null columns included."""

from __future__ import annotations

import pyarrow as pa

TEXT, NUMBER, NOTHING = pa.string(), pa.float64(), pa.null()
TIME = pa.timestamp("us", tz="UTC")

_DOSES = pa.schema(
    {
        "hospitalization_id": TEXT,
        "med_order_id": TEXT,
        "admin_dttm": TIME,
        **dict.fromkeys(("med_name", "med_category", "med_group"), TEXT),
        **dict.fromkeys(("med_route_name", "med_route_category", "med_dose"), NUMBER),
        "med_dose_unit": TEXT,
        "mar_action_name": TEXT,
        "mar_action_category": NUMBER,
    }
)
_SETTINGS = (
    *("fio2_set", "lpm_set", "tidal_volume_set", "resp_rate_set", "pressure_control_set", "pressure_support_set"),
    *("flow_rate_set", "peak_inspiratory_pressure_set", "inspiratory_time_set", "peep_set", "tidal_volume_obs"),
    *("resp_rate_obs", "plateau_pressure_obs", "peak_inspiratory_pressure_obs", "peep_obs", "minute_vent_obs"),
    "mean_airway_pressure_obs",
)
SCHEMAS = {
    "patient": pa.schema(
        {
            "patient_id": TEXT,
            **dict.fromkeys(("race_name", "race_category", "ethnicity_name", "ethnicity_category"), TEXT),
            "sex_name": TEXT,
            "sex_category": TEXT,
            "birth_date": pa.timestamp("us"),
            "death_dttm": TIME,
            "language_name": TEXT,
            "language_category": TEXT,
        }
    ),
    "hospitalization": pa.schema(
        {
            "patient_id": TEXT,
            "hospitalization_id": TEXT,
            "hospitalization_joined_id": TEXT,
            "admission_dttm": TIME,
            "discharge_dttm": TIME,
            "age_at_admission": pa.int64(),
            **dict.fromkeys(("admission_type_name", "admission_type_category"), TEXT),
            **dict.fromkeys(("discharge_name", "discharge_category"), TEXT),
            **dict.fromkeys(("zipcode_nine_digit", "zipcode_five_digit", "census_block_code"), TEXT),
            **dict.fromkeys(("census_block_group_code", "census_tract", "state_code", "county_code"), TEXT),
        }
    ),
    "adt": pa.schema(
        {
            **dict.fromkeys(("patient_id", "hospitalization_id", "hospital_id"), TEXT),
            "in_dttm": TIME,
            "out_dttm": TIME,
            **dict.fromkeys(("location_name", "location_category", "location_type"), TEXT),
        }
    ),
    "labs": pa.schema(
        {
            "hospitalization_id": TEXT,
            "lab_order_dttm": pa.timestamp("ns", tz="UTC"),
            "lab_collect_dttm": TIME,
            "lab_result_dttm": TIME,
            "lab_order_name": NOTHING,
            "lab_order_category": NOTHING,
            **dict.fromkeys(("lab_name", "lab_category", "lab_value"), TEXT),
            "lab_value_numeric": NUMBER,
            "reference_unit": TEXT,
            **dict.fromkeys(("lab_specimen_name", "lab_specimen_category", "lab_loinc_code"), NOTHING),
        }
    ),
    "vitals": pa.schema(
        {
            "hospitalization_id": TEXT,
            "recorded_dttm": TIME,
            "vital_name": TEXT,
            "vital_category": TEXT,
            "vital_value": NUMBER,
            "meas_site_name": TEXT,
        }
    ),
    "medication_admin_continuous": _DOSES,
    "medication_admin_intermittent": _DOSES,  # not in the sample; CLIF 2.0 gives it the same columns
    "patient_assessments": pa.schema(
        {
            "hospitalization_id": TEXT,
            "recorded_dttm": TIME,
            **dict.fromkeys(("assessment_name", "assessment_category", "assessment_group"), TEXT),
            "numerical_value": NUMBER,
            "categorical_value": TEXT,
            "text_value": TEXT,
        }
    ),
    "respiratory_support": pa.schema(
        {
            "hospitalization_id": TEXT,
            "recorded_dttm": TIME,
            **dict.fromkeys(("device_name", "device_category", "vent_brand_name", "mode_name", "mode_category"), TEXT),
            "tracheostomy": pa.bool_(),
            **dict.fromkeys(_SETTINGS, NUMBER),
        }
    ),
    "position": pa.schema(
        {"hospitalization_id": TEXT, "recorded_dttm": TIME, "position_name": TEXT, "position_category": TEXT}
    ),
}
TRUTH_SCHEMA = pa.schema(
    {
        "subject_id": TEXT,
        "outcome": TEXT,
        "label": pa.bool_(),
        "probability_given_state": NUMBER,
        "probability_given_tables": NUMBER,
        "severity": pa.int8(),
        "place": TEXT,
    }
)
