"""Whether a saved model may read these timelines: the same tokenizer, and whose patients it has seen."""

from __future__ import annotations

import logging
from pathlib import Path

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.ehr.leakage.directory import Tokenized
from clinrep.ehr.leakage.findings import spell, tell
from clinrep.ehr.leakage.splits import check_source
from clinrep.ehr.tokenizer import TOKENIZER_COLUMNS, load_settings

logger = logging.getLogger("clinrep")


def check_model_fits(model_dir: Path, timelines_dir: Path) -> None:
    """Refuse timelines written with another tokenizer than the model's, or of stays that it was trained on.

    Raises:
        InputError: another vocabulary, other quantile edges, which give the same words another meaning, or stays
            of val or test that the model, or one that it began from, was trained on.
    """
    for name, columns in TOKENIZER_COLUMNS.items():
        known = artifacts.read_table_file(name, model_dir / f"{name}.parquet").select(columns)
        given = artifacts.read_table(name, timelines_dir).select(columns)
        if not known.equals(given):
            raise InputError(
                f"{name}.parquet of the model in {model_dir} ({known.height} rows) differs from that of "
                f"--timelines_dir {timelines_dir} ({given.height} rows); tokenize with the model's: --tokenizer_dir"
            )
    _check_training_data(model_dir.parent, timelines_dir)


def find_tokenizer_difference(one: Path, other: Path) -> str | None:
    """Return the table in which two finished stage-00 directories have different tokenizers, or None."""
    for name, columns in TOKENIZER_COLUMNS.items():
        ours, theirs = (artifacts.read_table(name, directory).select(columns) for directory in (one, other))
        if not ours.equals(theirs):
            return name
    return None


def _check_training_data(run_dir: Path, timelines_dir: Path) -> None:
    """Refuse timelines whose val or test stays a model, or one that it began from, was trained on; warn where unsure.

    Raises:
        InputError: the same stays, by id, admission and discharge. The same ids alone may be chance between hospitals.
    """
    if not (run_dir / "DONE").is_file():
        words = (
            "%s: the model's own run is not here: whether it was trained on stays of val or test cannot be looked for"
        )
        logger.warning(words, run_dir)
        return
    settings = load_settings(run_dir, "timelines_dir")
    trained_on = artifacts.read_content(run_dir / "DONE").get("inputs", {}).get("timelines_dir")
    own_dir = Path(settings["timelines_dir"])
    if trained_on == artifacts.fingerprint(timelines_dir):
        pass  # its own stays, in the same splits
    elif not (own_dir / "DONE").is_file() or artifacts.fingerprint(own_dir) != trained_on:
        logger.warning("the model was trained on other timelines, no longer at %s: are patients shared?", own_dir)
    else:
        findings = check_source(Tokenized(timelines_dir), Tokenized(own_dir))
        tell(findings)
        certain = [spell(finding) for finding in findings if finding.severity == "certain"]
        if certain:
            remedy = f"tokenize with --splits_path {own_dir / 'splits.parquet'}"
            raise InputError(f"--timelines_dir {timelines_dir}: {'; '.join(certain)}; {remedy}")
    for name, folder in (("backbone_dir", "backbone"), ("classifier_dir", "classifier")):
        began_from = Path(settings[name]) if settings.get(name) else None
        if began_from is not None:
            _check_training_data(began_from.parent if began_from.name == folder else began_from, timelines_dir)
