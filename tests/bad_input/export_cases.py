"""What is wrong with what the export and the known-risk report read."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl

from tests.bad_input.run_cases import BACKBONE, OTHER, SHAPE, edit_json, edit_weights, pickle_weights, redone
from tests.bad_input.workshop import Case, change, cut_off, remove, set_rows, write_bytes

EXPORTS = [
    Case(
        "pickle",
        "a pickle where safetensors should be",
        redone(pickle_weights(BACKBONE), directory="01"),
        ("is no safetensors file", "run the stage that wrote it again"),
    ),
    Case(
        "cut",
        "weights cut off",
        redone(cut_off(BACKBONE), directory="01"),
        ("is longer or shorter than its tensors", "run the stage that wrote it again"),
    ),
    Case(
        "longer",
        "bytes behind the tensors",
        redone(lambda f: (f / BACKBONE).write_bytes((f / BACKBONE).read_bytes() + b"x"), directory="01"),
        ("is longer or shorter than its tensors", "run the stage that wrote it again"),
    ),
    Case(
        "size",
        "a vocab_size that is text",
        redone(edit_json(SHAPE, lambda c: c.update(vocab_size="x")), directory="01"),
        ("has no vocab_size", "run the stage that wrote it again"),
    ),
    Case(
        "others",
        "a model of another vocabulary",
        redone(
            edit_weights(
                BACKBONE, lambda w: w.update({"model.embed_tokens.weight": w["model.embed_tokens.weight"][:9].clone()})
            ),
            directory="01",
        ),
        ("embeds {9} tokens", "are not of one run"),
    ),
    Case("done", "a damaged DONE", write_bytes("01/DONE", b"\xff"), ("DONE is damaged", OTHER)),
    Case(
        "changed",
        "weights changed after training",
        edit_weights(BACKBONE, lambda w: w["model.norm.weight"].mul_(2)),
        ("is not what 01_pretrain.py wrote there", OTHER),
    ),
]

TRUTH = "simulate/truth.parquet"
SIMULATE = "run python -m clinrep.ehr.simulate again"


def rename_outcome(folder: Path) -> None:
    change(TRUTH, lambda f: pl.concat([f, f[:5]]))(folder)


TRUTHS = [
    Case(
        "cut",
        "the truth cut off",
        redone(cut_off(TRUTH), directory="simulate"),
        ("truth.parquet is not a readable", SIMULATE),
    ),
    Case("gone", "no truth", redone(remove(TRUTH), directory="simulate"), ("truth.parquet does not exist", SIMULATE)),
    Case(
        "column",
        "a truth without a column",
        redone(change(TRUTH, lambda f: f.drop("probability_given_state")), directory="simulate"),
        ("lacks probability_given_state", SIMULATE),
    ),
    Case(
        "outside",
        "probabilities above 1",
        redone(change(TRUTH, set_rows("probability_given_tables", 2.0, 3)), directory="simulate"),
        ("must hold probabilities in [0, 1]", SIMULATE),
    ),
    Case("twice", "a stay twice", redone(rename_outcome, directory="simulate"), ("stays occur twice", SIMULATE)),
    Case("undone", "a simulation that has not ended", remove("simulate/DONE"), ("holds no DONE", "to its end first")),
    Case(
        "folder",
        "a folder that is no simulation",
        lambda f: [shutil.rmtree(f / "simulate"), (f / "simulate").mkdir()],
        ("holds no DONE", "to its end first"),
    ),
]
