"""Patients and stays that are in two splits, in the wrong folder, or in the training data of the model's source."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from clinrep.artifacts import SPLITS
from clinrep.ehr.leakage.directory import Tokenized
from clinrep.ehr.leakage.findings import Finding

SOURCE_CHECK = "trained on at the source"


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
    """Return the stays that judge a model and that the source's model was trained on or chosen by.

    That is test among the source's train or val, and val among its train.

    Of two hospitals, ids may agree by chance, and with coarse dates whole stays: that stays with the same ids,
    admission and discharge are the same, and patients of the same id the same people, is certain only if most stays
    with the same id are. Where times, sex and age agree but not the ids, they may be the same under others.
    """
    theirs, ours = _read_stays(source), _read_stays(site)
    same = _match(ours, theirs, _SAME)
    rest = ours.filter(~pl.col("subject_id").is_in(same.implode()))
    alike = _match(rest, theirs, ["start", "end", "sex", "age"])
    people = _match(rest, theirs, ["patient_id"])
    learned = f"in train or val of {source.path}, which the model learned from or was chosen by"
    is_shared = _share_ids(ours, theirs)
    rules = (
        (same, is_shared, f"{'are' if is_shared else 'have the ids, start and end of some'} {learned}"),
        (alike, False, f"equal one in start, end, sex and age {learned}"),
        (people, is_shared, f"have the patient_id of others {learned}"),
    )
    return [
        Finding(
            "certain" if is_certain else "doubtful",
            SOURCE_CHECK,
            f"{len(stays)} stays of val or test {words}{'' if is_certain else ': the same people, or by chance?'}",
            num_subjects=len(stays),
            num_patients=ours.filter(pl.col("subject_id").is_in(stays.implode()))["patient_id"].n_unique(),
        )
        for stays, is_certain, words in rules
        if len(stays)
    ]


_SAME = ["subject_id", "patient_id", "start", "end"]
MIN_SHARE = 0.5
"""Of the stays with the same id at both sites, how many must agree in all else, for ids to speak of the same people."""


def _share_ids(ours: pl.DataFrame, theirs: pl.DataFrame) -> bool:
    """Return whether both sites use the same ids for the same people."""
    num_alike, num_same = (
        ours.join(theirs, on=keys, how="semi", nulls_equal=True).height for keys in (_SAME[:1], _SAME)
    )
    return num_alike > 0 and num_same / num_alike >= MIN_SHARE


def _match(ours: pl.DataFrame, theirs: pl.DataFrame, keys: list[str]) -> pl.Series:
    """Return the test stays that agree in `keys` with one of their train or val, and our val with their train."""
    pairs = ours.join(theirs.select(*keys, their_use="use"), on=keys, nulls_equal=True)
    return pairs.filter(pl.col("their_use") < pl.col("use"))["subject_id"].unique()


def _read_stays(site: Tokenized) -> pl.DataFrame:
    """Return the stays with a timeline: ids, admission, discharge, sex, age, and `use`, how their split is used."""
    use = pl.col("split").replace_strict({split: number for number, split in enumerate(SPLITS)}, return_dtype=pl.Int8)
    splits = site.splits.unique("subject_id").select("subject_id", use=use)
    return site.subjects.select(*_SAME, "sex", "age").join(splits, on="subject_id")


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
