"""Tests run from a checkout: the root is on the path, torch takes one thread, and no file waits for the disk.

The models here are tiny: more threads only wait for each other, most of all when two ranks run. What tests write need
not survive a loss of power; what is asked of the disk, tests/test_power_cut.py looks at.
"""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))
os.fsync = lambda descriptor: None


def pytest_collection_finish() -> None:
    """Take what the imports made out of the garbage collector's rounds.

    accelerate calls gc.collect() at the end of every training; with torch loaded that takes longer than the training.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def quick_figures() -> Iterator[None]:
    """Draw every figure once, coarsely, and write a PDF of nothing: a real pair of files takes a second.

    Real files: tests/test_04_analyze.py, tests/test_pipeline.py, tests/analysis/test_maps_and_transfer.py.
    """
    from matplotlib.figure import Figure

    savefig = Figure.savefig

    def save(self: Figure, path: Path, *, format: str, **named: Any) -> None:
        if format == "pdf":
            Path(path).write_bytes(b"%PDF-1.4")
        else:
            savefig(self, path, format=format, **named | {"dpi": 50})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield
