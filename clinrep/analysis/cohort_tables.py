"""Sections of the report: the cohort, the rows left out and the outcomes, by split."""

from __future__ import annotations

import polars as pl

from clinrep.analysis.cohort import describe_cohort, describe_exclusions, describe_outcomes
from clinrep.analysis.flow import is_chain_hidden
from clinrep.analysis.inputs import Site
from clinrep.analysis.people import People, suppress_ledger
from clinrep.analysis.study import Section, Study
from clinrep.analysis.suppression import HIDDEN
from clinrep.analysis.tables import PrintedTable, print_outcome, stack_sites, to_words

MADE_FROM = ("timelines_dir",)


def build_cohort_section(study: Study) -> Section:
    """Return who the stays are, by split."""
    return Section("cohort", "Cohort", tables=[_build_cohort_table(study.sites, study.people)], inputs=MADE_FROM)


def build_exclusion_section(study: Study) -> Section:
    """Return which rows stage 00 left out, and why."""
    return Section(
        "exclusions",
        "Who was left out, and why",
        tables=[_build_exclusion_table(study)],
        inputs=MADE_FROM,
    )


def build_outcome_section(study: Study) -> Section:
    """Return how many stays have each outcome, by split."""
    return Section("outcomes", "Outcomes", tables=[_build_outcome_table(study)], inputs=MADE_FROM)


def _build_cohort_table(sites: list[Site], people: People) -> PrintedTable:
    numbers = stack_sites({site.name: describe_cohort(site, people) for site in sites})
    headings = {"characteristic": "Characteristic", "train": "Train", "val": "Validation", "test": "Test", "all": "All"}
    words, num_keys = to_words(numbers, headings)
    caption = (
        "Hospital stays with a timeline, by split. A patient is in exactly one split. SD: standard deviation; "
        "IQR: interquartile range."
    )
    return PrintedTable("cohort", "Cohort by split", caption, numbers, words, num_keys)


def _build_exclusion_table(study: Study) -> PrintedTable:
    sites, least = study.sites, study.config.min_cell_count
    numbers = stack_sites({site.name: describe_exclusions(site) for site in sites})
    headings = {
        "table": "Table",
        "step": "Step",
        "rows_in": "Rows before",
        "left_out": "Left out",
        "rows_out": "Rows after",
        "reason": "Reason",
    }
    numbers = suppress_ledger(numbers, {site.name: site.stays.height for site in sites}, least)
    for site in sites:
        if is_chain_hidden(site, study.people):  # as in the flow: each step is told by its neighbours
            of_stays = (pl.col("site") == site.name) & (pl.col("table") == site.ledger["table"][0])
            counts = ("rows_in", "left_out", "rows_out")
            numbers = numbers.with_columns(pl.when(~of_stays).then(pl.col(name)).alias(name) for name in counts)
    words, num_keys = to_words(numbers.filter((pl.col("left_out") > 0).fill_null(True)), headings)
    caption = (
        "Steps of tokenization that left rows out, by source table. Every row read is kept or accounted for; "
        "the CSV file also lists the steps that left nothing out."
    )
    return PrintedTable("exclusions", "Rows left out, and why", caption, numbers, words, num_keys + 1)


def _build_outcome_table(study: Study) -> PrintedTable:
    config = study.config
    numbers = stack_sites({site.name: describe_outcomes(site, study.outcomes, study.people) for site in study.sites})
    share = (100 * pl.col("num_events") / pl.col("num_labelled")).round(1).fill_nan(None)
    printed = numbers.with_columns(
        outcome=print_outcome(config),
        share=pl.when(pl.col("num_events") == 0)
        .then(pl.lit("0"))
        .when(pl.col("num_labelled").is_null())
        .then(pl.col("num_events").cast(pl.String))
        .otherwise(pl.format("{} ({})", "num_events", share))
        .fill_null(HIDDEN),
    )
    headings = {
        "outcome": "Outcome",
        "split": "Split",
        "num_stays": "Stays",
        "num_excluded": "Excluded",
        "excluded_because": "Excluded because",
        "num_labelled": "Labelled",
        "share": "Events (% of labelled)",
    }
    words, num_keys = to_words(printed, headings)
    caption = "Stays excluded from an outcome have no label; they count neither as events nor as non-events."
    return PrintedTable("outcomes", "Outcomes by split", caption, numbers, words, num_keys + 1)
