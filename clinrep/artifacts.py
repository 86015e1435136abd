"""The tables that cross stages: schema, checked read, atomic write, DONE."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from clinrep.config import InputError, lookup

SPLITS = ("train", "val", "test")

_TYPES: dict[str, pl.DataType] = {
    "str": pl.String(),
    "bool": pl.Boolean(),
    "i16": pl.Int16(),
    "u32": pl.UInt32(),
    "u64": pl.UInt64(),
    "f32": pl.Float32(),
    "f64": pl.Float64(),
    "datetime": pl.Datetime("us"),
    "list[u32]": pl.List(pl.UInt32),
    "list[f32]": pl.List(pl.Float32),
    "list[f64]": pl.List(pl.Float64),
    "list[datetime]": pl.List(pl.Datetime("us")),
}


class ArtifactError(InputError):
    """A stage's directory or table is not what its schema says."""


@dataclass(frozen=True)
class Column:
    """One column: its type as in `_TYPES` (or array[f32], any width), meaning, and whether null may occur."""

    type: str
    description: str
    is_nullable: bool = False


@dataclass(frozen=True)
class Table:
    """One table that a stage writes and later ones read."""

    stage: str
    path: str
    description: str
    columns: dict[str, Column]


_SUBJECT = Column("str", "one hospitalization (CLIF hospitalization_id)")
_PATIENT = Column("str", "a person; in exactly one split")
_SPLIT = Column("str", "train, val or test")
_OUTCOME = Column("str", "name in the outcome table, for example in_hospital_death")

