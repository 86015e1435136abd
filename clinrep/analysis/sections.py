"""The sections of the report, in its order: one entry each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from clinrep.analysis.alarms import build_alarm_section
from clinrep.analysis.cohort_tables import build_cohort_section, build_exclusion_section, build_outcome_section
from clinrep.analysis.comparisons import build_comparison_section
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.curves import build_curve_section
from clinrep.analysis.decision_curves import build_decision_section
from clinrep.analysis.embeddings import build_embedding_section
from clinrep.analysis.performance import build_performance_section
from clinrep.analysis.recalibrated import build_recalibration_section
from clinrep.analysis.study import Section, Study
from clinrep.analysis.subgroup_tables import build_subgroup_section
from clinrep.analysis.suppression import protect_table
from clinrep.config import lookup
from clinrep.run import show_progress

# anchor on the page -> what makes it
SECTIONS: dict[str, Callable[[Study], Section]] = {
    "cohort": build_cohort_section,
    "exclusions": build_exclusion_section,
    "outcomes": build_outcome_section,
    "performance": build_performance_section,
    "comparisons": build_comparison_section,
    "subgroups": build_subgroup_section,
    "recalibration": build_recalibration_section,
    "curves": build_curve_section,
    "alarms": build_alarm_section,
    "decision_curves": build_decision_section,
    "embeddings": build_embedding_section,
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
