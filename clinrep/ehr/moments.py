"""Times that no hospital meant: placeholders such as 1900-01-01 and 9999-12-31, and numbers read in another unit."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

FIRST = datetime(1901, 1, 1, tzinfo=UTC)
"""Earlier times are placeholders: nobody's stay in a CLIF table is older."""
LAST = datetime(2262, 1, 1, tzinfo=UTC)
"""So are times from here on; shifted dates of de-identified data end before (MIMIC-IV: 2214). 9999-12-31 that went
through nanoseconds has become 2262-04-11, their last."""
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Ticks of a second."""
RULE = f"before {FIRST:%Y} or after {LAST.year - 1}"


def get_bounds(unit: str) -> tuple[int, int]:
    """Return the first tick since 1970 that is a time, and the last."""
    first, last = (int(moment.timestamp()) * UNITS[unit] for moment in (FIRST, LAST))
    return max(first, -(1 << 63)), min(last, 1 << 63) - 1  # nanoseconds end in 2262


def is_moment(column: str, dtype: pl.DataType) -> pl.Expr:
    """Return whether a time can be meant as one by these bounds, null where it is null."""
    if not isinstance(dtype, pl.Datetime):  # a date
        return pl.col(column).is_between(FIRST.date(), LAST.date(), closed="left")
    return pl.col(column).to_physical().is_between(*get_bounds(dtype.time_unit))
