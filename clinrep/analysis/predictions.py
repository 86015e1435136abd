"""What was predicted without a probe: by the classifiers of stage 02, and zero-shot by the backbone in stage 03."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import polars as pl

from clinrep import artifacts
from clinrep.analysis.checks import check_made_from, require_same_subjects, require_unique
from clinrep.analysis.classifier_runs import ClassifierRun, describe_run, find_main, name_runs
from clinrep.artifacts import ArtifactError
from clinrep.config import InputError

ZERO_SHOT = "zero-shot"
TESTED = "test"

logger = logging.getLogger("clinrep")


def read_predictions(
    given: str | None, timelines: Path, outcomes: pl.DataFrame
) -> tuple[dict[str, dict[str, pl.DataFrame]], dict[str, dict[str, ClassifierRun]]]:
    """Return a site's predictions by outcome and model, checked against the labels, and the runs that made them.

    The model is `classifier`; of several runs of one outcome it also says what differs, as in
    `classifier seed 2 training_fraction 0.05`. Both are {} where none are given.

    Raises:
        InputError: an unfinished run, one made from other timelines, other stays or labels than those of
            outcomes.parquet, or two runs of an outcome with the same settings.
    """
    runs: dict[str, list[tuple[Path, pl.DataFrame]]] = {}
    for directory in find_prediction_runs(Path(given)) if given else []:
        check_made_from("02_finetune", directory, timelines)
        table = artifacts.read_table("predictions", directory)
        require_unique(table, ["subject_id", "outcome"], directory / "predictions.parquet")
        for (outcome,), rows in table.partition_by("outcome", as_dict=True).items():
            _check_predictions(rows, outcomes, f"{directory / 'predictions.parquet'}, outcome {outcome}")
            runs.setdefault(str(outcome), []).append((directory, rows))
    predictions, described = {}, {}
    stays = outcomes.select("subject_id", "patient_id").unique()
    for outcome, found in runs.items():
        names = name_runs([directory for directory, _ in found])
        if len(set(names)) < len(names):
            raise InputError(f"predictions of {outcome} occur twice under {given} with the same settings; keep one")
        named = dict(zip(names, found, strict=True))
        predictions[outcome] = {name: named[name][1] for name in sorted(names)}
        of_outcome = [describe_run(*named[name], stays) for name in sorted(names)]
        described[outcome] = {
            name: replace(run, is_main=is_main)
            for name, run, is_main in zip(sorted(names), of_outcome, find_main(of_outcome), strict=True)
        }
    return predictions, described


def read_zero_shot(representations: Path, outcomes: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return the zero-shot answers of test stays by outcome; {} where stage 03 was not asked for any.

    Left out, and said so, are answers of a sample of the stays, and those to another question (a horizon of their
    own), which cannot stand beside the others.

    Raises:
        InputError: answers of stays without a label, or twice of one.
    """
    if not artifacts.find_parts("zero_shot", representations, TESTED):
        return {}
    table = artifacts.read_table("zero_shot", representations, TESTED)
    answers = {}
    for (outcome,), rows in table.partition_by("outcome", as_dict=True).items():
        what = f"{representations}/zero_shot/{TESTED}, outcome {outcome}"
        labelled = outcomes.filter((pl.col("outcome") == outcome) & pl.col("label").is_not_null())
        tested = labelled.filter(pl.col("split") == TESTED)
        num_different = check_zero_shot(rows, tested, what)
        if rows.height < tested.height or num_different:
            logger.warning(
                "%s: not scored: answers of %d of %d labelled stays, %d with another label (horizon_hours)",
                *(what, rows.height, tested.height, num_different),
            )
            continue
        answers[str(outcome)] = rows
    return answers


def check_zero_shot(rows: pl.DataFrame, tested: pl.DataFrame, what: str) -> int:
    """Refuse answers of stays that have no label, or occur twice; return how many have another label.

    Args:
        rows: answers to one outcome, with subject_id and label.
        tested: subject_id and label of its labelled test stays.
        what: the table, for messages.

    Raises:
        InputError: as said.
    """
    require_unique(rows, ["subject_id"], what)
    both = rows.join(tested.select("subject_id", true="label"), on="subject_id")
    if both.height < rows.height:
        raise InputError(f"{what}: {rows.height - both.height} stays are no labelled test stays; run 03 again")
    return both.filter(pl.col("label") != pl.col("true")).height


def find_prediction_runs(directory: Path) -> list[Path]:
    """Return `directory` when it is a run of stage 02, else the runs in it, as deep as a grid puts them."""
    runs = artifacts.find_runs(directory)
    if not runs:
        raise ArtifactError(f"{directory} holds no run of 02_finetune.py, neither itself nor in a folder; run it first")
    return runs


def _check_predictions(rows: pl.DataFrame, outcomes: pl.DataFrame, what: str) -> None:
    """Refuse predictions whose test stays, labels or probabilities are not what they must be."""
    labelled = outcomes.filter((pl.col("outcome") == rows["outcome"][0]) & pl.col("label").is_not_null())
    tested, expected = (frame.filter(pl.col("split") == TESTED) for frame in (rows, labelled))
    require_same_subjects(tested["subject_id"], expected["subject_id"], what, "the labelled test stays of outcomes")
    both = rows.join(labelled, on="subject_id", suffix="_true")
    num_different = both.filter(pl.col("label") != pl.col("label_true")).height
    if num_different:
        raise InputError(f"{what}: {num_different} labels differ from outcomes.parquet; run 02_finetune.py again")
    if not rows["probability"].is_between(0, 1).all():
        raise ArtifactError(f"{what}: probabilities must be in [0, 1]; run 02_finetune.py again")
