"""A whole site on disk: shard after shard, one row group a shard, every file whole or not there."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet as pq

from clinrep.artifacts.files import atomic_path
from clinrep.ehr.simulate.columns import STAYS_PER_SHARD
from clinrep.ehr.simulate.schemas import SCHEMAS, TRUTH_SCHEMA
from clinrep.ehr.simulate.shards import Hospital, make_tables, make_truth, simulate_shard

TRUTH_FILE = "truth.parquet"


def count_shards(num_stays: int) -> int:
    """Return the number of shards that hold these stays; all but the last are full."""
    return -(-num_stays // STAYS_PER_SHARD)


def write_site(
    hospital: Hospital, num_stays: int, seed: int, directory: Path, numbers: Iterable[int] | None = None
) -> dict[str, int]:
    """Write clif_<table>.parquet for each table of the site and truth.parquet; return their rows.

    `numbers` iterates over the shards' numbers from 0, for a progress bar. The files take their names
    only when all of them are complete.
    """
    schemas = {**{name: SCHEMAS[name] for name in hospital.tables}, "truth": TRUTH_SCHEMA}
    rows = dict.fromkeys(schemas, 0)
    with ExitStack() as stack:
        writers = {}
        for name, schema in schemas.items():
            path = directory / (TRUTH_FILE if name == "truth" else f"clif_{name}.parquet")
            temporary = stack.enter_context(atomic_path(path))
            writers[name] = stack.enter_context(pq.ParquetWriter(temporary, schema, compression="zstd"))
        for number in range(count_shards(num_stays)) if numbers is None else numbers:
            size = min(STAYS_PER_SHARD, num_stays - number * STAYS_PER_SHARD)
            shard = simulate_shard(hospital, seed, number, size)
            for name, table in {**make_tables(hospital, shard), "truth": make_truth(hospital, shard)}.items():
                writers[name].write_table(table, row_group_size=max(1, table.num_rows))
                rows[name] += table.num_rows
    return rows
