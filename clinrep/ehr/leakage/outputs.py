"""Whether the tables of stages 02 and 03 say of each stay the split and label that stage 00 gave it."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from clinrep.artifacts import TABLES, find_parts
from clinrep.ehr.leakage.directory import Tokenized
from clinrep.ehr.leakage.findings import Finding

CHECK = "split or label of an output"


def check_outputs(directory: Path, site: Tokenized) -> list[Finding]:
    """Return the tables of a run, finished or about to be, in which stays have another split or label."""
    findings = []
    split_of = site.splits.select("subject_id", expected="split").unique("subject_id")
    for name, table in TABLES.items():
        if not {"subject_id", "split"} <= set(table.columns) or table.stage == "00_tokenize":
            continue
        for path in find_parts(name, directory):
            columns: list[str] = [
                column for column in ("subject_id", "split", "outcome", "label") if column in table.columns
            ]
            rows = pl.read_parquet(path, columns=columns).unique()
            joined = rows.join(split_of, on="subject_id", how="left")
            wrong = joined.filter(pl.col("split").ne_missing(pl.col("expected")))["subject_id"].n_unique()
            if wrong:
                what = f"{wrong} stays of {path.relative_to(directory)} have another split than in {site.path}"
                findings.append(Finding("certain", CHECK, what, num_subjects=wrong))
            findings += _check_labels(rows, path.relative_to(directory), site)
    return findings


def _check_labels(rows: pl.DataFrame, path: Path, site: Tokenized) -> list[Finding]:
    if "label" not in rows.columns:
        return []
    given = site.outcomes.select("subject_id", "outcome", expected="label")
    joined = rows.join(given, on=["subject_id", "outcome"], how="left")
    wrong = joined.filter(pl.col("label").ne_missing(pl.col("expected"))).height
    if not wrong:
        return []
    what = f"{wrong} stays of {path} have another label than in {site.path}, or should have none"
    return [Finding("certain", CHECK, what, num_subjects=wrong)]
