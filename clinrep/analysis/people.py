"""The numbers of people that several tables show, tied together, so that none gives away what another hides."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass

import polars as pl

from clinrep.analysis.cohort import CATEGORIES, NO_REASON, UNKNOWN
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import TEST_SPLIT, Site
from clinrep.analysis.subgroups import assign_subgroups
from clinrep.analysis.suppression import HIDDEN, Cells
from clinrep.artifacts import SPLITS

logger = logging.getLogger("clinrep")
ALL = "all"


@dataclass(frozen=True)
class People:
    """Which cells not to show.

    Keys start with what is counted and the site:
    (stays, site, split or all), (patients, site, split or all), (category, site, split or all, column, value),
    (excluded, site, outcome, split), (reason, site, outcome, split, reason), (labelled, site, outcome, split),
    (events, site, outcome, split); of subgroups of test: (labelled, site, outcome, test, subgroup), (events, ...),
    and (subgroup, site, test, subgroup), all its stays, which is taken for known.
    """

    hidden: frozenset[Hashable]
    least: int

    def is_hidden(self, *key: str) -> bool:
        """Return whether the cell must not be shown."""
        return key in self.hidden

    def hides_labelled(self, site: str, outcome: str, split: str = TEST_SPLIT) -> bool:
        """Return whether the number of labelled stays of a split, or of those with the event, must not be shown."""
        return any(self.is_hidden(what, site, outcome, split) for what in ("labelled", "events"))

    def format(self, count: int, *key: str) -> str:
        """Return the count with thousands separated, or `HIDDEN`."""
        return HIDDEN if key in self.hidden else f"{count:,}"

    def describe(self, site: str, outcome: str, num_subjects: int, num_events: int) -> str:
        """Return `123 stays, 45 with the event` of the labelled test stays, for the title of a figure."""
        told = []
        for what, count in (("labelled", num_subjects), ("events", num_events)):
            is_few = count < self.least and (count > 0 or what == "events")
            is_hidden = (what, site, outcome, TEST_SPLIT) in self.hidden
            told.append(f"<{self.least}" if is_few else HIDDEN if is_hidden else f"{count:,}")
        return f"{told[0]} stays, {told[1]} with the event"

    def hide_scored(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the frame with num_subjects and num_events of test null where they must not be shown.

        Columns site, outcome, num_subjects, num_events, and subgroup where there are some. Of rows whose num_events
        are few, or hidden, estimates, low and high are rounded to the three decimals that are printed: more would
        tell how many events they are made of.
        """
        subgroup = pl.col("subgroup") if "subgroup" in frame.columns else pl.lit(ALL)
        keys = frame.select("site", "outcome", subgroup.alias("subgroup")).rows()
        for column, what in (("num_subjects", "labelled"), ("num_events", "events")):
            found = [(what, site, outcome, TEST_SPLIT, *([] if name == ALL else [name])) in self.hidden
                     for site, outcome, name in keys]  # fmt: skip
            is_hidden = pl.Series("_", found, pl.Boolean)
            frame = frame.with_columns(pl.when(~is_hidden).then(pl.col(column)).alias(column))
            numbers = [name for name in ("estimate", "low", "high") if name in frame.columns]
            frame = frame.with_columns(
                pl.when(is_hidden).then(pl.col(name).round(3)).otherwise(pl.col(name)).alias(name) for name in numbers
            )
        return frame

    def round_hidden(self, numbers: pl.DataFrame, *sites: str) -> pl.DataFrame:
        """Round to what is printed where the number of stays or events of test is not shown: more digits would tell it.

        `sites` are the columns that name a site, `site` alone unless given; `outcome` names the outcome.
        """
        found = [
            any(self.hides_labelled(row[site], row["outcome"]) for site in sites or ("site",))
            for row in numbers.iter_rows(named=True)
        ]
        is_hidden, values = pl.Series(found, dtype=pl.Boolean), pl.col(pl.Float64)
        return numbers.with_columns(pl.when(is_hidden).then(values.round(3)).otherwise(values).name.keep())


