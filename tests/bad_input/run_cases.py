"""What is wrong with directories of earlier stages and with saved models, and what the later stages make of it."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file

from tests.bad_input.workshop import Case, both, change, cut_off, finish_again, remove, set_rows, write_bytes

# folders of the copies: 00 of stage 00, 01 of stage 01, 02 of stage 02
TRAIN, VAL = "00/timelines/train/part-00000.parquet", "00/timelines/val/part-00000.parquet"
TEST = "00/timelines/test/part-00000.parquet"
AGAIN = "run it again"
OTHER = "in a new directory"


def redone(*damages: Callable[[Path], object], directory: str = "00") -> Callable[[Path], None]:
    """Return the damage as if the stage had written it so: DONE vouches for it."""
    return both(*damages, finish_again(directory))


def change_text(path: str, old: str, new: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        text = (folder / path).read_text()
        assert old in text
        (folder / path).write_text(text.replace(old, new))

    return damage


def edit_json(path: str, edit: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / path).read_text())
        edit(content)
        (folder / path).write_text(json.dumps(content))

    return damage


def edit_weights(path: str, edit: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / path)
        edit(weights)
        save_file(weights, folder / path, metadata={"format": "pt"})

    return damage


def edit_settings(directory: str, text: str) -> Callable[[Path], None]:
    return write_bytes(f"{directory}/config.yaml", text.encode())


def copy(source: str, target: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        shutil.copy(folder / source, folder / target)

    return damage


def put_id(value: int | None) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Return what sets the last token of the first timeline."""

    def apply(frame: pl.DataFrame) -> pl.DataFrame:
        ids = frame["token_ids"].to_list()
        ids[0][2] = value
        return frame.with_columns(pl.Series("token_ids", ids, dtype=pl.List(pl.UInt32)))

    return apply


