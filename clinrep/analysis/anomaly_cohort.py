"""Who the inliers and the outliers are: stays counted by site and split (Tables 1 and 2 of the paper).

A group is the inliers, the outliers or all stays of one site and split.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import polars as pl

from clinrep.analysis.anomalies import select_main
from clinrep.analysis.cohort import CATEGORIES, UNKNOWN
from clinrep.analysis.inputs import TEST_SPLIT, Site
from clinrep.analysis.study import Study, compute_once
from clinrep.analysis.subgroups import SEEN_BEFORE
from clinrep.analysis.suppression import Cells
from clinrep.analysis.tables import label_outcome
from clinrep.artifacts import SPLITS

GROUPS = ("inliers", "outliers", "all")
STAYS = "Stays"
TOKENS, AGE = "Tokens before index time, mean (SD)", "Age at admission in years, mean (SD)"
AFTER = "{}: after it, n (% of labelled)"
SCHEMA = {
    "site": pl.String,
    "split": pl.String,
    "characteristic": pl.String,
    **{f"{group}_{name}": dtype for group in GROUPS
       for name, dtype in (("n", pl.UInt64), ("percent", pl.Float64), ("mean", pl.Float64), ("sd", pl.Float64))},
}  # fmt: skip


@dataclass(frozen=True)
class CountLine:
    """One printed line: how many stays of a group are `member`, and which share of those that are `of`."""

    block: str
    """Lines of one block add up, or are of one outcome: their cells are hidden together."""
    words: str
    member: pl.Expr
    of: pl.Expr


@dataclass(frozen=True)
class MeanLine:
    """One printed line: mean and standard deviation (n - 1) of a column over the stays of a group."""

    words: str
    column: str


@compute_once
def describe_by_anomaly(study: Study) -> pl.DataFrame:
    """Return a row for each site, split and characteristic, and for each group n, percent, mean and sd.

    Columns as in `SCHEMA`, null where a cell has no such number or counts, or gives away, fewer people than
    `min_cell_count`. Splits without representations have no rows.
    """
    rows = []
    for site in study.sites:
        stays = _join_stays(site, study)
        lines = _list_lines(stays, study)
        for split in SPLITS:
            of_split = stays.filter(pl.col("split") == split)
            if of_split.height:
                rows += _describe_split(site.name, split, of_split, lines, study)
    return pl.DataFrame(rows, schema=SCHEMA)


def _join_stays(site: Site, study: Study) -> pl.DataFrame:
    """Return the stays that have an anomaly score, with `is_outlier`, `num_tokens` and each outcome's columns."""
    flags = select_main(study.anomalies, study.config).filter(pl.col("site") == site.name)
    stays = site.stays.join(flags.select("subject_id", "is_outlier"), on="subject_id", how="inner")
    if site.name in study.inputs:
        inputs = study.inputs[site.name]
        counts = pl.DataFrame({"subject_id": inputs.subject_ids, "num_tokens": inputs.num_tokens})
        stays = stays.join(counts, on="subject_id", how="left")
    for outcome in study.outcomes:
        rows = site.outcomes.filter(pl.col("outcome") == outcome).select(
            "subject_id",
            pl.col("label").alias(f"label/{outcome}"),
            (pl.col("excluded_reason") == SEEN_BEFORE).fill_null(False).alias(f"before/{outcome}"),
        )
        stays = stays.join(rows, on="subject_id", how="left")
    return stays


def _list_lines(stays: pl.DataFrame, study: Study) -> list[CountLine | MeanLine]:
    """Return the lines of a site, the same for each split."""
    every = pl.lit(True)
    lines: list[CountLine | MeanLine] = [CountLine(STAYS, STAYS, every, every)]
    if "num_tokens" in stays.columns:
        lines.append(MeanLine(TOKENS, "num_tokens"))
    lines.append(MeanLine(AGE, "age"))
    for name in CATEGORIES:
        counts = stays[name].fill_null(UNKNOWN).value_counts().sort("count", name, descending=[True, False])
        for category in counts[name]:
            words = f"{name.capitalize()}: {category.replace('_', ' ')}, n (%)"
            lines.append(CountLine(name, words, pl.col(name).fill_null(UNKNOWN) == category, every))
    for outcome in study.outcomes:
        words, label = label_outcome(outcome, study.config), pl.col(f"label/{outcome}")
        block = f"outcome/{outcome}"
        if stays[f"before/{outcome}"].any():
            before = pl.col(f"before/{outcome}")
            lines.append(CountLine(block, f"{words}: before index time, n (%)", before, every))
        is_labelled = label.is_not_null()
        lines.append(CountLine(block, AFTER.format(words), label.fill_null(False), is_labelled))
    return lines