def count_people(sites: list[Site], outcomes: list[str], anomalies: pl.DataFrame, config: AnalyzeConfig) -> People:
    """Return what must be hidden of all the counts that the report shows of the sites' stays."""
    hidden: set[Hashable] = set()
    subgroups = assign_subgroups(sites, anomalies, config) if config.min_cell_count else {}
    for site in sites if config.min_cell_count else []:
        cells = Cells()
        _add_stays(cells, site)
        for outcome in outcomes:
            for split in SPLITS:
                _add_outcome(cells, site, outcome, split)
            _add_subgroups(cells, site, outcome, subgroups[site.name])
        found = cells.hide(config.min_cell_count)
        logger.info(
            "%s: %d counts of people are not shown, being small or telling of small ones", site.name, len(found)
        )
        hidden |= found
    return People(frozenset(hidden), config.min_cell_count)


def count_class_patients(
    sites: list[Site], outcomes: list[str], anomalies: pl.DataFrame, config: AnalyzeConfig
) -> pl.DataFrame:
    """Return table `class_patients`: whose the labelled test stays with and without each outcome are, by subgroup."""
    subgroups = assign_subgroups(sites, anomalies, config)
    is_scored = pl.col("outcome").is_in(outcomes) & (pl.col("split") == TEST_SPLIT) & pl.col("label").is_not_null()
    frames = []
    for site in sites:
        labelled = site.outcomes.filter(is_scored).sort("outcome", "subject_id")
        groups = subgroups[site.name].select("subject_id", "subgroup")
        everyone = labelled.select(pl.col("subject_id").unique()).with_columns(subgroup=pl.lit(ALL))
        joined = labelled.join(pl.concat([everyone, groups]), on="subject_id", maintain_order="left_right")
        patients = pl.col("patient_id")
        counted = joined.group_by("outcome", "subgroup", maintain_order=True).agg(
            num_event_patients=patients.filter(pl.col("label")).n_unique().cast(pl.UInt64),
            num_other_patients=patients.filter(~pl.col("label")).n_unique().cast(pl.UInt64),
        )
        frames.append(counted.select(pl.lit(site.name).alias("site"), pl.all()))
    return pl.concat(frames)


def _add_stays(cells: Cells, site: Site) -> None:
    """Add stays, patients and the categories of the cohort table, by split and in all."""
    for split in (ALL, *SPLITS):
        stays = site.stays if split == ALL else site.stays.filter(pl.col("split") == split)
        num_patients = stays["patient_id"].n_unique()
        cells.add(("stays", site.name, split), stays.height, num_people=num_patients, is_fixed=True)
        cells.add(("patients", site.name, split), num_patients, is_fixed=True)
        for column in CATEGORIES:
            filled = stays.with_columns(pl.col(column).fill_null(UNKNOWN))
            counted = {name[0]: rows for name, rows in filled.partition_by(column, as_dict=True).items()}
            values = site.stays[column].fill_null(UNKNOWN).unique().sort()
            keys: list[Hashable] = []
            for value in values:
                rows = counted.get(value, stays.clear())
                keys.append(("category", site.name, split, column, value))
                cells.add(keys[-1], rows.height, num_people=rows["patient_id"].n_unique())
            cells.add_sum(("stays", site.name, split), keys)
    for what in ("stays", "patients"):
        cells.add_sum((what, site.name, ALL), [(what, site.name, split) for split in SPLITS])
    for column in CATEGORIES:
        for value in site.stays[column].fill_null(UNKNOWN).unique().sort():
            parts = [("category", site.name, split, column, value) for split in SPLITS]
            cells.add_sum(("category", site.name, ALL, column, value), parts)


def _add_outcome(cells: Cells, site: Site, outcome: str, split: str) -> None:
    """Add stays left out and why, labelled ones and events of one split."""
    rows = site.outcomes.filter((pl.col("outcome") == outcome) & (pl.col("split") == split))
    where = (site.name, outcome, split)
    excluded, labelled = rows.filter(pl.col("label").is_null()), rows.filter(pl.col("label").is_not_null())
    _add(cells, ("excluded", *where), excluded)
    _add(cells, ("labelled", *where), labelled, is_fixed=True)
    cells.add_sum(("stays", site.name, split), [("excluded", *where), ("labelled", *where)])
    reasons = [str(reason) for reason in excluded["excluded_reason"].fill_null(NO_REASON).unique().sort()]
    for reason in reasons:
        _add(cells, ("reason", *where, reason),
             excluded.filter(pl.col("excluded_reason").fill_null(NO_REASON) == reason))  # fmt: skip
    if reasons:
        cells.add_sum(("excluded", *where), [("reason", *where, reason) for reason in reasons])
    _add_events(cells, where, labelled)


