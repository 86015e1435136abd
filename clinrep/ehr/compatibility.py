"""Whether a saved model may read these timelines: the same tokenizer, and whose patients it has seen."""

from __future__ import annotations

import logging
from pathlib import Path

import polars as pl

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.ehr.tokenizer import load_settings

logger = logging.getLogger("clinrep")

# What makes two tokenizers one: counts may differ, words and bins may not.
_COLUMNS = {"vocabulary": ["token_id", "token"], "quantiles": ["category", "unit", "edges"]}


def check_model_fits(model_dir: Path, timelines_dir: Path) -> None:
    """Refuse timelines written with another tokenizer than the model's; warn of patients it trained on.

    Raises:
        InputError: another vocabulary, or other quantile edges, which give the same words another meaning.
    """
    for name, columns in _COLUMNS.items():
        known = artifacts.read_table_file(name, model_dir / f"{name}.parquet").select(columns)
        given = artifacts.read_table(name, timelines_dir).select(columns)
        if not known.equals(given):
            raise InputError(
                f"{name}.parquet of the model in {model_dir} ({known.height} rows) differs from that of "
                f"--timelines_dir {timelines_dir} ({given.height} rows); tokenize with the model's: --tokenizer_dir"
            )
    _warn_of_shared_patients(model_dir.parent, timelines_dir)


def find_tokenizer_difference(one: Path, other: Path) -> str | None:
    """Return the table in which two finished stage-00 directories have different tokenizers, or None."""
    for name, columns in _COLUMNS.items():
        ours, theirs = (artifacts.read_table(name, directory).select(columns) for directory in (one, other))
        if not ours.equals(theirs):
            return name
    return None


def _warn_of_shared_patients(run_dir: Path, timelines_dir: Path) -> None:
    """Warn when test patients of these timelines were train or val patients of the model's own.

    A warning and no error, because two hospitals may number different people alike.
    """
    if not (run_dir / "DONE").is_file():
        logger.info("%s: the model's own run is not here, so shared patients cannot be looked for", run_dir)
        return
    trained_on = artifacts.read_content(run_dir / "DONE").get("inputs", {}).get("timelines_dir")
    if trained_on == artifacts.fingerprint(timelines_dir):
        return
    own_dir = Path(load_settings(run_dir, "timelines_dir")["timelines_dir"])
    if not (own_dir / "DONE").is_file() or artifacts.fingerprint(own_dir) != trained_on:
        logger.warning("the model was trained on other timelines, no longer at %s: are patients shared?", own_dir)
        return
    seen = artifacts.read_table("splits", own_dir).filter(pl.col("split") != "test")["patient_id"].unique()
    test = artifacts.read_table("splits", timelines_dir).filter(pl.col("split") == "test")["patient_id"].unique()
    num_shared = int(test.is_in(seen.implode()).sum())
    if num_shared:
        logger.warning(
            "%d of %d test patients of %s have the id of a patient the model trained or was selected on (%s); if they "
            "are the same people, test results are too good: tokenize with --splits_path %s",
            *(num_shared, test.len(), timelines_dir, own_dir, own_dir / "splits.parquet"),
        )
