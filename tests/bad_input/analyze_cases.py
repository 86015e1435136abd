"""What is wrong with what stage 04 reads, and what it makes of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from tests.bad_input.run_cases import AGAIN, OTHER, edit_json, redone, rows_again
from tests.bad_input.workshop import Case, change, cut_off, remove, set_rows, write_bytes

# folders of the copy: 00, 03, and 02/OUTCOME
VECTORS = "03/representations/test/part-00000.parquet"
PREDICTED = "02/icu_admission"
PREDICTIONS = f"{PREDICTED}/predictions.parquet"
AGAIN_00, AGAIN_02, AGAIN_03 = (f"run {name}.py" for name in ("00_tokenize", "02_finetune", "03_extract_reps"))


def vectors(*changes: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Path], None]:
    return redone(change(VECTORS, *changes), directory="03")


def predictions(*changes: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Path], None]:
    return redone(change(PREDICTIONS, *changes), directory=PREDICTED)


def put_number(value: float) -> Callable[[pl.DataFrame], pl.DataFrame]:
    def apply(frame: pl.DataFrame) -> pl.DataFrame:
        values = frame["representation"].to_numpy().copy()
        values[:, 0] = value  # rows of the layer that is asked for among them
        return frame.with_columns(pl.Series("representation", values, dtype=frame.schema["representation"]))

    return apply


def widen(frame: pl.DataFrame) -> pl.DataFrame:
    values = np.zeros((frame.height, 3), dtype=np.float32)
    return frame.with_columns(pl.Series("representation", values, dtype=pl.Array(pl.Float32, 3)))


def table(name: str, *changes: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Path], None]:
    return redone(change(f"00/{name}.parquet", *changes))


SITES = [
    Case("vectors_nan", "vectors with NaN", vectors(put_number(np.nan)), ("vectors hold NaN or infinity", AGAIN_03)),
    Case(
        "vectors_infinite",
        "vectors with infinity",
        vectors(put_number(np.inf)),
        ("vectors hold NaN or infinity", AGAIN_03),
    ),
    Case(
        "vectors_null",
        "vectors that are null",
        vectors(lambda f: f.with_columns(representation=pl.lit(None, f.schema["representation"]))),
        ("column 'representation' of table representations must not be null", AGAIN),
    ),
    Case(
        "vectors_width",
        "parts with vectors of different width",
        vectors(widen),
        ("parts of table representations have different types in column 'representation'", AGAIN),
    ),
    Case(
        "vectors_twice",
        "vectors of a stay twice",
        vectors(rows_again(2)),
        ("2 rows repeat a (subject_id, layer, pooling)",),
    ),
    Case(
        "vectors_gone",
        "vectors of some stays missing",
        vectors(lambda f: f[:-8]),
        ("stays of the test split", "are missing"),
    ),
    Case(
        "vectors_strangers",
        "vectors of stays that are not there",
        vectors(
            lambda f: f.with_columns(
                subject_id=pl.when(pl.col("subject_id") == pl.col("subject_id").first())
                .then(pl.lit("stranger"))
                .otherwise("subject_id")
            )
        ),
        ("stays are not among them",),
    ),
    Case(
        "vectors_split",
        "vectors of a split that does not exist",
        vectors(set_rows("split", "dev", 2)),
        ("column 'split' holds 1 words other than train, val, test, in 2 rows", AGAIN),
    ),
    Case(
        "vectors_type",
        "vectors as lists",
        vectors(lambda f: f.with_columns(pl.col("representation").arr.to_list())),
        ("column 'representation' of table representations should be array[f32], found List", AGAIN),
    ),
    Case(
        "vectors_cut",
        "a file of vectors cut off",
        cut_off(VECTORS),
        ("part-00000.parquet is not a readable Parquet", "again"),
    ),
    Case("vectors_part", "a part of the vectors gone", remove(VECTORS), ("lacks 1 of its 2 parts", OTHER)),
    Case(
        "vectors_changed",
        "vectors that were changed after stage 03",
        change(VECTORS, put_number(0.5)),
        ("is not what 03_extract_reps.py wrote there", OTHER),
    ),
    Case("vectors_undone", "stage 03 not finished", remove("03/DONE"), ("holds no DONE", "run 03_extract_reps.py")),
    Case("vectors_done", "its DONE damaged", write_bytes("03/DONE", b"null"), ("DONE is damaged", OTHER)),
    Case(
        "vectors_others",
        "vectors made from other timelines",
        edit_json("03/DONE", lambda d: d["inputs"].update(timelines_dir="ff")),
        ("was made from other timelines", AGAIN_03),
    ),
    Case(
        "embeddings_gone",
        "no embeddings of tokens",
        redone(remove("03/token_embeddings.parquet"), directory="03"),
        ("token_embeddings.parquet does not exist", "run it again"),
    ),
    Case(
        "probability_nan",
        "probabilities that are NaN",
        predictions(set_rows("probability", np.nan, 3)),
        ("probabilities must be in [0, 1], but 3 of column 'probability' are not", AGAIN),
    ),
    Case(
        "probability_above",
        "probabilities above 1",
        predictions(set_rows("probability", 1.5, 2)),
        ("probabilities must be in [0, 1], but 2 of column 'probability' are not", AGAIN),
    ),
    Case(
        "probability_null",
        "probabilities that are null",
        predictions(set_rows("probability", None, 2)),
        ("column 'probability' of table predictions must not be null, found 2 nulls", AGAIN),
    ),
    Case(
        "predictions_twice",
        "a prediction twice",
        predictions(rows_again()),
        ("1 rows repeat a (subject_id, outcome)", AGAIN),
    ),
    Case(
        "predictions_of_others",
        "predictions of other stays",
        predictions(lambda f: f.with_columns(pl.col("subject_id") + "x")),
        ("stays of the labelled test stays", "are missing"),
    ),
    Case(
        "predictions_fewer",
        "predictions of some stays missing",
        predictions(lambda f: f.filter(pl.col("split") != "test")),
        ("are missing",),
    ),
    Case(
        "predictions_labels",
        "predictions of other labels",
        predictions(lambda f: f.with_columns(~pl.col("label"))),
        ("labels differ from outcomes.parquet", AGAIN_02),
    ),
    Case(
        "predictions_type",
        "probabilities as text",
        predictions(lambda f: f.with_columns(pl.col("probability").cast(pl.String))),
        ("column 'probability' of table predictions should be f32, found String", AGAIN),
    ),
    Case(
        "predictions_empty",
        "a file of zero bytes",
        write_bytes(PREDICTIONS, b""),
        ("predictions.parquet is not a readable", "again"),
    ),
    Case(
        "classifier_settings",
        "a damaged config.yaml of stage 02",
        write_bytes(f"{PREDICTED}/config.yaml", b"\xff\xfe"),
        ("config.yaml is not what 02_finetune.py wrote", "run that stage again"),
    ),
    Case(
        "classifier_list",
        "a config.yaml of stage 02 that is a list",
        write_bytes(f"{PREDICTED}/config.yaml", b"- 1"),
        ("config.yaml is not what 02_finetune.py wrote", "run that stage again"),
    ),
    Case(
        "predictions_copy",
        "one run of stage 02 twice",
        lambda f: shutil.copytree(f / PREDICTED, f / "02/copy"),
        ("occur twice", "keep one"),
    ),
    Case(
        "no_runs",
        "a folder without any run of stage 02",
        lambda f: [shutil.rmtree(p) for p in (f / "02").iterdir()],
        ("holds no run of 02_finetune.py", "run it first"),
    ),
    Case("subject_twice", "a stay twice", table("subjects", rows_again()), ("1 rows repeat a (subject_id)", AGAIN)),
    Case(
        "subject_age",
        "ages that are infinite",
        table("subjects", set_rows("age", np.inf, 2)),
        ("2 values of column 'age' are NaN or infinite", AGAIN),
    ),
    Case(
        "subject_lost",
        "stays that are in no split",
        table("splits", lambda f: f[5:]),
        ("are not in splits.parquet", AGAIN_00),
    ),
    Case(
        "patient_twice",
        "a patient in two splits",
        table(
            "splits",
            lambda f: f.with_columns(
                patient_id=pl.when(pl.int_range(pl.len()) < 12).then(pl.lit("p0")).otherwise("patient_id")
            ),
        ),
        ("patients are in more than one split",),
    ),
    Case("outcomes_lost", "outcomes of some stays missing", table("outcomes", lambda f: f[4:]), ("are missing",)),
    Case(
        "outcomes_strangers",
        "outcomes of stays without a timeline",
        table("outcomes", set_rows("subject_id", "stranger")),
        ("stays are not among them",),
    ),
    Case(
        "ledger_gone",
        "no ledger",
        redone(remove("00/ledger.parquet")),
        ("ledger.parquet does not exist", "run it again"),
    ),
    Case(
        "timelines_file",
        "a file in place of a directory",
        lambda f: [shutil.rmtree(f / "03"), (f / "03").write_text("x")],
        ("is not a directory", "expected what 03_extract_reps.py writes"),
    ),
]
