"""Hospital records in CLIF format: what they supply to the five stages."""

from clinrep.modality import Modality, lazy

MODALITY = Modality(
    name="ehr",
    config_classes={
        "00_tokenize": "clinrep.ehr.configs.tokenize:TokenizeConfig",
        "01_pretrain": "clinrep.ehr.configs.pretrain:PretrainConfig",
        "02_finetune": "clinrep.ehr.configs.finetune:FinetuneConfig",
        "03_extract_reps": "clinrep.ehr.configs.extract:ExtractConfig",
        "04_analyze": "clinrep.analysis.config:AnalyzeConfig",
    },
    open_source=lazy("clinrep.ehr.tokenize:open_source"),
    read_cohort=lazy("clinrep.ehr.tokenize:read_cohort"),
    split_patients=lazy("clinrep.ehr.tokenize:split_patients"),
    read_events=lazy("clinrep.ehr.tokenize:read_events"),
    tokenize=lazy("clinrep.ehr.tokenize:tokenize"),
    iterate_parts=lazy("clinrep.ehr.tokenize:iterate_parts"),
    report_site=lazy("clinrep.ehr.second_site:report_site"),
    audit_timelines=lazy("clinrep.ehr.leakage.audit:audit_timelines"),
    load_blocks=lazy("clinrep.ehr.blocks:load_blocks"),
    build_language_model=lazy("clinrep.ehr.models:build_language_model"),
    load_sequences=lazy("clinrep.ehr.sequences:load_sequences"),
    load_classifier=lazy("clinrep.ehr.models:load_classifier"),
    load_encoder=lazy("clinrep.ehr.models:load_encoder"),
    load_frozen_language_model=lazy("clinrep.ehr.models:load_frozen_language_model"),
    read_questions=lazy("clinrep.ehr.zero_shot:read_questions"),
    audit_outputs=lazy("clinrep.ehr.leakage.audit:audit_outputs"),
    read_stay_inputs=lazy("clinrep.ehr.baselines:read_stay_inputs"),
    describe_question=lazy("clinrep.ehr.outcomes:describe_question"),
    audit_sites=lazy("clinrep.ehr.leakage.audit:audit_sites"),
    export_tokenizer=lazy("clinrep.ehr.tokenizer_export:export_tokenizer"),
)
