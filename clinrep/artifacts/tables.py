"""Checked reading and writing of the tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow
import pyarrow.parquet

from clinrep.artifacts.columns import ARRAY_TYPES, TYPES, ArtifactError
from clinrep.artifacts.contents import find_fault
from clinrep.artifacts.files import atomic_path, read_done
from clinrep.artifacts.schema import TABLES
from clinrep.config import lookup
from clinrep.failures import pass_disk_error, say


def write_table(name: str, frame: pl.DataFrame, directory: Path, split: str = "", part: int = 0) -> Path:
    """Check `frame` against the schema of table `name` and write it under `directory`.

    Columns are put in the schema's order. A frame that breaks the schema is our mistake, not the user's.
    """
    table = lookup(TABLES, name, "table")
    path = directory / table.path.format(split=split, part=part)
    frame = _prepare(name, frame, path)
    with atomic_path(path) as temporary:
        frame.write_parquet(temporary, compression="zstd")
    return path


def write_frames(name: str, frames: Iterable[pl.DataFrame], directory: Path) -> Path:
    """Write one frame or more after each other into the one file of table `name`, as `write_table` does.

    Each frame is a row group of its own and none is kept, so that the file may be larger than memory.
    """
    path = directory / lookup(TABLES, name, "table").path
    frames = iter(frames)
    first = _prepare(name, next(frames), path).to_arrow()
    open_file = partial(pyarrow.parquet.ParquetWriter, schema=first.schema, compression="zstd")
    with atomic_path(path) as temporary, open_file(temporary) as writer:
        writer.write_table(first)
        for frame in frames:
            writer.write_table(_prepare(name, frame, path).to_arrow())
    return path


def make_lists(values: pl.Series, lengths: np.ndarray) -> pl.Series:
    """Return `values` cut into lists of so many each, i64 (N,), in their order; a list may be empty."""
    offsets = pyarrow.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    return pl.Series(pl.from_arrow(pyarrow.LargeListArray.from_arrays(offsets, values.to_arrow())))


def _prepare(name: str, frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Return `frame` with the columns of table `name`, in their order."""
    frame = frame.select([column for column in TABLES[name].columns if column in frame.columns])
    problem = _find_problem(name, frame, path)
    assert not problem, problem
    return frame


def read_table(name: str, directory: Path, split: str = "") -> pl.DataFrame:
    """Read table `name` of a finished stage directory; parts are joined in order.

    Raises:
        ArtifactError: no DONE, no file, or a column that is not what the schema says.
    """
    parts = list(iterate_table(name, directory, split))
    for column, dtype in parts[0].schema.items():  # arrays of any width are of one type
        others = {str(part.schema[column]) for part in parts} - {str(dtype)}
        if others:
            found = ", ".join([str(dtype), *sorted(others)])
            raise ArtifactError(
                f"{directory}: parts of table {name} have different types in column {column!r}: {found}; "
                f"{TABLES[name].stage}.py writes it: run it again"
            )
    return pl.concat(parts)


def iterate_table(name: str, directory: Path, split: str = "") -> Iterator[pl.DataFrame]:
    """Yield the parts of table `name` one by one, in order, for tables larger than memory; raises as `read_table`."""
    table = lookup(TABLES, name, "table")
    read_done(directory, table.stage, *table.other_stages)
    paths = find_parts(name, directory, split)
    if not paths:
        pattern = directory / _get_pattern(name, split)
        raise ArtifactError(f"{pattern} does not exist; {table.stage}.py writes it: run it again")
    for path in paths:
        yield _read_part(name, path)


def find_parts(name: str, directory: Path, split: str = "") -> list[Path]:
    """Return the files of table `name` in a directory, finished or not, in order; of every split without `split`."""
    return sorted(directory.glob(_get_pattern(name, split)))


def count_rows(name: str, directory: Path, split: str = "") -> int:
    """Return the rows of table `name` in a directory, finished or not, by what its files say of themselves."""
    return sum(pyarrow.parquet.read_metadata(path).num_rows for path in find_parts(name, directory, split))


def _get_pattern(name: str, split: str) -> str:
    return TABLES[name].path.replace("{part:05d}", "*").replace("{split}", split or "*")


def read_table_file(name: str, path: Path) -> pl.DataFrame:
    """Read one file of table `name` wherever it lies, for example a split made elsewhere."""
    if not path.is_file():
        raise ArtifactError(f"{path} is not a file; expected a {name} table as {TABLES[name].stage}.py writes")
    return _read_part(name, path)


def _read_part(name: str, path: Path) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path, glob=False)  # a folder may be named run[1]
    except (pl.exceptions.PolarsError, OSError, pyarrow.ArrowException) as error:
        pass_disk_error(error, path)
        stage = TABLES[name].stage
        raise ArtifactError(f"{path} is not a readable Parquet file ({say(error)}); run {stage}.py again") from error
    problem = _find_problem(name, frame, path)
    if not problem:
        fault = find_fault(name, frame := frame.select(list(TABLES[name].columns)))
        problem = f"{path}: {fault}" if fault else ""
    if problem:
        raise ArtifactError(f"{problem}; {TABLES[name].stage}.py writes it: run it again")
    return frame


def _find_problem(name: str, frame: pl.DataFrame, path: Path) -> str:
    """Return how `frame` breaks the schema of table `name`, '' where it does not."""
    for column, expected in TABLES[name].columns.items():
        found = frame.schema.get(column)
        if not _is_type(found, expected.type):
            what = "no such column" if found is None else str(found)
            return f"{path}: column {column!r} of table {name} should be {expected.type}, found {what}"
        if not expected.is_nullable and frame[column].null_count():
            nulls = frame[column].null_count()
            return f"{path}: column {column!r} of table {name} must not be null, found {nulls} nulls"
    return ""


def _is_type(found: pl.DataType | None, expected: str) -> bool:
    if expected in ARRAY_TYPES:
        return isinstance(found, pl.Array) and found.inner == ARRAY_TYPES[expected]
    return found == TYPES[expected]
