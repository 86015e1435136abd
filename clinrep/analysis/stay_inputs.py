"""What the baselines and the cohort tables know of each stay's observation window, as a modality reads it.

N stays, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from clinrep.config import InputError


@dataclass(frozen=True)
class Features:
    """What one baseline reads: row i of `values` is of the i-th stay of `StayInputs`."""

    model: str
    """What scores.parquet calls the model, for example `token counts`."""
    values: csr_matrix
    """f32 (N, F); the same columns at every site."""
    names: list[str]
    """(F,) what each column is."""


@dataclass(frozen=True)
class StayInputs:
    """One site's stays, N in any order: how many tokens each has before index_time, and the baselines' features."""

    subject_ids: pl.Series
    num_tokens: NDArray[np.int64]
    """(N,) in the whole window, however few of them a model reads."""
    features: dict[str, Features]
    """By name in the settings."""

    def find_rows(self, subject_ids: pl.Series) -> NDArray[np.int64]:
        """Return (n,) the rows of these stays, in their order.

        Raises:
            InputError: a stay that has none; says how many.
        """
        rows = self.subject_ids.rename("subject_id").to_frame().with_row_index("row")
        wanted = subject_ids.rename("subject_id").to_frame()
        joined = wanted.join(rows, on="subject_id", how="left", maintain_order="left")["row"]
        if joined.null_count():
            raise InputError(
                f"{joined.null_count()} of {joined.len()} stays have no token before index_time in the timelines; "
                "run 00_tokenize.py again"
            )
        return joined.to_numpy().astype(np.int64)