def _add_events(cells: Cells, where: tuple[str, ...], labelled: pl.DataFrame) -> None:
    """Add the stays with and without the event; 0 of them is hidden too, for the reasons given for missing scores."""
    _add(cells, ("events", *where), labelled.filter("label"), hides_zero=True)
    _add(cells, ("others", *where), labelled.filter(~pl.col("label")), hides_zero=True, is_shown=False)
    cells.add_sum(("labelled", *where), [("events", *where), ("others", *where)])


def _add_subgroups(cells: Cells, site: Site, outcome: str, subgroups: pl.DataFrame) -> None:
    """Add the labelled test stays of each subgroup and their events.

    An outcome without exclusions tells the whole subgroup, as other tables do, and so what another outcome leaves out.
    """
    where = (site.name, outcome, TEST_SPLIT)
    is_of_test = (pl.col("outcome") == outcome) & (pl.col("split") == TEST_SPLIT)
    stays = site.outcomes.filter(is_of_test).join(subgroups, on="subject_id")
    for _, of_attribute in stays.group_by("attribute", maintain_order=True):
        names = [str(name) for name in of_attribute.drop_nulls("label")["subgroup"].unique().sort()]
        for name in names:
            rows = of_attribute.filter(pl.col("subgroup") == name)
            labelled, whole = rows.drop_nulls("label"), ("subgroup", site.name, TEST_SPLIT, name)
            _add(cells, ("labelled", *where, name), labelled)
            _add(cells, ("excluded", *where, name), rows.filter(pl.col("label").is_null()), is_shown=False)
            _add(cells, whole, rows, is_fixed=True)
            cells.add_sum(whole, [("labelled", *where, name), ("excluded", *where, name)])
            _add_events(cells, (*where, name), labelled)
        for what in ("labelled", "events"):
            cells.add_sum((what, *where), [(what, *where, name) for name in names])
    for column in CATEGORIES:
        for value in site.stays[column].fill_null(UNKNOWN).unique():
            part = ("subgroup", site.name, TEST_SPLIT, f"{column}: {value.replace('_', ' ')}")
            if part in cells:
                cells.add_sum(("category", site.name, TEST_SPLIT, column, value), [part])


def _add(cells: Cells, key: Hashable, rows: pl.DataFrame, **kinds: bool) -> None:
    cells.add(key, rows.height, num_people=rows["patient_id"].n_unique(), **kinds)


def suppress_ledger(steps: pl.DataFrame, cohort_sizes: dict[str, int], least: int) -> pl.DataFrame:
    """Return steps of the ledger with rows_in, left_out and rows_out null where they, or what they give away, are few.

    `steps` has site, table, step, rows_in, left_out, rows_out, the steps of a table in order; what one step leaves
    the next takes. Rows are taken for people, also of tables with many rows a stay: fewer rows are fewer people.
    `cohort_sizes` by site is shown in other tables.
    """
    cells = Cells()
    columns: dict[str, list[Hashable]] = {"rows_in": [], "left_out": [], "rows_out": []}
    before: tuple[str, str, int] | None = None
    for row, step in enumerate(steps.iter_rows(named=True)):
        size = cohort_sizes[step["site"]]
        whole: Hashable = ("rows_in", row)
        if before == (step["site"], step["table"], step["rows_in"]):
            whole = ("rows_out", row - 1)
        keys = {"rows_in": whole, "left_out": ("left_out", row), "rows_out": ("rows_out", row)}
        for name, key in keys.items():
            cells.add(key, step[name], is_fixed=step[name] == size)
            columns[name].append(key)
        cells.add_sum(keys["rows_in"], [keys["left_out"], keys["rows_out"]])
        before = (step["site"], step["table"], step["rows_out"])
    hidden = cells.hide(least)
    return steps.with_columns(
        pl.when(pl.Series([key not in hidden for key in keys], dtype=pl.Boolean)).then(pl.col(name)).alias(name)
        for name, keys in columns.items()
    )
