"""What CLIF 3.0 calls otherwise than 2.0 and 2.1 do."""

# Column -> {a 2.x value in lower snake_case: the same value in 3.0}: what spelling alone does not bridge
# (spec/clif_data.md A6). Left alone, because 3.0 has no exact equivalent: med_category albumin (albumin_5
# or albumin_25, by concentration) and oxytocin (removed); mode_category "Blow by" (a device in 3.0);
# lab_specimen_category csf and other (removed).
RENAMES: dict[str, dict[str, str]] = {
    "discharge_category": {
        "skilled_nursing_facility_snf": "snf",
        "acute_inpatient_rehab_facility": "acute_ip_rehab",
        "long_term_care_hospital_ltach": "ltach",
        "acute_care_hospital": "acute_care_hosp",
        "against_medical_advice_ama": "ama",
        "psychiatric_hospital": "mental_health_hosp",
    },
    "lab_category": {"glucose_fingerstick": "glucose", "glucose_serum": "glucose"},
    "lab_specimen_category": {"blood_or_plasma_or_serum": "plasma_blood"},
    "device_category": {"high_flow_nc": "hfnc"},
    "mode_category": {
        "assist_control_volume_control": "acvc",
        "pressure_regulated_volume_control": "prvc",
        "pressure_support_or_cpap": "ps_or_cpap",
    },
    "language_category": {"unknown_or_na": "unknown"},
    "organism_category": {
        "clostridium_difficile": "clostridioides_difficile",
        "staphyloccocus_coagneg": "staphylococcus_coagneg",
    },
}
