"""Simulate the CLIF tables of a hospital in which the truth is known.

Reads   nothing
Writes  --output_dir      clif_*.parquet, and truth.parquet: what the best possible model would predict
Run     python -m clinrep.ehr.simulate --num_stays 20000 --site reference --seed 42 --output_dir runs/simulated
"""

import logging
import sys
import time
from dataclasses import dataclass

from clinrep.config import StageConfig, lookup, parse_config, require
from clinrep.ehr.simulate.shards import open_hospital
from clinrep.ehr.simulate.sites import SITES
from clinrep.ehr.simulate.writing import count_shards, write_site
from clinrep.run import open_run, run_stage, show_progress

MAX_STAYS = 10_000_000  # their numbers keep eight digits

logger = logging.getLogger("clinrep")


@dataclass(frozen=True, kw_only=True)
class SimulateConfig(StageConfig):
    """Settings of the simulator."""

    num_stays: int
    """Hospital stays; the first full thousands of a larger number are those of a smaller one."""
    site: str = "reference"
    """Hospital to simulate: reference, si_units, missing_categories, sparse_charting, older_sicker,
    extra_table or all_shifts; how each differs is told in clinrep/ehr/simulate/__init__.py."""

    def __post_init__(self) -> None:
        """Refuse a number of stays out of range and an unknown site."""
        super().__post_init__()
        is_fine = 1 <= self.num_stays <= MAX_STAYS
        require(is_fine, "num_stays", self.num_stays, f"be in 1 to {MAX_STAYS:,}", "use 20000")
        lookup(SITES, self.site, "site")


def main(argv: list[str]) -> None:
    """Simulate one site."""
    config = parse_config(SimulateConfig, argv, prog="python -m clinrep.ehr.simulate", story=__doc__)
    with open_run("simulate", config) as run:
        hospital, start = open_hospital(config.site), time.perf_counter()
        numbers = show_progress(range(count_shards(config.num_stays)), config, "shards")
        run.rows |= write_site(hospital, config.num_stays, config.seed, run.directory, numbers)
        seconds, num_rows = time.perf_counter() - start, sum(run.rows.values()) - run.rows["truth"]
        logger.info("%d stays of %s, %d rows in %.0f s", config.num_stays, config.site, num_rows, seconds)


if __name__ == "__main__":
    sys.argv[0] = "clinrep.ehr.simulate"  # what messages and provenance.json call this program
    run_stage(main)
