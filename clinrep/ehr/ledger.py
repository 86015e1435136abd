"""The ledger of stage 00: every row read is kept or accounted for."""

from __future__ import annotations

import logging

import polars as pl

from clinrep.ehr import moments

logger = logging.getLogger("clinrep")


class Ledger:
    """Counts of rows before and after each step, in the order of the steps."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, int, int, str]] = []
        self._noted: set[tuple[str, str]] = set()

    def add(self, table: str, step: str, rows_in: int, rows_out: int, reason: str, level: int = logging.INFO) -> None:
        """Record one step; what was dropped is logged."""
        self._rows.append((table, step, rows_in, rows_out, reason))
        if rows_in != rows_out:
            logger.log(level, "%s, %s: %d of %d rows left out: %s", table, step, rows_in - rows_out, rows_in, reason)

    def filter(self, frame: pl.DataFrame, keep: pl.Expr, table: str, step: str, reason: str) -> pl.DataFrame:
        """Return the rows where `keep` is true (null counts as false), and record how many are not."""
        kept = frame.filter(keep)
        self.add(table, step, frame.height, kept.height, reason)
        return kept

    def note_placeholders(self, table: str, column: str, count: int, num_rows: int) -> None:
        """Record, once, how many times of a column no hospital meant; they are missing from there on."""
        is_new = (table, column) not in self._noted
        self._noted.add((table, column))
        if count and is_new:
            what = f"{column} {moments.RULE}: a placeholder, taken as missing"
            self.add(table, "placeholder", count, count, what)
            logger.warning("%s: %d of %d rows have a %s", table, count, num_rows, what)

    def has_noted(self, table: str, column: str) -> bool:
        """Return whether the placeholders of a column, or that it has none, are recorded."""
        return (table, column) in self._noted

    def to_frame(self) -> pl.DataFrame:
        """Return the table `ledger`."""
        schema = {
            "table": pl.String,
            "step": pl.String,
            "rows_in": pl.UInt64,
            "rows_out": pl.UInt64,
            "reason": pl.String,
        }
        return pl.DataFrame(self._rows, schema=schema, orient="row")
