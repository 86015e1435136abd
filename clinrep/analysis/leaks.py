"""Section of the report: what the leakage audit found at every site."""

from __future__ import annotations

import polars as pl

from clinrep.analysis.study import Section, Study
from clinrep.analysis.suppression import HIDDEN
from clinrep.analysis.tables import PrintedTable, label_outcome, to_words

LOOKED_FOR = (
    "Every site was looked through for tokens of the first hours that are of the event or after it, or could only be "
    "known after it; for single tokens that predict an outcome nearly perfectly; for patients in two splits; for "
    "statistics of more than train; and for test stays that the models of the training site had learned from. A "
    "certain leak ends a run."
)


def build_leakage_section(study: Study) -> Section:
    """Return what is doubtful, by site, or the words that nothing is."""
    title = "Leakage audit"
    if study.leaks is None:
        return Section("leakage", title, "No audit was made.", inputs=("timelines_dir",))
    if study.leaks.is_empty():
        return Section("leakage", title, f"{LOOKED_FOR} Nothing was found.", inputs=("timelines_dir",))
    numbers = study.leaks.select(
        *("site", "severity", "check"),
        outcome=pl.col("outcome").map_elements(
            lambda name: label_outcome(name, study.config) if name else "", pl.String, skip_nulls=False
        ),
        token=pl.col("token"),
        stays=pl.col("num_subjects").map_elements(_format, pl.String, skip_nulls=False),
    )
    headings = {
        "severity": "How sure",
        "check": "What was found",
        "outcome": "Outcome",
        "token": "Token",
        "stays": "Stays",
    }
    words, num_keys = to_words(numbers, headings)
    caption = (
        "Findings that a person has to judge; leakage.csv in the directories of stage 00, and run.log here, spell them "
        f"out. {HIDDEN}: stays of fewer than {study.config.min_cell_count} patients, or of patients not counted."
    )
    table = PrintedTable("leakage", "What the leakage audit found", caption, numbers, words, num_keys)
    return Section("leakage", title, LOOKED_FOR, [table], inputs=("timelines_dir",))


def _format(count: int | None) -> str:
    return HIDDEN if count is None else f"{count:,}" if count else ""
