"""The sections of the report, in its order: one entry each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from clinrep.analysis.alarms import build_alarm_section
from clinrep.analysis.anomaly_cohort_tables import build_anomaly_cohort_section
from clinrep.analysis.cohort_tables import build_cohort_section, build_exclusion_section, build_outcome_section
from clinrep.analysis.comparisons import build_comparison_section
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.curves import build_curve_section
from clinrep.analysis.decision_curves import build_decision_section
from clinrep.analysis.embeddings import build_embedding_section
from clinrep.analysis.flow import build_flow_section
from clinrep.analysis.leaks import build_leakage_section
from clinrep.analysis.local_fine_tuning import build_local_section
from clinrep.analysis.maps import build_map_section
from clinrep.analysis.model_card import build_model_card_section
from clinrep.analysis.performance import build_performance_section
from clinrep.analysis.published_section import build_published_section
from clinrep.analysis.recalibrated import build_recalibration_section
from clinrep.analysis.risk_figure import build_risk_section
from clinrep.analysis.study import Section, Study
from clinrep.analysis.subgroup_tables import build_subgroup_section
from clinrep.analysis.suppression import protect_table
from clinrep.analysis.timeline_page import build_timelines_section
from clinrep.analysis.trajectory_models import build_trajectory_section
from clinrep.analysis.transfer_table import build_transfer_section
from clinrep.analysis.tripod import build_tripod_section
from clinrep.config import lookup
from clinrep.run import show_progress

# anchor on the page -> what makes it
SECTIONS: dict[str, Callable[[Study], Section]] = {
    "cohort": build_cohort_section,
    "flow": build_flow_section,
    "exclusions": build_exclusion_section,
    "outcomes": build_outcome_section,
    "leakage": build_leakage_section,
    "cohort_by_anomaly": build_anomaly_cohort_section,
    "performance": build_performance_section,
    "comparisons": build_comparison_section,
    "curves": build_curve_section,
    "alarms": build_alarm_section,
    "decision_curves": build_decision_section,
    "subgroups": build_subgroup_section,
    "transfer_table": build_transfer_section,
    "recalibration": build_recalibration_section,
    "local_fine_tuning": build_local_section,
    "risk_over_time": build_risk_section,
    "trajectories": build_trajectory_section,
    "embeddings": build_embedding_section,
    "maps": build_map_section,
    "timelines": build_timelines_section,
    "published": build_published_section,
    "model_card": build_model_card_section,
    "tripod": build_tripod_section,
}


def choose_sections(config: AnalyzeConfig) -> list[str]:
    """Return the names of the sections to make, in the order of `SECTIONS`; an unknown one is an InputError."""
    wanted = {name: lookup(SECTIONS, name, "section") for name in config.sections or SECTIONS}
    return [name for name in SECTIONS if name in wanted]


def build_sections(study: Study) -> list[Section]:
    """Return the sections that the settings ask for, small cells hidden; figures are drawn into the run directory."""
    sections = []
    for name in show_progress(choose_sections(study.config), study.config, "sections"):
        section = SECTIONS[name](study)
        tables = [protect_table(table, study.config.min_cell_count) for table in section.tables]
        sections.append(replace(section, tables=tables))
    return sections
