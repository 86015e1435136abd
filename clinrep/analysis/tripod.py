"""The TRIPOD+AI checklist (Collins et al., BMJ 2024;385:e078378): where the report answers each item."""

from __future__ import annotations

from collections.abc import Collection

import polars as pl

from clinrep import artifacts
from clinrep.analysis.scores import ALL
from clinrep.analysis.study import Section, Study
from clinrep.analysis.tables import PrintedTable
from clinrep.analysis.tripod_items import ITEMS, Item

FILE = "tripod_ai.md"
BY_AUTHORS = "to be filled in by the authors"
REFERENCE = (
    "Collins GS, Moons KGM, Dhiman P, et al. TRIPOD+AI statement: updated guidance for reporting clinical prediction "
    "models that use regression or machine learning methods. BMJ 2024;385:e078378"
)


def build_tripod_section(study: Study) -> Section:
    """Return the checklist as a section, and write it as tripod_ai.md into the run directory."""
    from clinrep.analysis.sections import choose_sections  # late: the table of sections names this one

    has_subgroups = (study.scores["subgroup"] != ALL).any()
    table = fill_checklist(choose_sections(study.config), has_subgroups)
    artifacts.write_text(study.directory / FILE, format_checklist(table))
    headings = {"item": "Item", "topic": "Topic", "applies": "For", "asks": "Asks for", "answered": "Answered in"}
    caption = (
        "Items of TRIPOD+AI in short words of our own (D: development, E: evaluation), and where this report answers "
        f"them, as far as a program can know. Read the statement itself before you submit: {REFERENCE}. "
        f"The same as text: {FILE}."
    )
    words, columns = table.rename(headings), "lp{2.6cm}lp{4.5cm}p{5.5cm}"
    printed = PrintedTable("tripod_ai", "TRIPOD+AI checklist", caption, table, words, alignment=columns)
    return Section("tripod", "TRIPOD+AI checklist", tables=[printed])


def fill_checklist(sections: Collection[str], has_subgroups: bool = False) -> pl.DataFrame:
    """Return `item`, `topic`, `applies`, `asks` and `answered`, all str, for a report with these sections."""
    rows = []
    for item in ITEMS:
        answer = _find_answer(item, sections, has_subgroups)
        rows.append((item.number, item.topic, item.applies, item.asks, answer))
    return pl.DataFrame(rows, schema=["item", "topic", "applies", "asks", "answered"], orient="row")


def format_checklist(table: pl.DataFrame) -> str:
    """Return the checklist as a Markdown table."""
    lines = ["# TRIPOD+AI checklist", "", f"{REFERENCE}. Items in short words of our own.", ""]
    lines += ["| Item | Topic | For | Asks for | Answered in |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(row)} |" for row in table.iter_rows()]
    return "\n".join(lines) + "\n"


def _find_answer(item: Item, sections: Collection[str], has_subgroups: bool = False) -> str:
    """Return where an item is answered, and what is left to the authors."""
    made = [name for name in item.sections if name in sections]
    parts = [f"section{'s' if len(made) > 1 else ''} {', '.join(made)} of the report"] if made else []
    parts += [", ".join(item.files)] if item.files else []
    still = "performance of key groups" if item.needs_subgroups and not has_subgroups else item.still
    if still or not (made or item.files):
        parts.append(f"{BY_AUTHORS}: {still}" if still else BY_AUTHORS)
    return "; ".join(parts)
