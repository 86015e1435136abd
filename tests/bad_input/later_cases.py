"""What is wrong with tokenizers to apply, timelines to train on, outcomes, classifiers and checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl

from tests.bad_input.run_cases import (
    AGAIN,
    OTHER,
    OUTCOMES,
    TRAIN,
    VAL,
    edit_json,
    edit_settings,
    pickle_weights,
    put_id,
    redone,
    shorten,
)
from tests.bad_input.workshop import Case, both, change, cut_off, finish_again, remove, set_rows, write_bytes

Change = Callable[[pl.DataFrame], pl.DataFrame]

# 00 is the tokenizer's directory

VOCABULARY, QUANTILES, CATEGORIES = (f"00/{name}.parquet" for name in ("vocabulary", "quantiles", "categories"))


def put_edge(value: float | None) -> Change:
    def apply(frame: pl.DataFrame) -> pl.DataFrame:
        edges = frame["edges"].to_list()
        edges[0][1] = value
        return frame.with_columns(pl.Series("edges", edges, dtype=pl.List(pl.Float64)))

    return apply


def fewer_edges(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col("edges").list.head(2))


TOKENIZERS = [
    Case("gone", "no such directory", remove("00"), ("--tokenizer_dir", "does not exist", "check the path")),
    Case("unfinished", "an unfinished run", remove("00/DONE"), ("holds no DONE", "run 00_tokenize.py to its end")),
    Case("done", "a damaged DONE", write_bytes("00/DONE", b"{"), ("DONE is damaged", OTHER)),
    Case(
        "settings",
        "a damaged config.yaml",
        both(write_bytes("00/config.yaml", b": :"), finish_again("00")),
        ("config.yaml cannot be read", "again"),
    ),
    Case(
        "settings_other",
        "config.yaml of another stage",
        both(edit_settings("00", "backbone_dir: x\n"), finish_again("00")),
        ("was made with other settings of sources", "then your --clif_dir"),
    ),
    Case("vocabulary", "a vocabulary cut off", cut_off(VOCABULARY), ("vocabulary.parquet is not a readable", "again")),
    Case(
        "ids",
        "a vocabulary whose ids have a gap",
        redone(change(VOCABULARY, lambda f: f[:3].vstack(f[4:]))),
        ("token_id should be 0..", AGAIN),
    ),
    Case(
        "words",
        "a vocabulary with a word twice",
        redone(
            change(
                VOCABULARY,
                lambda f: f.with_columns(token=pl.when(pl.col("token_id") == 3).then(pl.lit("PAD")).otherwise("token")),
            )
        ),
        ("repeat a (token)", AGAIN),
    ),
    Case(
        "falling",
        "edges that are not sorted",
        redone(change(QUANTILES, put_edge(1e9))),
        ("the edges of 1 categories decrease", AGAIN),
    ),
    Case(
        "fewer",
        "fewer edges than bins need",
        redone(change(QUANTILES, fewer_edges)),
        ("2 of 2 categories have not the 3 edges that num_bins asks for", "run 00_tokenize.py again"),
    ),
    Case(
        "null_edges",
        "edges that are null",
        redone(change(QUANTILES, put_edge(None))),
        ("column 'edges' holds 1 nulls within its lists", AGAIN),
    ),
    Case(
        "edited",
        "a vocabulary that was edited",
        change(VOCABULARY, lambda f: f.with_columns(pl.col("train_count") + 1)),
        ("vocabulary.parquet is not what 00_tokenize.py wrote there", OTHER),
    ),
    Case(
        "no_categories",
        "no table of categories",
        redone(remove(CATEGORIES)),
        ("categories.parquet does not exist", AGAIN),
    ),
    Case(
        "zero", "quantiles of zero bytes", write_bytes(QUANTILES, b""), ("quantiles.parquet is not a readable", "again")
    ),
]

PRETRAINING = [
    Case(
        "null",
        "nulls within a timeline",
        redone(change(TRAIN, put_id(None))),
        ("holds 1 nulls within its lists", AGAIN),
    ),
    Case(
        "strange",
        "a token that the vocabulary lacks",
        redone(change(TRAIN, put_id(77))),
        ("token id 77 but the vocabulary ends at 28", "run 00_tokenize.py again"),
    ),
    Case(
        "unequal",
        "a timeline with fewer tokens than times",
        redone(change(TRAIN, shorten("token_ids"))),
        ("in 1 rows 'times' is not as long as 'token_ids'", AGAIN),
    ),
    Case(
        "empty",
        "a split without a timeline",
        redone(change(VAL, lambda f: f.clear())),
        ("the val split holds no timeline", "give 00_tokenize.py more patients or other fractions"),
    ),
    Case(
        "gone", "a split whose folder is gone", redone(remove("00/timelines/val")), ("the val split holds no timeline",)
    ),
    Case("cut", "timelines cut off", cut_off(TRAIN), ("part-00000.parquet is not a readable Parquet", "again")),
    Case(
        "column",
        "timelines without times",
        redone(change(TRAIN, lambda f: f.drop("times"))),
        ("column 'times' of table timelines should be list[datetime], found no such column", AGAIN),
    ),
    Case(
        "changed",
        "timelines that were changed",
        change(TRAIN, lambda f: f[1:]),
        ("is not what 00_tokenize.py wrote there", OTHER),
    ),
]


def label(value: bool | None) -> Change:
    def apply(frame: pl.DataFrame) -> pl.DataFrame:
        reason = "excluded_reason" if value is not None else None
        frame = frame.with_columns(label=pl.lit(value, pl.Boolean))
        return frame.with_columns(excluded_reason=pl.lit(None if reason else "nobody", pl.String))

    return apply


SHAPE, WEIGHTS = "02/classifier/config.json", "02/classifier/model.safetensors"
# the model is the classifier in 02, but where the name begins with labels
FINETUNING = [
    Case(
        "labels_one_class",
        "labels of one class",
        redone(change(OUTCOMES, label(False))),
        ("the train split has 0 of", "stays with the event", "no classifier can learn from one class"),
    ),
    Case(
        "labels_none",
        "no label at all",
        redone(change(OUTCOMES, label(None))),
        ("the train split has no labelled stay", "give 00 other fractions"),
    ),
    Case(
        "labels_other",
        "an outcome that is not there",
        redone(change(OUTCOMES, lambda f: f.filter(outcome="imv_event"))),
        ("unknown outcome of", "known: imv_event"),
    ),
    Case(
        "labels_split",
        "outcomes of stays in no split",
        redone(change("00/splits.parquet", lambda f: f[3:])),
        ("stays of outcomes.parquet are in no split",),
    ),
    Case(
        "labels_reason",
        "a reason beside a label",
        redone(change(OUTCOMES, set_rows("excluded_reason", "why", 60))),
        ("have both a label and an excluded_reason", AGAIN),
    ),
    Case(
        "pickle",
        "a classifier that is a pickle",
        redone(pickle_weights(WEIGHTS), directory="02"),
        ("cannot be read", "again"),
    ),
    Case("cut", "a classifier cut off", redone(cut_off(WEIGHTS), directory="02"), ("cannot be read", "again")),
    Case(
        "no_head",
        "a backbone in place of a classifier",
        redone(lambda f: shutil.copy(f / "01/backbone/model.safetensors", f / WEIGHTS), directory="02"),
        ("lacks score.weight", "again"),
    ),
    Case(
        "width",
        "a classifier of another width",
        redone(edit_json(SHAPE, lambda c: c.update(hidden_size=48)), directory="02"),
        ("cannot be read", "again"),
    ),
    Case("done", "a damaged DONE of it", write_bytes("02/DONE", b""), ("DONE is damaged", OTHER)),
    Case(
        "settings",
        "config.yaml of it of another stage",
        both(edit_settings("02", "timelines_dir: x\n"), finish_again("02")),
        ("outcome is missing", "is it the file of another stage?"),
    ),
    Case(
        "backbone",
        "the directory of a backbone given as a classifier's",
        lambda f: (shutil.rmtree(f / "02"), shutil.copytree(f / "01", f / "02")),
        ("was written by 01_pretrain.py", "expected a directory of 02_finetune.py"),
    ),
]

CHECKPOINT = "out/checkpoints/checkpoint-2"


def fill(path: str) -> Callable[[Path], None]:
    """Return what overwrites a file without changing its size, and so is not seen by looking at sizes."""

    def damage(folder: Path) -> None:
        (folder / path).write_bytes(b"\x80" * (folder / path).stat().st_size)

    return damage


def forget_ranks(folder: Path) -> None:
    marker = folder / CHECKPOINT / "COMPLETE"
    content = json.loads(marker.read_text())
    marker.write_text(json.dumps(content | {"world_size": 8}))


CHECKPOINTS = [
    Case(
        "cut",
        "weights cut off",
        cut_off(f"{CHECKPOINT}/model.safetensors"),
        ("checkpoint-2 is damaged (model.safetensors has", "remove that folder to go on from checkpoint-1"),
    ),
    Case(
        "gone",
        "a file of it gone",
        remove(f"{CHECKPOINT}/optimizer.pt"),
        ("checkpoint-2 is damaged (optimizer.pt is missing)", "remove that folder to go on from checkpoint-1"),
    ),
    Case(
        "state",
        "its state overwritten",
        fill(f"{CHECKPOINT}/trainer_state.json"),
        ("checkpoint-2 cannot be loaded", "remove that folder to go on from checkpoint-1"),
    ),
    Case(
        "optimizer",
        "the optimizer's state overwritten",
        fill(f"{CHECKPOINT}/optimizer.pt"),
        ("checkpoint-2 cannot be loaded", "remove that folder to go on from checkpoint-1"),
    ),
    Case(
        "weights",
        "weights overwritten",
        fill(f"{CHECKPOINT}/model.safetensors"),
        ("checkpoint-2 cannot be loaded", "remove that folder to go on from checkpoint-1"),
    ),
    Case(
        "ranks",
        "saved by another number of processes",
        forget_ranks,
        ("was saved by 8 processes and this run has 1", "start 8, or use another --output_dir"),
    ),
]
