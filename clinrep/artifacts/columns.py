"""What a schema is made of: types, columns, tables."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from clinrep.config import InputError

TYPES: dict[str, pl.DataType] = {
    "str": pl.String(),
    "bool": pl.Boolean(),
    "i16": pl.Int16(),
    "u32": pl.UInt32(),
    "u64": pl.UInt64(),
    "f32": pl.Float32(),
    "f64": pl.Float64(),
    "datetime": pl.Datetime("us"),
    "list[u32]": pl.List(pl.UInt32),
    "list[f32]": pl.List(pl.Float32),
    "list[u64]": pl.List(pl.UInt64),
    "list[f64]": pl.List(pl.Float64),
    "list[datetime]": pl.List(pl.Datetime("us")),
}
# arrays of any width
ARRAY_TYPES: dict[str, pl.DataType] = {"array[f32]": pl.Float32(), "array[f16]": pl.Float16()}


class ArtifactError(InputError):
    """A stage's directory or table is not what its schema says."""


@dataclass(frozen=True)
class Column:
    """One column: its type as in `TYPES` or `ARRAY_TYPES`, meaning, and whether null may occur."""

    type: str
    description: str
    is_nullable: bool = False


@dataclass(frozen=True)
class Table:
    """One table that a stage writes and later ones read."""

    stage: str
    path: str
    description: str
    columns: dict[str, Column]
    other_stages: tuple[str, ...] = ()
    """Stages that write it too, into directories of their own."""
