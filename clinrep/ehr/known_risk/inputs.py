"""What the known-risk report joins to each site's stays, by id: the truth, zero-shot answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from clinrep import artifacts
from clinrep.analysis.inputs import TEST_SPLIT, Labelled
from clinrep.analysis.metrics import Floats
from clinrep.analysis.predictions import check_zero_shot
from clinrep.artifacts import ArtifactError
from clinrep.config import InputError
from clinrep.failures import say

TRUTH_FILE = "truth.parquet"
TRUTHS = ("probability_given_state", "probability_given_tables")


@dataclass(frozen=True)
class ZeroShot:
    """Zero-shot answers of some labelled test stays of one outcome."""

    rows: np.ndarray
    """i64 (n,): their positions among the labelled test stays."""
    probabilities: Floats
    """(n,)"""
    unfinished: float
    """Mean share of continuations that neither had the event nor ended."""
    num_samples: int


def read_truth(directory: Path, timelines: Path) -> pl.DataFrame:
    """Return truth.parquet of a simulated hospital: subject_id, outcome, label, and the two probabilities.

    Raises:
        InputError: not a finished simulation, a column that is missing, or timelines made of other tables.
    """
    artifacts.read_done(directory, "simulate")
    found = artifacts.read_done(timelines, "00_tokenize").get("inputs", {}).get("clif_dir")
    if found not in (None, artifacts.fingerprint(directory)):
        raise InputError(f"{timelines} was made of other tables than {directory}; give the folder it was made of")
    path = directory / TRUTH_FILE
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; run python -m clinrep.ehr.simulate again")
    columns = ["subject_id", "outcome", "label", *TRUTHS]
    try:
        truth = pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ArtifactError(
            f"{path} is not a readable Parquet file ({say(error)}); run python -m clinrep.ehr.simulate again"
        ) from error
    missing = [column for column in columns if column not in truth.columns]
    if missing:
        raise ArtifactError(f"{path} lacks {', '.join(missing)}; run python -m clinrep.ehr.simulate again")
    for column in TRUTHS:
        if not truth[column].dtype.is_float() or not truth[column].is_between(0, 1).all():
            raise ArtifactError(
                f"{path}: column {column!r} must hold probabilities in [0, 1]; run python -m clinrep.ehr.simulate again"
            )
    return truth.select(columns)


def join_truth(truth: pl.DataFrame, outcome: str, stays: Labelled) -> dict[str, Floats]:
    """Return for each of TRUTHS the probability of the outcome, f64 (N,), of the stays in their order.

    Raises:
        InputError: a stay without truth, twice in it, or with another label there.
    """
    rows = truth.filter(pl.col("outcome") == outcome).rename({"label": "true_label"})
    what = f"{TRUTH_FILE}, outcome {outcome}"
    if rows["subject_id"].is_duplicated().any():
        raise InputError(f"{what}: stays occur twice; run python -m clinrep.ehr.simulate again")
    joined = _join(stays, rows)
    num_missing = max(joined[column].null_count() for column in ("true_label", *TRUTHS))
    if num_missing:
        raise InputError(
            f"{what}: {num_missing} of {joined.height} labelled test stays have no truth; the timelines must be of "
            "the tables beside it, with index_time 24 h after admission"
        )
    num_different = int((joined["true_label"].to_numpy().astype(bool) != stays.labels).sum())
    if num_different:
        raise InputError(f"{what}: {num_different} labels differ from outcomes.parquet; tokenize these tables again")
    return {name: joined[name].to_numpy().astype(np.float64) for name in TRUTHS}


def read_zero_shot(directory: Path, outcome: str, stays: Labelled) -> ZeroShot | None:
    """Return the zero-shot answers of the labelled test stays that have one; None where the outcome was not asked.

    Raises:
        InputError: no such table, answers of stays that have no label, or with another one.
    """
    rows = artifacts.read_table("zero_shot", directory, TEST_SPLIT).filter(pl.col("outcome") == outcome)
    what = f"{directory}/zero_shot/{TEST_SPLIT}, outcome {outcome}"
    if rows.is_empty():
        return None
    tested = stays.subject_ids.to_frame().with_columns(label=pl.Series(stays.labels))
    if check_zero_shot(rows, tested, what):
        raise InputError(f"{what}: labels differ from outcomes.parquet; run 03_extract_reps.py again")
    joined = _join(stays, rows)
    chosen = np.flatnonzero(joined["probability"].is_not_null().to_numpy())
    found = joined[chosen]
    settings = artifacts.read_settings(directory / "config.yaml")
    return ZeroShot(
        chosen,
        found["probability"].to_numpy().astype(np.float64),
        float(found["unfinished"].to_numpy().mean()),
        int(settings["zero_shot"]["num_samples"]),
    )


def _join(stays: Labelled, rows: pl.DataFrame) -> pl.DataFrame:
    return stays.subject_ids.to_frame().join(rows, on="subject_id", how="left", maintain_order="left")
