"""Work in parts: shared over ranks, nothing done twice, and nothing done again after a run was cut off."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl

from clinrep import artifacts, distributed
from clinrep.artifacts import TABLES
from clinrep.config import InputError
from clinrep.run import Run

logger = logging.getLogger("clinrep")

WORKING_DIR = ".parts"  # inside the run directory; parts of tables that are one file in the end


def parts_to_do(
    run: Run, marker: str, num_rows: Mapping[str, int], rows_per_part: int
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield (split, part, rows i64) of this rank's share of the parts that are not there yet.

    Parts are slices of a split's rows, the same for any number of ranks; a split without rows has one empty
    part, so that its table exists. Every rank calls it, before any writes.

    Args:
        run: whose directory is looked into.
        marker: the table that is written last of each part: a part is there when its file of this table is.
        num_rows: rows of each split.
        rows_per_part: rows of a part, at most.

    Raises:
        InputError: the directory holds a part that this run does not have.
    """
    bounds = {
        (split, part): (part * rows_per_part, min(total, (part + 1) * rows_per_part))
        for split, total in num_rows.items()
        for part in range(max(1, -(-total // rows_per_part)))
    }
    missing, error = distributed.share_from_main(_find_missing(run, marker, list(bounds)) if run.is_main else None)
    if error:
        raise InputError(error)
    mine = missing[distributed.get_rank() :: distributed.get_world_size()]
    for number, (split, part) in enumerate(mine):
        logger.info("%s, part %d: %d of %d of this rank", split, part, number + 1, len(mine))
        yield split, part, np.arange(*bounds[split, part])


def _find_missing(run: Run, marker: str, keys: list[tuple[str, int]]) -> tuple[list[tuple[str, int]], str]:
    """Return the keys whose part is not there, and what is wrong with those that are ('': nothing)."""
    expected = {run.directory / TABLES[marker].path.format(split=split, part=part) for split, part in keys}
    for path in artifacts.find_parts(marker, run.directory):
        if path not in expected:
            return [], f"{path} is no part of this run; remove {run.directory} to run anew"
    is_there = {key: (run.directory / TABLES[marker].path.format(split=key[0], part=key[1])).is_file() for key in keys}
    if any(is_there.values()):
        logger.info("%d of %d parts are there from an earlier session: kept", sum(is_there.values()), len(keys))
    return [key for key in keys if not is_there[key]], ""


def write_part(run: Run, name: str, frame: pl.DataFrame, split: str, part: int) -> None:
    """Write one part of a table; of a table that is one file aside, for `finish_parts` to join."""
    directory = run.directory if _is_in_parts(name) else run.directory / WORKING_DIR / split / str(part)
    artifacts.write_table(name, frame, directory, split, part)


def finish_parts(run: Run, splits_of: Mapping[str, list[str]]) -> None:
    """Join the tables that are one file and count all rows for DONE, when every rank has written its parts.

    Args:
        run: every rank calls it with its own.
        splits_of: table -> splits in the order of the joined file.
    """
    distributed.wait_for_all()
    if not run.is_main:
        return
    for name, splits in splits_of.items():
        if _is_in_parts(name):
            counts = {f"{name}/{split}": artifacts.count_rows(name, run.directory, split) for split in splits}
        else:
            if not artifacts.find_parts(name, run.directory):  # else it was joined before the run was cut off
                artifacts.write_frames(name, _iterate_working(run, name, splits), run.directory)
            counts = {name: artifacts.count_rows(name, run.directory)}
        run.rows |= counts
    shutil.rmtree(run.directory / WORKING_DIR, ignore_errors=True)


def _iterate_working(run: Run, name: str, splits: list[str]) -> Iterator[pl.DataFrame]:
    for split in splits:
        folders = (run.directory / WORKING_DIR / split).iterdir()
        for folder in sorted(folders, key=lambda folder: int(folder.name)):
            yield artifacts.read_table_file(name, folder / TABLES[name].path)


def _is_in_parts(name: str) -> bool:
    return "{part" in TABLES[name].path
