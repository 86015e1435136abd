"""Which patient is in which split."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from clinrep.artifacts import SPLITS, read_table_file
from clinrep.config import InputError
from clinrep.ehr.configs.tokenize import TokenizeConfig


def split_patients(cohort: pl.DataFrame, config: TokenizeConfig) -> pl.DataFrame:
    """Return the table `splits`, one row per adult stay, sorted by subject_id.

    An existing split is looked up by patient; else patients are ordered by first admission (ties by
    patient_id) and the first int(train_fraction * n) are train, the next int(val_fraction * n) val
    (spec/manuscript.md, section 0).
    """
    if config.splits_path is None:
        patients = _split_by_first_admission(cohort, config)
    else:
        patients = _look_up_splits(cohort, Path(config.splits_path))
    return cohort.select("patient_id", "subject_id").join(patients, on="patient_id", how="left").sort("subject_id")


def _split_by_first_admission(cohort: pl.DataFrame, config: TokenizeConfig) -> pl.DataFrame:
    patients = cohort.group_by("patient_id").agg(first=pl.col("admission_dttm").min()).sort("first", "patient_id")
    num_train = int(config.train_fraction * patients.height)
    num_val = int(config.val_fraction * patients.height)
    position = pl.int_range(pl.len())
    split = (
        pl.when(position < num_train)
        .then(pl.lit("train"))
        .when(position < num_train + num_val)
        .then(pl.lit("val"))
        .otherwise(pl.lit("test"))
    )
    return patients.select("patient_id", split=split)


def _look_up_splits(cohort: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Return patient_id and split of an existing table; a patient it lacks or splits is an InputError."""
    patients = read_table_file("splits", path).select("patient_id", "split").unique()
    unknown = set(patients["split"].unique()) - set(SPLITS)
    if unknown:
        raise InputError(
            f"{path}: column 'split' holds {len(unknown)} words other than {', '.join(SPLITS)}; correct them"
        )
    twice = patients.filter(pl.col("patient_id").is_duplicated())["patient_id"].n_unique()
    if twice:
        raise InputError(f"{path}: {twice} patients are in more than one split; a patient belongs to exactly one")
    missing = cohort.join(patients, on="patient_id", how="anti")["patient_id"].n_unique()
    if missing:
        raise InputError(
            f"{path}: lacks {missing} of the {cohort['patient_id'].n_unique()} patients with an adult stay; "
            "add them, or leave out --splits_path to make a new split"
        )
    return patients
