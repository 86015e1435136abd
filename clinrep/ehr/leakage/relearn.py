"""The tokenizer learned anew from the train patients' rows alone: it must come out the same."""

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl

from clinrep.config import parse_config
from clinrep.ehr import tokenize
from clinrep.ehr.configs.tokenize import TokenizeConfig
from clinrep.ehr.leakage.directory import Tokenized
from clinrep.ehr.leakage.findings import Finding
from clinrep.ehr.leakage.statistics import AGAIN, CHECK


def check_by_learning_anew(site: Tokenized, clif_dir: str | None) -> list[Finding]:
    """Return which tables of the tokenizer differ when no row of a val or test patient is read at all.

    Args:
        site: a directory that learned its tokenizer.
        clif_dir: where its CLIF tables are now; None: where the settings say.
    """
    saved = ["--config", str(site.path / "config.yaml")]
    moved = ["--clif_dir", clif_dir] if clif_dir else []
    config = parse_config(TokenizeConfig, [*saved, *moved], prog="python -m clinrep.ehr.leakage", story="")
    train = site.splits.filter(pl.col("split") == "train")
    source = tokenize.open_source(config)
    cohort = tokenize.read_cohort(source).join(train, on="subject_id", how="semi", maintain_order="left")
    cohort = cohort.drop("stay").with_row_index("stay")
    with tempfile.TemporaryDirectory() as folder, tokenize.read_events(source, cohort, Path(folder)) as events:
        learned = tokenize.tokenize(source, cohort, train, events).tokenizer
    pairs = {
        "vocabulary": (learned.vocabulary.drop("train_count"), site.vocabulary.drop("train_count")),
        "quantiles": (learned.quantiles, site.read("quantiles")),
        "categories": (learned.categories, site.read("categories")),
    }
    findings = []
    for name, (ours, theirs) in pairs.items():
        if not ours.select(theirs.columns).equals(theirs):
            rows = ours.select(theirs.columns).join(theirs, on=theirs.columns, how="anti", nulls_equal=True).height
            what = f"{name}: {rows} of {ours.height} rows come out otherwise from train patients alone; {AGAIN}"
            findings.append(Finding("certain", CHECK, what))
    return findings