def shorten(column: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda f: f.with_columns(
        pl.when(pl.int_range(pl.len()) == 0).then(pl.col(column).list.head(3)).otherwise(pl.col(column)).alias(column)
    )


def rows_again(num: int = 1) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda f: pl.concat([f, f[:num]])


VOCABULARY, QUANTILES, SPLITS = "00/vocabulary.parquet", "00/quantiles.parquet", "00/splits.parquet"
OUTCOMES = "00/outcomes.parquet"


def write_part(folder: Path) -> None:
    """Divide the test timelines into two parts, then lose one."""
    frame = pl.read_parquet(folder / TEST)
    frame[:2].write_parquet(folder / TEST)
    frame[2:].write_parquet(folder / TEST.replace("00000", "00001"))
    finish_again("00")(folder)
    (folder / TEST.replace("00000", "00001")).unlink()


TIMELINES = [
    Case("no_done", "an unfinished directory", remove("00/DONE"), ("holds no DONE", "run 00_tokenize.py to its end")),
    Case("done_empty", "an empty DONE", write_bytes("00/DONE", b""), ("DONE is damaged", OTHER)),
    Case("done_list", "a DONE that is no table", write_bytes("00/DONE", b"[1]"), ("DONE is damaged", OTHER)),
    Case("done_bytes", "a DONE that is no text", write_bytes("00/DONE", b"\xff\xfe\x00"), ("DONE is damaged", OTHER)),
    Case("done_part", "a DONE that was cut off", cut_off("00/DONE"), ("DONE is damaged", OTHER)),
    Case(
        "done_outputs",
        "a DONE without its list of outputs",
        edit_json("00/DONE", lambda d: d.pop("outputs")),
        ("DONE is damaged (it lists no outputs)", "again"),
    ),
    Case(
        "done_kinds",
        "a DONE whose outputs are a number",
        edit_json("00/DONE", lambda d: d.update(outputs=3)),
        ("DONE is damaged (a part is of another type)", OTHER),
    ),
    Case(
        "done_other",
        "a directory of another stage",
        edit_json("00/DONE", lambda d: d.update(stage="04_analyze")),
        ("was written by 04_analyze.py", "expected a directory of 00_tokenize.py"),
    ),
    Case("settings_gone", "config.yaml is gone", remove("00/config.yaml"), ("config.yaml cannot be read", "again")),
    Case(
        "settings_bytes",
        "config.yaml is no text",
        write_bytes("00/config.yaml", b"\xff\xfe\x00"),
        ("config.yaml is not what 00_tokenize.py wrote", AGAIN[-5:]),
    ),
    Case(
        "settings_list", "config.yaml is a list", redone(edit_settings("00", "- 1\n")), ("holds no settings", "again")
    ),
    Case(
        "settings_edited",
        "a setting edited after the run",
        change_text("00/config.yaml", "is_end_closed: false", "is_end_closed: true"),
        ("config.yaml is not what 00_tokenize.py wrote", "in a new directory"),
    ),
    Case(
        "settings_other",
        "config.yaml of another stage",
        redone(edit_settings("00", "timelines_dir: x\nbackbone_dir: y\n")),
        ("static_tokens is missing", "is it the file of another stage?"),
    ),
    Case(
        "settings_window",
        "a setting of another type",
        redone(edit_settings("00", "static_tokens: []\nwindow: 24\n")),
        ("window.is_end_closed is missing", "is it the file of another stage?"),
    ),
    Case("truncated", "a table cut off", cut_off(TEST), (f"{TEST[3:]} is not a readable Parquet", AGAIN[-5:])),
    Case(
        "empty_file",
        "a table of zero bytes",
        write_bytes(OUTCOMES, b""),
        ("outcomes.parquet is not a readable", "again"),
    ),
    Case("table_gone", "a table is gone", remove(OUTCOMES), ("outcomes.parquet does not exist", "run it again")),
    Case("part_gone", "one part of the timelines is gone", write_part, ("lacks 1 of its 2 parts", OTHER)),
    Case(
        "changed",
        "a table that was changed after its stage was done",
        change(OUTCOMES, lambda f: f.with_columns(label=pl.col("label").not_())),
        ("outcomes.parquet is not what 00_tokenize.py wrote there", OTHER),
    ),
    Case(
        "column_gone",
        "a table without a column",
        redone(change(OUTCOMES, lambda f: f.drop("index_time"))),
        ("column 'index_time' of table outcomes should be datetime, found no such column", AGAIN),
    ),
    Case(
        "column_type",
        "a column of another type",
        redone(change(TEST, lambda f: f.with_columns(pl.col("token_ids").cast(pl.List(pl.Int64))))),
        ("column 'token_ids' of table timelines should be list[u32], found List(Int64)", AGAIN),
    ),
    Case(
        "column_null",
        "nulls where there may be none",
        redone(change(OUTCOMES, set_rows("index_time", None, 2))),
        ("column 'index_time' of table outcomes must not be null, found 2 nulls", AGAIN),
    ),
    Case(
        "null_tokens",
        "nulls within a timeline",
        redone(change(TEST, put_id(None))),
        ("column 'token_ids' holds 1 nulls within its lists", AGAIN),
    ),
    Case(
        "unequal",
        "a timeline with fewer times than tokens",
        redone(change(TEST, shorten("times"))),
        ("in 1 rows 'times' is not as long as 'token_ids'", AGAIN),
    ),
    Case(
        "strange_id",
        "a token that the vocabulary lacks",
        redone(change(TEST, put_id(4000))),
        ("1 tokens have an id above 28", "run 00_tokenize.py again"),
    ),
    Case(
        "timeline_twice",
        "two timelines of one stay",
        redone(change(TEST, rows_again())),
        ("1 rows repeat a (subject_id) that must be unique", AGAIN),
    ),
    Case(
        "timeline_in_two_splits",
        "a stay with timelines in two splits",
        redone(copy(TRAIN, TEST)),
        ("timelines are of a stay that has another", "run 00 again"),
    ),
    Case(
        "no_timeline",
        "a stay with outcomes and no timeline",
        redone(change(TEST, lambda f: f[1:])),
        ("1 stays with outcomes have no timeline",),
    ),
    Case(
        "ids_missing",
        "a vocabulary with a gap",
        redone(change(VOCABULARY, lambda f: f.filter(pl.col("token_id") != 7))),
        ("token_id should be 0..27 in order", AGAIN),
    ),
    Case(
        "ids_twice",
        "a vocabulary with an id twice",
        redone(
            change(
                VOCABULARY,
                lambda f: f.with_columns(
                    token_id=pl.when(pl.col("token_id") == 7).then(6).otherwise("token_id").cast(pl.UInt32)
                ),
            )
        ),
        ("token_id should be 0..28 in order, each once; found 28", AGAIN),
    ),
    Case(
        "token_twice",
        "a vocabulary with a word twice",
        redone(
            change(VOCABULARY, lambda f: f.with_columns(token=pl.col("token").replace("LAB_sodium", "LAB_lactate")))
        ),
        ("1 rows repeat a (token) that must be unique", AGAIN),
    ),
    Case(
        "no_pad",
        "a vocabulary without PAD",
        redone(
            change(VOCABULARY, lambda f: f.with_columns(pl.col("token").replace("PAD", "FILL"))),
            copy(VOCABULARY, "01/backbone/vocabulary.parquet"),
            finish_again("01"),
        ),
        ("holds no token PAD of kind special", "run 00_tokenize.py again"),
    ),
    Case(
        "edges_falling",
        "quantile edges that are not sorted",
        redone(change(QUANTILES, lambda f: f.with_columns(pl.col("edges").list.reverse()))),
        ("the edges of 5 categories decrease", AGAIN),
    ),
    Case(
        "edges_lengths",
        "quantile edges of different number",
        redone(change(QUANTILES, shorten("edges"))),
        ("column 'edges' has lists of 3 to 9 edges", AGAIN),
    ),
    Case(
        "category_twice",
        "quantiles with a category twice",
        redone(change(QUANTILES, rows_again())),
        ("1 rows repeat a (category, unit) that must be unique", AGAIN),
    ),
    Case(
        "stay_in_two_splits",
        "splits with a stay twice",
        redone(change(SPLITS, rows_again(2))),
        ("2 rows repeat a (subject_id) that must be unique", AGAIN),
    ),
    Case(
        "patient_in_two_splits",
        "splits with a patient twice",
        redone(
            change(
                SPLITS,
                lambda f: f.with_columns(
                    patient_id=pl.when(pl.int_range(pl.len()) >= pl.len() - 1)
                    .then(pl.col("patient_id").first())
                    .otherwise("patient_id")
                ),
            )
        ),
        ("1 patients are in more than one split", "run 00 again"),
    ),
    Case(
        "unknown_split",
        "a split that is none of the three",
        redone(change(SPLITS, set_rows("split", "dev", 3))),
        ("column 'split' holds 1 words other than train, val, test, in 3 rows", AGAIN),
    ),
    Case(
        "stay_in_no_split",
        "outcomes of a stay that is in no split",
        redone(change(SPLITS, lambda f: f[1:])),
        ("stays of outcomes.parquet are in no split",),
    ),
    Case(
        "outcome_twice",
        "outcomes with a stay twice",
        redone(change(OUTCOMES, rows_again(3))),
        ("3 rows repeat a (subject_id, outcome) that must be unique", AGAIN),
    ),
    Case(
        "two_index_times",
        "a stay with two index times",
        redone(
            change(
                OUTCOMES,
                lambda f: f.with_columns(
                    index_time=pl.when(pl.int_range(pl.len()) == 0)
                    .then(pl.col("index_time").dt.offset_by("1h"))
                    .otherwise("index_time")
                ),
            )
        ),
        ("outcomes.parquet has stays with several index times", "run 00 again"),
    ),
    Case(
        "label_and_reason",
        "a label beside the reason why there is none",
        redone(change(OUTCOMES, set_rows("excluded_reason", "event before index_time", 2))),
        ("rows have both a label and an excluded_reason", AGAIN),
    ),
    Case(
        "no_outcomes",
        "outcomes without rows",
        redone(change(OUTCOMES, lambda f: f.clear())),
        ("outcomes.parquet is empty", "name outcomes in 00"),
    ),
    Case(
        "a_file",
        "a file in place of the directory",
        both(remove("00"), write_bytes("00", b"x")),
        ("is not a directory", "expected what 00_tokenize.py writes"),
    ),
    Case("gone", "no such directory", remove("00"), ("--timelines_dir", "does not exist", "check the path")),
]

BACKBONE = "01/backbone/model.safetensors"
SHAPE = "01/backbone/config.json"
TRAIN_AGAIN = "train"


def pickle_weights(path: str) -> Callable[[Path], None]:
    return write_bytes(path, pickle.dumps({"model.embed_tokens.weight": [1.0, 2.0]}))


def torch_weights(path: str) -> Callable[[Path], None]:
    return lambda folder: torch.save({"x": torch.zeros(3)}, folder / path)


def model(name: str, what: str, damage: Callable[[Path], object], *words: str) -> Case:
    """Return a case of a backbone that its run's DONE vouches for."""
    return Case(name, what, redone(damage, directory="01"), (*words, "again") if len(words) == 1 else words)


def scale(name: str, value: float) -> Callable[[dict], None]:
    def edit(weights: dict) -> None:
        weights[name] = weights[name].clone()
        weights[name].view(-1)[0] = value

    return edit


NORM = "model.norm.weight"
MODELS = [
    model("pickle", "a pickle where safetensors should be", pickle_weights(BACKBONE), "cannot be read"),
    model("torch_file", "a file of torch.save where safetensors should be", torch_weights(BACKBONE), "cannot be read"),
    model("truncated", "weights cut off", cut_off(BACKBONE), "cannot be read"),
    model("no_bytes", "weights of zero bytes", write_bytes(BACKBONE, b""), "cannot be read"),
    model(
        "long_header",
        "weights whose header is longer than the file",
        write_bytes(BACKBONE, (1 << 60).to_bytes(8, "little") + b"{}"),
        "cannot be read",
    ),
    model(
        "header_list",
        "weights whose header is no table",
        write_bytes(BACKBONE, (2).to_bytes(8, "little") + b"[]"),
        "cannot be read",
    ),
    model(
        "nan",
        "weights that are NaN",
        edit_weights(BACKBONE, scale(NORM, np.nan)),
        "model.safetensors: 1 tensors hold NaN or infinity, as model.norm.weight",
    ),
    model(
        "infinite",
        "weights that are infinite",
        edit_weights(BACKBONE, scale(NORM, np.inf)),
        "1 tensors hold NaN or infinity",
    ),
    model(
        "lacking",
        "weights without one of their tensors",
        edit_weights(BACKBONE, lambda w: w.pop(NORM)),
        "model.safetensors lacks model.norm.weight",
    ),
    model(
        "width",
        "weights of another width than config.json says",
        edit_json(SHAPE, lambda c: c.update(hidden_size=32, head_dim=16)),
        "cannot be read",
    ),
    model(
        "layers",
        "fewer layers than config.json says",
        edit_json(SHAPE, lambda c: c.update(num_hidden_layers=3)),
        "lacks model.layers.2",
    ),
    model(
        "vocabulary",
        "a config.json of another vocabulary",
        edit_json(SHAPE, lambda c: c.update(vocab_size=99)),
        "says vocab_size 99 but vocabulary.parquet beside it has 29 tokens",
    ),
    model("not_json", "a config.json that is none", write_bytes(SHAPE, b"{"), "config.json cannot be read"),
    model("json_list", "a config.json that is a list", write_bytes(SHAPE, b"[]"), "config.json cannot be read"),
    model("json_bytes", "a config.json that is no text", write_bytes(SHAPE, b"\xff\xfe"), "config.json cannot be read"),
    model(
        "text_width", "a width that is text", edit_json(SHAPE, lambda c: c.update(hidden_size="wide")), "config.json"
    ),
    model(
        "zero_heads", "a model of no heads", edit_json(SHAPE, lambda c: c.update(num_attention_heads=0)), "01/backbone"
    ),
    model(
        "other_architecture",
        "a config.json of another architecture",
        edit_json(SHAPE, lambda c: c.update(model_type="bert")),
        "config.json is of a bert, expected a llama",
    ),
    model("no_shape", "no config.json", remove(SHAPE), "config.json does not exist", "writes it into backbone/"),
    model("no_weights", "no weights", remove(BACKBONE), "model.safetensors does not exist", "writes it into backbone/"),
    model(
        "only_bin",
        "a pickle beside, and no safetensors",
        both(remove(BACKBONE), torch_weights("01/backbone/pytorch_model.bin")),
        "holds pytorch_model.bin but no model.safetensors",
        "save the model as model.safetensors where it was trained",
    ),
    model(
        "no_vocabulary",
        "no vocabulary beside the weights",
        remove("01/backbone/vocabulary.parquet"),
        "vocabulary.parquet does not exist",
        "writes it into backbone/",
    ),
    model(
        "other_words",
        "the vocabulary of another tokenizer",
        change("01/backbone/vocabulary.parquet", lambda f: f.with_columns(pl.col("token").replace("AGE", "AGES"))),
        "vocabulary.parquet of the model",
        "--tokenizer_dir",
    ),
    model(
        "other_edges",
        "the quantile edges of another tokenizer",
        change(
            "01/backbone/quantiles.parquet", lambda f: f.with_columns(edges=pl.col("edges").list.eval(pl.element() + 1))
        ),
        "quantiles.parquet of the model",
        "--tokenizer_dir",
    ),
    Case(
        "changed",
        "weights that were changed after training",
        edit_weights(BACKBONE, scale(NORM, 0.5)),
        ("model.safetensors is not what 01_pretrain.py wrote there", OTHER),
    ),
    Case("unfinished", "a training that has not ended", remove("01/DONE"), ("holds no DONE", "run 01_pretrain.py")),
    Case(
        "other_stage",
        "the directory of another stage",
        edit_json("01/DONE", lambda d: d.update(stage="00_tokenize")),
        ("was written by 00_tokenize.py", "expected a directory of 01_pretrain.py"),
    ),
    Case("done_damaged", "a damaged DONE", write_bytes("01/DONE", b"{}"), ("DONE is damaged", OTHER)),
    Case("model_gone", "no such directory", remove("01"), ("--backbone_dir", "does not exist", "check the path")),
]
