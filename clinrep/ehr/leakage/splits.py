"""Patients and stays that are in two splits, in the wrong folder, or in the training data of the model's source."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from clinrep.artifacts import SPLITS
from clinrep.ehr.leakage.directory import Tokenized
from clinrep.ehr.leakage.findings import Finding


def check_splits(site: Tokenized) -> list[Finding]:
    """Return patients in two splits, stays in two rows, and timelines in the folder of another split."""
    findings = []
    splits = site.splits
    per_patient = splits.group_by("patient_id").agg(pl.col("split").n_unique(), pl.len()).filter(pl.col("split") > 1)
    if per_patient.height:
        what = f"{per_patient.height} patients have stays in two splits; make the splits again, by patient"
        findings.append(Finding("certain", "patient in two splits", what, num_subjects=int(per_patient["len"].sum())))
    num_repeated = splits.height - splits["subject_id"].n_unique()
    if num_repeated:
        what = f"{num_repeated} rows of splits.parquet repeat a stay; make the splits again"
        findings.append(Finding("certain", "stay in two rows", what, num_subjects=num_repeated))
    split_of = splits.unique("subject_id").select("subject_id", "split")
    seen = [pl.DataFrame(schema={"subject_id": pl.String()})]
    for split in SPLITS:
        stays = _read_subjects(site, split)
        seen.append(stays)
        wrong = stays.join(split_of, on="subject_id", how="left").filter(pl.col("split").ne_missing(split)).height
        if wrong:
            what = f"{wrong} stays of timelines/{split} are not of split {split} in splits.parquet; run stage 00 again"
            findings.append(Finding("certain", "timeline in the wrong split", what, num_subjects=wrong))
    every = pl.concat(seen)
    num_twice = every.height - every["subject_id"].n_unique()
    if num_twice:
        what = f"{num_twice} stays have several timelines; run stage 00 again"
        findings.append(Finding("certain", "timeline in the wrong split", what, num_subjects=num_twice))
    return findings


def check_source(site: Tokenized, source: Tokenized) -> list[Finding]:
    """Return the stays of val and test that the source's model was trained on, by id or by everything but it.

    Of two hospitals, ids may agree by chance: a stay is the same where id, admission and discharge agree. Where only
    admission and discharge agree, to the microsecond, with sex and age, it may be the same under another id.
    """
    trained = _read_stays(source).filter(pl.col("split") == "train").drop("split")
    judged = _read_stays(site).filter(pl.col("split") != "train").drop("split")
    findings = []
    same = judged.join(trained, on=["subject_id", "start", "end"], how="semi")
    if same.height:
        what = f"{same.height} stays of val or test are in train of {source.path}, which the model learned from"
        findings.append(Finding("certain", "trained on at the source", what, num_subjects=same.height))
    rest = judged.join(same, on="subject_id", how="anti")
    keys = ["start", "end", "sex", "age"]
    alike = rest.join(trained, on=keys, how="semi", nulls_equal=True)
    if alike.height:
        what = f"{alike.height} stays of val or test equal one in train of {source.path} in start, end, sex and age"
        findings.append(Finding("doubtful", "trained on at the source", what, num_subjects=alike.height))
    people = rest.join(trained, on="patient_id", how="semi")
    if people.height and same.height:  # ids speak of the same people here, since some stays are the same
        what = f"{people.height} other stays of val or test are of patients in train of {source.path}"
        findings.append(Finding("certain", "trained on at the source", what, num_subjects=people.height))
    elif people.height:
        what = f"{people.height} stays of val or test have the patient_id of one in train of {source.path}: by chance?"
        findings.append(Finding("doubtful", "trained on at the source", what, num_subjects=people.height))
    return findings


def _read_stays(site: Tokenized) -> pl.DataFrame:
    columns = ("subject_id", "patient_id", "start", "end", "sex", "age")
    stays = site.subjects.select(columns).join(site.splits.select("subject_id", "split"), on="subject_id", how="left")
    return stays


def _read_subjects(site: Tokenized, split: str) -> pl.DataFrame:
    """Return the stays of a split's timelines, without reading these."""
    paths = [path for found, path in site.find_timelines() if found == split]
    frames = [pl.read_parquet(path, columns=["subject_id"]) for path in paths]
    return pl.concat([pl.DataFrame(schema={"subject_id": pl.String()}), *frames])


def find_source(directory: Path) -> Path | None:
    """Return the directory where it tells the stays a tokenizer was learned on; None where only the tokenizer is."""
    return (
        directory if (directory / "splits.parquet").is_file() and (directory / "subjects.parquet").is_file() else None
    )
