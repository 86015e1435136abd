"""Nested shares of the train patients: whom stage 02 learns from, and whom stage 04 counts."""

from __future__ import annotations

import math

import polars as pl

from clinrep.distributed import derive_seed


def choose_patients(patients: pl.Series, fraction: float, seed: int) -> pl.Series:
    """Return a share of the distinct `patients`, rounded up.

    For one seed the patients of a smaller share are among those of a larger one.
    """
    # 1e-9: 0.07 of 100 is 7, not 8
    ordered = patients.unique().to_list()
    ordered.sort(key=lambda patient: (derive_seed(seed, f"training_fraction/{patient}"), patient))
    return pl.Series(patients.name, ordered[: math.ceil(fraction * len(ordered) - 1e-9)], patients.dtype)
