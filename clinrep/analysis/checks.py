"""Checks of tables that must belong together, before anything is joined."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from clinrep import artifacts
from clinrep.artifacts import ArtifactError
from clinrep.config import InputError


def check_made_from(stage: str, directory: Path, timelines: Path) -> dict[str, str]:
    """Return the input digests of a run, refusing one made from other timelines than the site's."""
    inputs: dict[str, str] = artifacts.read_done(directory, stage).get("inputs", {})
    if inputs.get("timelines_dir") not in (None, artifacts.fingerprint(timelines)):
        raise InputError(f"{directory} was made from other timelines than {timelines}; run {stage}.py on these")
    return inputs


def require_unique(frame: pl.DataFrame, keys: list[str], where: Path | str) -> None:
    """Refuse rows that repeat the values of `keys`."""
    num_repeated = frame.height - frame.select(keys).n_unique()
    if num_repeated:
        raise ArtifactError(f"{where}: {num_repeated} rows repeat a ({', '.join(keys)}) that must be unique")


def require_same_subjects(found: pl.Series, expected: pl.Series, what: str, whose: str, remedy: str = "") -> None:
    """Refuse two sets of stays that differ, saying by how many (an id would be a patient's data)."""
    num_missing = expected.is_in(found.implode()).not_().sum()
    num_extra = found.is_in(expected.implode()).not_().sum()
    if num_missing or num_extra:
        raise InputError(
            f"{what}: {num_missing} of {expected.len()} stays of {whose} are missing and "
            f"{num_extra} stays are not among them; "
            + (remedy or "both must come from one run of 00_tokenize.py, and whole (03 without max_subjects)")
        )