TABLES: dict[str, Table] = {
    "splits": Table(
        "00_tokenize",
        "splits.parquet",
        "Every adult stay, also those a filter drops later.",
        {"patient_id": _PATIENT, "subject_id": _SUBJECT, "split": _SPLIT},
    ),
    "vocabulary": Table(
        "00_tokenize",
        "vocabulary.parquet",
        "The tokens, ids 0..V-1 in order.",
        {
            "token_id": Column("u32", "0..V-1, sorted"),
            "token": Column("str", "unique"),
            "kind": Column("str", "special, bin, static, discharge, or the event source's name"),
            "train_count": Column("u64", "occurrences in kept train timelines"),
        },
    ),
    "quantiles": Table(
        "00_tokenize",
        "quantiles.parquet",
        "Bin edges learned on train; a category without a finite train value has no row.",
        {
            "category": Column("str", "the token of the category, for example LAB_sodium"),
            "unit": Column("str", "normalised unit; null where the source declares none or it is missing", True),
            "train_count": Column("u64", "finite train values the edges come from"),
            "edges": Column("list[f64]", "num_bins - 1 edges, never decreasing, ties repeated"),
        },
    ),
    "timelines": Table(
        "00_tokenize",
        "timelines/{split}/part-{part:05d}.parquet",
        "Whole timelines, one row a stay, sorted by subject_id; later stages cut them at index_time.",
        {
            "subject_id": _SUBJECT,
            "token_ids": Column("list[u32]", "tokens in order: static, events by time, discharge"),
            "times": Column("list[datetime]", "UTC without zone, same length, never going backwards"),
        },
    ),
    "outcomes": Table(
        "00_tokenize",
        "outcomes.parquet",
        "One row per stay with a timeline and outcome.",
        {
            "subject_id": _SUBJECT,
            "outcome": _OUTCOME,
            "index_time": Column("datetime", "end of the observation window, UTC"),
            "label": Column("bool", "null = excluded, never false", True),
            "event_time": Column("datetime", "first time of the event, UTC; null where there is none", True),
            "excluded_reason": Column("str", "why label is null", True),
        },
    ),
    "subjects": Table(
        "00_tokenize",
        "subjects.parquet",
        "The stays that have a timeline, for subgroups and cohort tables.",
        {
            "subject_id": _SUBJECT,
            "patient_id": _PATIENT,
            "start": Column("datetime", "admission, UTC"),
            "end": Column("datetime", "discharge, UTC"),
            "age": Column("f64", "years at admission"),
            "sex": Column("str", "normalised sex_category", True),
            "race": Column("str", "normalised race_category", True),
            "ethnicity": Column("str", "normalised ethnicity_category", True),
            "length_of_stay_hours": Column("f64", "end - start"),
        },
    ),
    "ledger": Table(
        "00_tokenize",
        "ledger.parquet",
        "Every row read is kept or accounted for.",
        {
            "table": Column("str", "CLIF table"),
            "step": Column("str", "filter, in order; 'SOURCE: ...' for those of one event source"),
            "rows_in": Column("u64", "rows before the step"),
            "rows_out": Column("u64", "rows after the step"),
            "reason": Column("str", "why the difference was dropped, or what was noted"),
        },
    ),
    "predictions": Table(
        "02_finetune",
        "predictions.parquet",
        "The classifier's probability for every labelled stay of every split.",
        {
            "subject_id": _SUBJECT,
            "split": _SPLIT,
            "outcome": _OUTCOME,
            "label": Column("bool", "the outcome"),
            "probability": Column("f32", "predicted probability that label is true"),
        },
    ),
    "representations": Table(
        "03_extract_reps",
        "representations/{split}/part-{part:05d}.parquet",
        "One row per stay, layer and pooling.",
        {
            "subject_id": _SUBJECT,
            "split": _SPLIT,
            "layer": Column("i16", "0 = embeddings, n = after layer n (the last includes the final norm)"),
            "pooling": Column("str", "last_token or mean"),
            "representation": Column("array[f32]", "the pooled hidden state, width = the model's"),
        },
    ),
    "token_embeddings": Table(
        "03_extract_reps",
        "token_embeddings.parquet",
        "The model's input embedding of every token, for the embedding figures.",
        {
            "token_id": Column("u32", "as in vocabulary.parquet"),
            "token": Column("str", "as in vocabulary.parquet"),
            "kind": Column("str", "as in vocabulary.parquet"),
            "embedding": Column("array[f32]", "width = the model's"),
        },
    ),
    "scores": Table(
        "04_analyze",
        "scores.parquet",
        "Performance on test, one row per number.",
        {
            "site": Column("str", "name given on the command line"),
            "model": Column("str", "what produced the input of the probe, or the predictions"),
            "probe": Column("str", "name in the probe table; none for a fine-tuned classifier"),
            "outcome": _OUTCOME,
            "subgroup": Column("str", "all, or the subgroup"),
            "metric": Column("str", "name in the metric table"),
            "estimate": Column("f64", "null where there are too few events", True),
            "low": Column("f64", "2.5 % bootstrap quantile; null where there are too few events", True),
            "high": Column("f64", "97.5 % bootstrap quantile; null where there are too few events", True),
            "num_subjects": Column("u64", "labelled test stays"),
            "num_events": Column("u64", "of these, with the event"),
        },
    ),
}


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` that takes its place when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)  # os.replace does not replace a folder that holds files
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table(name: str, frame: pl.DataFrame, directory: Path, split: str = "", part: int = 0) -> Path:
    """Check `frame` against the schema of table `name` and write it under `directory`.

    Columns are put in the schema's order.
    """
    table = lookup(TABLES, name, "table")
    path = directory / table.path.format(split=split, part=part)
    frame = frame.select([column for column in table.columns if column in frame.columns])
    _check_columns(name, frame, path)
    with atomic_path(path) as temporary:
        frame.write_parquet(temporary, compression="zstd")
    return path


def read_table(name: str, directory: Path, split: str = "") -> pl.DataFrame:
    """Read table `name` of a finished stage directory; parts are joined in order.

    Raises:
        ArtifactError: no DONE, no file, or a column that is not what the schema says.
    """
    table = lookup(TABLES, name, "table")
    read_done(directory, table.stage)
    pattern = table.path.replace("{part:05d}", "*").replace("{split}", split or "*")
    paths = sorted(directory.glob(pattern))
    if not paths:
        raise ArtifactError(f"{directory / pattern} does not exist; {table.stage}.py writes it: run it again")
    return pl.concat([_read_part(name, path) for path in paths])


def read_table_file(name: str, path: Path) -> pl.DataFrame:
    """Read one file of table `name` wherever it lies, for example a split made elsewhere."""
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; expected a {name} table as {TABLES[name].stage}.py writes")
    return _read_part(name, path)


def _read_part(name: str, path: Path) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.ComputeError, OSError) as error:
        stage = TABLES[name].stage
        raise ArtifactError(f"{path} is not a readable Parquet file ({error}); run {stage}.py again") from error
    _check_columns(name, frame, path)
    return frame.select(list(TABLES[name].columns))


def _check_columns(name: str, frame: pl.DataFrame, path: Path) -> None:
    table = TABLES[name]
    for column, expected in table.columns.items():
        found = frame.schema.get(column)
        if not _is_type(found, expected.type):
            raise ArtifactError(
                f"{path}: column {column!r} of table {name} should be {expected.type}, found "
                f"{'no such column' if found is None else found}; {table.stage}.py writes it: run it again"
            )
        if not expected.is_nullable and frame[column].null_count():
            raise ArtifactError(
                f"{path}: column {column!r} of table {name} must not be null, found "
                f"{frame[column].null_count()} nulls; {table.stage}.py writes it: run it again"
            )


def _is_type(found: pl.DataType | None, expected: str) -> bool:
    if expected == "array[f32]":
        return isinstance(found, pl.Array) and found.inner == pl.Float32()
    return found == _TYPES[expected]


def write_done(directory: Path, stage: str, rows: dict[str, int], inputs: dict[str, str]) -> None:
    """Write DONE, the last file of a run: what it holds and what it was made from."""
    outputs = {
        str(path.relative_to(directory)): fingerprint_file(path)
        for path in sorted(directory.rglob("*"))
        if path.suffix in {".parquet", ".safetensors"} and "checkpoints" not in path.parts
    }
    content = {"stage": stage, "rows": rows, "inputs": inputs, "outputs": outputs}
    write_text(directory / "DONE", json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_done(directory: Path, stage: str) -> dict[str, Any]:
    """Return the content of DONE of a finished directory that `stage` wrote, else raise ArtifactError."""
    if not directory.is_dir():
        raise ArtifactError(f"{directory} is not a directory; expected what {stage}.py writes")
    path = directory / "DONE"
    if not path.is_file():
        raise ArtifactError(f"{directory} holds no DONE, so no finished run; run {stage}.py to its end first")
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        found = content["stage"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); run {stage}.py again in a new directory") from error
    if found != stage:
        raise ArtifactError(f"{directory} was written by {found}.py, expected a directory of {stage}.py")
    return content


def find_model(directory: Path, folder: str, stage: str) -> Path:
    """Return the saved model (`backbone` or `classifier`) that `directory` names.

    `directory` is a finished run of `stage`, or the model's folder itself: inside a run directory
    (then that run must be finished) or copied away on its own.
    """
    model = directory / folder if (directory / folder).is_dir() else directory
    run = model.parent if (model.parent / "config.yaml").is_file() else None
    if model == directory and not (directory / "model.safetensors").is_file():
        run = directory
    if run is not None:
        read_done(run, stage)
    for name in ("config.json", "model.safetensors", "vocabulary.parquet"):
        if not (model / name).is_file():
            raise ArtifactError(f"{model / name} does not exist; {stage}.py writes it into {folder}/")
    return model


def fingerprint_file(path: Path) -> str:
    """Return a digest of a file's content."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(path: Path) -> str:
    """Return a digest of an input's content: a finished run, any other folder, or a file.

    Equal digests mean equal inputs wherever they lie. Of a plain folder the files directly in it count.
    """
    if path.is_file():
        return fingerprint_file(path)
    if not path.is_dir():
        raise InputError(f"{path} does not exist")
    if (path / "DONE").is_file():
        try:
            content = json.loads((path / "DONE").read_text())
            parts = [content["stage"], *sorted(content["outputs"].items())]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path / 'DONE'} is damaged ({error}); run that stage again") from error
    else:
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        parts = [(file.name, fingerprint_file(file)) for file in files]
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def describe_tables() -> str:
    """Return docs/data.md: every table with its columns."""
    lines = [
        "# What crosses the doors",
        "",
        "Generated by `python -m clinrep.artifacts > docs/data.md` (`make docs`); a test fails when they differ.",
        "All tables are Parquet. Times are UTC without a zone, in microseconds. `{part}` counts from 0.",
    ]
    for name, table in TABLES.items():
        lines += ["", f"## {name}", "", f"`{table.path}`, written by `{table.stage}.py`. {table.description}", ""]
        lines += ["| column | type | null | meaning |", "| --- | --- | --- | --- |"]
        for column, spec in table.columns.items():
            null = "yes" if spec.is_nullable else "no"
            lines.append(f"| `{column}` | {spec.type} | {null} | {spec.description} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(describe_tables(), end="")
