"""One Slurm and one copy of the checkout for all tests here; skipped, saying why, where there can be none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, copy_checkout, find_obstacle


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    obstacle = find_obstacle()
    if obstacle:
        pytest.skip(f"no Slurm here: {obstacle}")
    directory = Path(tempfile.mkdtemp(prefix="clinrep-slurm-"))  # short: Unix sockets
    cluster = Cluster(directory)
    print(cluster.report)
    left_behind = directory / "log/left_behind.log"
    try:
        yield cluster
        leaks = left_behind.read_text() if left_behind.exists() else ""
    finally:
        said = cluster.stop()
    assert not leaks
    assert "left behind" not in said, said
    assert not directory.exists()
    assert not cluster.count_processes()


@pytest.fixture(scope="session")
def checkout(cluster: Cluster) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="clinrep-site-"))
    yield copy_checkout(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def tokenized(cluster: Cluster, checkout: Path) -> Path:
    """Run stage 00 by its sbatch file and return its directory."""
    if not (checkout / "runs/site/00_tokenize/DONE").is_file():
        (fields,) = cluster.wait(cluster.submit(checkout, "slurm/00_tokenize.sbatch"))
        assert fields["JobState"] == "COMPLETED"
    return checkout / "runs/site/00_tokenize"


@pytest.fixture(scope="session")
def backbone(cluster: Cluster, checkout: Path, tokenized: Path) -> Path:
    """Run stage 01 by its sbatch file and return its directory."""
    if not (checkout / "runs/site/01_pretrain/DONE").is_file():
        (fields,) = cluster.wait(cluster.submit(checkout, "slurm/01_pretrain.sbatch"))
        assert fields["JobState"] == "COMPLETED"
    return checkout / "runs/site/01_pretrain"
