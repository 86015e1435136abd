"""Section of the report: from the stays in the source to the labelled ones of each split, and who was left out why."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import polars as pl

from clinrep.analysis.cohort import NO_REASON
from clinrep.analysis.drawing import DrawnFigure, save_figure
from clinrep.analysis.flow_drawing import draw_flow
from clinrep.analysis.inputs import Site
from clinrep.analysis.people import ALL, People
from clinrep.analysis.study import Section, Study
from clinrep.analysis.style import STYLE
from clinrep.analysis.suppression import HIDDEN, explain_hidden
from clinrep.analysis.tables import PrintedTable, label_outcome
from clinrep.artifacts import SPLITS

SPLIT_WORDS = {"train": "Train", "val": "Validation", "test": "Test"}


@dataclass(frozen=True)
class FlowRow:
    """One number of the flow."""

    step: str
    """source, left out, timeline, split, labelled or excluded."""
    split: str = ""
    outcome: str = ""
    reason: str = ""
    num_stays: int | None = 0
    """None where it must not be shown."""
    num_patients: int | None = None
    """None where it is unknown, as of rows left out, or must not be shown."""

    @property
    def key(self) -> Hashable:
        """What tells it from the other numbers."""
        return self.step, self.split, self.outcome, self.reason


def build_flow_section(study: Study) -> Section:
    """Draw the flow of each site; its numbers are a table, too."""
    flows = {site.name: hide_small(count_flow(site, study.outcomes), site, study.people) for site in study.sites}
    with mpl.rc_context(STYLE):
        figures = [_draw(study, site, flows[site.name]) for site in study.sites]
    inputs = ("timelines_dir",)
    return Section("flow", "Flow of stays", tables=[_tabulate(study, flows)], figures=figures, inputs=inputs)


def count_flow(site: Site, outcomes: list[str]) -> list[FlowRow]:
    """Return the numbers from top to bottom; those left out are the ledger's steps on the table of stays.

    A step belongs to the chain when it starts with what the step before left; others of that table are notes.
    """
    chain, num_left = _follow_ledger(site.ledger)
    rows = [FlowRow("source", num_stays=chain[0][1] if chain else num_left)]
    rows += [FlowRow("left out", reason=reason, num_stays=before - after) for reason, before, after in chain]
    if num_left != site.stays.height:  # a ledger of another program: said, never hidden in a sum
        reason = "not accounted for in the ledger"
        rows.append(FlowRow("left out", reason=reason, num_stays=num_left - site.stays.height))
    rows.append(FlowRow("timeline", num_stays=site.stays.height, num_patients=site.stays["patient_id"].n_unique()))
    for split in SPLITS:
        stays = site.stays.filter(pl.col("split") == split)
        rows.append(FlowRow("split", split, num_stays=stays.height, num_patients=stays["patient_id"].n_unique()))
    for outcome in outcomes:
        for split in SPLITS:
            rows += _count_labels(site, outcome, split)
    return rows


def _follow_ledger(ledger: pl.DataFrame) -> tuple[list[tuple[str, int, int]], int]:
    """Return (reason, stays before, stays after) of the steps that drop stays, and how many the last one leaves."""
    steps = ledger.filter(pl.col("table") == ledger["table"][0]) if ledger.height else ledger
    left = int(steps["rows_in"][0]) if steps.height else 0
    chain = []
    for before, after, reason in steps.select("rows_in", "rows_out", "reason").iter_rows():
        if before == left and after < before:
            chain.append((reason, before, after))
            left = after
    return chain, left


def _count_labels(site: Site, outcome: str, split: str) -> list[FlowRow]:
    """Return the labelled stays of one outcome and split, and the excluded ones by reason, most frequent first."""
    rows = site.outcomes.filter((pl.col("outcome") == outcome) & (pl.col("split") == split))
    is_labelled = pl.col("label").is_not_null()
    counts = (pl.len().alias("num_stays"), pl.col("patient_id").n_unique().alias("num_patients"))
    labelled = rows.filter(is_labelled).select(counts).row(0)
    excluded = (
        rows.filter(~is_labelled)
        .group_by(pl.col("excluded_reason").fill_null(NO_REASON))
        .agg(counts)
        .sort("num_stays", "excluded_reason", descending=[True, False])
    )
    found = [FlowRow("excluded", split, outcome, reason, num, people) for reason, num, people in excluded.iter_rows()]
    return [FlowRow("labelled", split, outcome, "", *labelled), *found]


def is_chain_hidden(site: Site, people: People) -> bool:
    """Return whether no step from the source table to the timelines may be told: one is small, or the end hidden."""
    if not people.least:
        return False
    chain, num_left = _follow_ledger(site.ledger)
    steps = [*(before - after for _, before, after in chain), abs(num_left - site.stays.height)]
    return any(0 < step < people.least for step in steps) or people.is_hidden("stays", site.name, ALL)


def hide_small(rows: list[FlowRow], site: Site, people: People) -> list[FlowRow]:
    """Return the rows without what `people` hides, nor the steps of the ledger where one of them is small."""
    hidden = {row.key for row in rows if people.is_hidden(*_name_cell(row, site.name))}
    if is_chain_hidden(site, people):
        hidden |= {row.key for row in rows if row.step in ("source", "left out")}
    return [_blank(row) if row.key in hidden else row for row in rows]


def _name_cell(row: FlowRow, site: str) -> tuple[str, ...]:
    """Return the key of the number in `People`."""
    if row.step == "excluded":
        return "reason", site, row.outcome, row.split, row.reason
    if row.step == "labelled":
        return "labelled", site, row.outcome, row.split
    return "stays", site, row.split if row.step == "split" else ALL if row.step == "timeline" else ""


def _blank(row: FlowRow) -> FlowRow:
    return FlowRow(row.step, row.split, row.outcome, row.reason, None, None)


def _draw(study: Study, site: Site, rows: list[FlowRow]) -> DrawnFigure:
    words = {outcome: label_outcome(outcome, study.config) for outcome in study.outcomes}
    figure = draw_flow(rows, words, SPLIT_WORDS)
    where = study.say_where(site.name)
    caption = (
        f"Hospital stays from the source table to the labelled stays of each split, from the ledger of "
        f"{Path(study.config.timelines_dir[site.name])}. Patients are counted where known; a patient is in one "
        "split. An outcome excludes stays that cannot tell: they are neither events nor non-events."
    )
    if any(row.num_stays is None for row in rows):
        caption += f" {explain_hidden(study.config.min_cell_count)}"
    return save_figure(figure, study.figures_dir, f"flow_{site.name}", f"Flow of stays{where}", caption)


def _tabulate(study: Study, flows: dict[str, list[FlowRow]]) -> PrintedTable:
    columns = ("step", "split", "outcome", "reason", "num_stays", "num_patients")
    counts = {"num_stays": pl.Int64, "num_patients": pl.Int64}
    schema = {name: counts.get(name, pl.String()) for name in ("site", *columns)}
    data = [(site, *(getattr(row, name) for name in columns)) for site, rows in flows.items() for row in rows]
    numbers = pl.DataFrame(data, schema=schema, orient="row")
    is_several = len(flows) > 1
    printed = [
        ((site,) if is_several else ())
        + (
            f"{row.step[:1].upper()}{row.step[1:]}",
            SPLIT_WORDS.get(row.split, "All"),
            label_outcome(row.outcome, study.config) if row.outcome else "",
            row.reason,
            HIDDEN if row.num_stays is None else f"{row.num_stays:,}",
            ("" if row.num_stays is not None else HIDDEN) if row.num_patients is None else f"{row.num_patients:,}",
        )
        for site, rows in flows.items()
        for row in rows
    ]
    headings = ["Site"] * is_several + ["Step", "Split", "Outcome", "Reason", "Stays", "Patients"]
    words = pl.DataFrame(printed, schema=dict.fromkeys(headings, pl.String()), orient="row")
    caption = "The numbers of the flow diagram. A patient with several stays may be in several rows."
    return PrintedTable("flow", "Stays kept and left out", caption, numbers, words, int(is_several) + 1)