def _describe_split(
    site: str, split: str, stays: pl.DataFrame, lines: list[CountLine | MeanLine], study: Study
) -> list[dict[str, object]]:
    least = study.config.min_cell_count
    groups = {
        "inliers": stays.filter(~pl.col("is_outlier")),
        "outliers": stays.filter("is_outlier"),
        "all": stays,
    }
    blocks: dict[str, list[CountLine]] = {}
    for line in lines:
        if isinstance(line, CountLine):
            blocks.setdefault(line.block, []).append(line)
    hidden = find_hidden_cells(groups, blocks, least, is_scored=split == TEST_SPLIT) if least else set()
    for line in lines if least else []:
        if isinstance(line, CountLine) and _is_hidden_elsewhere(line.block, site, split, study):
            hidden |= {(line.words, group) for group in GROUPS}
    rows = []
    for line in lines:
        row: dict[str, object] = {"site": site, "split": split, "characteristic": line.words}
        for group, members in groups.items():
            if (STAYS, group) in hidden or (line.words, group) in hidden or not members.height:
                row |= {f"{group}_n": 0} if line.words == STAYS and not members.height else {}
            elif isinstance(line, MeanLine):
                values = members[line.column].drop_nulls()
                row |= {f"{group}_mean": values.mean(), f"{group}_sd": values.std()}
            else:
                count, total = (members.filter(expr).height for expr in (line.member, line.of))
                row[f"{group}_n"] = count
                row[f"{group}_percent"] = 100 * count / total if total and line.words != STAYS else None
        rows.append(row)
    return rows


def _is_hidden_elsewhere(block: str, site: str, split: str, study: Study) -> bool:
    """Return whether another table hides a number of a block, which its number of all stays could give away."""
    for key in study.people.hidden:
        what, where, *which = map(str, key) if isinstance(key, tuple) else ("", "")
        if where != site or split not in which:
            continue
        if what == "category" and which[1] == block:
            return True
        # other keys of three are those of a subgroup
        is_whole = what == "reason" or (what in ("labelled", "events", "excluded") and len(which) == 2)
        if is_whole and block == f"outcome/{which[0]}":
            return True
        if what == "stays" and block == STAYS:
            return True
    return False


def find_hidden_cells(
    groups: dict[str, pl.DataFrame], blocks: dict[str, list[CountLine]], least: int, is_scored: bool
) -> set[tuple[str, str]]:
    """Return the (words of a line, group) not to show, so that no cell of 1 to least - 1 people can be worked out.

    The numbers of all stays are in other tables too, so they never are what hides an inlier or outlier; where other
    tables hide some of a block's, the whole block is hidden. Where labelled stays of the groups are scored (test),
    few excluded ones would be known from the stays, so both groups' stays are hidden.
    """
    hidden: set[tuple[str, str]] = set()
    for block, lines in blocks.items():
        cells, names = Cells(), []
        counted: dict[str, pl.Expr] = {line.words: line.member for line in lines}
        if block.startswith("outcome/"):
            counted |= {"labelled": lines[-1].of, "excluded": ~lines[-1].of}
        for name, member in counted.items():
            for group, stays in groups.items():
                members = stays.filter(member)
                num_people = members["patient_id"].n_unique()
                cells.add((name, group), members.height, num_people=num_people, is_fixed=group == "all")
            names.append(name)
            cells.add_sum((name, "all"), [(name, "inliers"), (name, "outliers")])
        _add_sums(cells, block, lines, groups)
        found: set[Hashable] = cells.hide(least)
        shown = {(line.words, group) for line in lines for group in GROUPS}
        if any((name, "all") in found for name in names):
            hidden |= shown
        for group in GROUPS:
            if (lines[-1].words, group) in found or ("labelled", group) in found:
                hidden.add((lines[-1].words, group))
            hidden |= {(line.words, group) for line in lines if (line.words, group) in found}
        if is_scored and found & {("excluded", "inliers"), ("excluded", "outliers")}:
            hidden |= {(STAYS, "inliers"), (STAYS, "outliers")}
    return hidden


def _add_sums(cells: Cells, block: str, lines: list[CountLine], groups: dict[str, pl.DataFrame]) -> None:
    """Tell how a block's lines add up, in each group."""
    if block == STAYS:
        return
    for group, stays in groups.items():
        num_people = stays["patient_id"].n_unique()
        cells.add((STAYS, group), stays.height, num_people=num_people, is_fixed=True)
        if block.startswith("outcome/"):
            cells.add_sum((STAYS, group), [("labelled", group), ("excluded", group)])
            cells.add_sum(("labelled", group), [(lines[-1].words, group)])
            if len(lines) > 1:
                cells.add_sum(("excluded", group), [(lines[0].words, group)])
        else:
            cells.add_sum((STAYS, group), [(line.words, group) for line in lines])
    cells.add_sum((STAYS, "all"), [(STAYS, "inliers"), (STAYS, "outliers")])
