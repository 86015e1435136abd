"""Columns of CLIF tables as exports type them, cast to the one type of their kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import polars as pl

from clinrep.ehr import moments

Kind = Literal["id", "time", "number", "category", "any"]  # any: asked only whether it is null


def is_naive(dtype: pl.DataType) -> bool:
    """Return whether times of this type have no zone."""
    return dtype == pl.Date() or (isinstance(dtype, pl.Datetime) and dtype.time_zone is None)


def _cast_time(column: str, dtype: pl.DataType) -> pl.Expr | None:
    if dtype == pl.Date():
        return pl.when(moments.is_moment(column, dtype)).then(pl.col(column)).cast(pl.Datetime("us"))  # its midnight
    if not isinstance(dtype, pl.Datetime):
        return None
    expr: pl.Expr = pl.when(moments.is_moment(column, dtype)).then(pl.col(column))
    if dtype.time_zone is not None:
        expr = expr.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return expr.dt.cast_time_unit("us")


def _cast_number(column: str, dtype: pl.DataType) -> pl.Expr | None:
    return pl.col(column).cast(pl.Float64) if dtype.is_numeric() else None


def _cast_text(column: str, dtype: pl.DataType) -> pl.Expr | None:
    is_text = dtype in (pl.String, pl.Categorical) or isinstance(dtype, pl.Enum | pl.Categorical)
    return pl.col(column).cast(pl.String) if is_text else None


def _cast_id(column: str, dtype: pl.DataType) -> pl.Expr | None:
    return pl.col(column).cast(pl.String) if dtype.is_integer() else _cast_text(column, dtype)


CASTS: dict[str, tuple[str, pl.DataType, Callable[[str, pl.DataType], pl.Expr | None]]] = {
    "id": ("text or a whole number", pl.String(), _cast_id),
    "time": ("a datetime", pl.Datetime("us"), _cast_time),
    "number": ("a number", pl.Float64(), _cast_number),
    "category": ("text", pl.String(), _cast_text),
    "any": ("anything", pl.String(), lambda column, dtype: pl.col(column)),
}
