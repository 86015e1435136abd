"""Parts of a table that several ranks write, and that a run which was cut off need not write again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clinrep import distributed
from clinrep.artifacts import TABLES


def iterate_missing_parts(
    name: str, directory: Path, split: str, num_rows: int, rows_per_part: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (part number, rows) of the parts of table `name` that this rank is to write and that are not there.

    Part p is rows p * rows_per_part and so on, whatever the number of ranks, and every world_size-th is this
    rank's. Without any row there is one empty part, so that the table exists. A part is there whole or not at
    all, since files are renamed when finished.
    """
    num_parts = max(1, -(-num_rows // rows_per_part))
    for part in range(distributed.get_rank(), num_parts, distributed.get_world_size()):
        if not (directory / TABLES[name].path.format(split=split, part=part)).is_file():
            yield part, np.arange(part * rows_per_part, min((part + 1) * rows_per_part, num_rows))
