"""CLIF tables as they are really found: which file is which table, columns, types, spelling."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from clinrep.config import InputError, lookup

logger = logging.getLogger("clinrep")

Kind = Literal["id", "time", "number", "category", "any"]  # any: asked only whether it is null

# Table -> file stems it is found under. Explicit, because guessing from the stem mistakes
# patient_procedures for patient and one medication table for the other (spec/clif_data.md A5).
TABLE_FILES: dict[str, tuple[str, ...]] = {
    "patient": ("clif_patient",),
    "hospitalization": ("clif_hospitalization",),
    "adt": ("clif_adt",),
    "labs": ("clif_labs",),
    "vitals": ("clif_vitals",),
    "medication_admin_continuous": ("clif_medication_admin_continuous",),
    "medication_admin_intermittent": ("clif_medication_admin_intermittent",),
    "patient_assessments": ("clif_patient_assessments",),
    "respiratory_support": ("clif_respiratory_support",),
    "position": ("clif_position",),
    "crrt_therapy": ("clif_crrt_therapy",),
    "code_status": ("clif_code_status",),
    "hospital_diagnosis": ("clif_hospital_diagnosis",),
    "patient_procedures": ("clif_patient_procedures", "clif_patient_procedure"),
}


class ClifTables:
    """The CLIF tables of one folder, each read with checked columns and one type per kind of column."""

    def __init__(self, directory: str | Path) -> None:
        """Find the tables; unknown files are named in the log and ignored.

        Raises:
            InputError: no such folder, no CLIF table in it, or two files for one table.
        """
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise InputError(f"--clif_dir {directory} is not a directory; give the folder with clif_*.parquet")
        self.paths, self.ignored = _map_files(self.directory)

    def has(self, table: str) -> bool:
        """Return whether the folder holds this table; a name CLIF does not have is an InputError."""
        lookup(TABLE_FILES, table, "CLIF table")
        return table in self.paths

    def require(self, table: str, why: str) -> None:
        """Raise an InputError when the table is missing."""
        if not self.has(table):
            names = " or ".join(f"{stem}.parquet" for stem in TABLE_FILES[table])
            alike = [name for name in self.ignored if table.rstrip("s") in name]
            hint = f"; is it {' or '.join(alike)}? name it so, as Parquet" if alike else ""
            raise InputError(
                f"{self.directory} lacks {names}, which {why}; found {', '.join(sorted(self.paths))}{hint}"
            )

    def check_columns(self, table: str, columns: Mapping[str, Kind]) -> None:
        """Raise an InputError when a column is missing or of the wrong type; reads the footer only."""
        schema = self._read_schema(table)
        for column, kind in columns.items():
            if column not in schema:
                found = ", ".join(schema)
                where = f"{self.paths[table]} has no column {column!r}"
                raise InputError(f"{where}; its columns are {found}; rename one, or correct the config")
            _cast_column(column, schema[column], kind, self.paths[table])

    def read(self, table: str, columns: Mapping[str, Kind]) -> pl.DataFrame:
        """Read columns of a table, in the file's row order.

        ids and categories become String, numbers Float64, times Datetime[us] in UTC without zone
        (aware times are converted, naive ones are taken as they are, with a warning).
        """
        self.check_columns(table, columns)
        schema = self._read_schema(table)
        path = self.paths[table]
        naive = [c for c, kind in columns.items() if kind == "time" and _is_naive(schema[c])]
        if naive:
            logger.warning("%s: %s have no time zone and are taken as UTC", path.name, ", ".join(naive))
        casts = [_cast_column(column, schema[column], kind, path) for column, kind in columns.items()]
        try:
            frame = pl.scan_parquet(path).select(list(columns)).collect()
            return frame.select(cast.alias(column) for column, cast in zip(columns, casts, strict=True))
        except pl.exceptions.InvalidOperationError as error:
            raise InputError(f"{path}: a column has values of the wrong type ({error})") from error
        except (pl.exceptions.ComputeError, OSError) as error:
            raise InputError(f"{path} is damaged ({error}); export it again") from error

    def _read_schema(self, table: str) -> dict[str, pl.DataType]:
        path = self.paths[table]
        try:
            return dict(pl.read_parquet_schema(path))
        except (pl.exceptions.ComputeError, OSError) as error:
            raise InputError(f"{path} is not a readable Parquet file ({error}); export it again") from error


def _map_files(directory: Path) -> tuple[dict[str, Path], list[str]]:
    """Return table -> file, and the names of what is no table known here."""
    tables = {stem: table for table, stems in TABLE_FILES.items() for stem in stems}
    paths: dict[str, Path] = {}
    ignored = []
    for path in sorted(directory.iterdir()):
        table = tables.get(path.stem.lower()) if path.suffix == ".parquet" else None
        if table is None:
            ignored.append(path.name)
        elif not path.is_file():
            raise InputError(f"{path} is a folder; expected one Parquet file for table {table}: join its parts")
        elif table in paths:
            raise InputError(f"{directory} holds {paths[table].name} and {path.name} for table {table}; keep one")
        else:
            paths[table] = path
    if ignored:
        logger.info("%s: ignored, not CLIF tables known here: %s", directory, ", ".join(ignored))
    if not paths:
        expected = ", ".join(f"{stems[0]}.parquet" for stems in TABLE_FILES.values())
        raise InputError(f"{directory} holds no CLIF table; expected files such as {expected}")
    return paths, ignored


def _is_naive(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.Datetime) and dtype.time_zone is None


def _cast_time(column: str, dtype: pl.DataType) -> pl.Expr | None:
    if not isinstance(dtype, pl.Datetime):
        return None
    expr = pl.col(column)
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


_CASTS: dict[str, tuple[str, pl.DataType, Callable[[str, pl.DataType], pl.Expr | None]]] = {
    "id": ("text or a whole number", pl.String(), _cast_id),
    "time": ("a datetime", pl.Datetime("us"), _cast_time),
    "number": ("a number", pl.Float64(), _cast_number),
    "category": ("text", pl.String(), _cast_text),
    "any": ("anything", pl.String(), lambda column, dtype: pl.col(column)),
}


def _cast_column(column: str, dtype: pl.DataType, kind: Kind, path: Path) -> pl.Expr:
    """Return the cast to the kind's type; another type is an InputError unless every value is null.

    Exports give an all-null column whatever type they like: Null, Float64, Int32.
    """
    expected, target, cast = _CASTS[kind]
    expr = cast(column, dtype)
    if expr is not None:
        return expr
    if dtype == pl.Null() or _is_all_null(column, path):
        return pl.when(pl.col(column).is_null()).then(pl.lit(None, dtype=target))
    raise InputError(f"{path}: column {column!r} should be {expected}, found {dtype}; correct the export")


def _is_all_null(column: str, path: Path) -> bool:
    return bool(pl.scan_parquet(path).select(pl.col(column).is_null().all()).collect().item())


def normalize_text(values: pl.Series, rule: str) -> pl.Series:
    """Return categories spelled by a rule of `TokenizeConfig.normalize`; empty text becomes null."""
    spelled = values.to_frame("text").select(_SPELLINGS[rule](pl.col("text")).alias("text"))["text"]
    return spelled.to_frame().select(pl.when(pl.col("text") != "").then(pl.col("text")))["text"].alias(values.name)


def _spell_snake_case(text: pl.Expr) -> pl.Expr:
    # & and / as in CLIF 3.0's own values (l_and_d, ps_or_cpap), so that editions meet.
    joined = (
        text.str.to_lowercase().str.replace_all("&", "_and_", literal=True).str.replace_all("/", "_or_", literal=True)
    )
    return joined.str.replace_all(r"[^\p{L}\p{N}]+", "_").str.strip_chars("_")


_SPELLINGS: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "snake_case": _spell_snake_case,
    "lower": lambda text: text.str.to_lowercase(),
    "none": lambda text: text,
}


def normalize_words(words: Sequence[str], rule: str) -> list[str]:
    """Return words of the settings or of an outcome, spelled as the tables' categories are."""
    return [word for word in normalize_text(pl.Series(words, dtype=pl.String), rule) if word is not None]


def find_absent(words: Sequence[str], values: pl.Series) -> tuple[list[str], str]:
    """Return those of `words` that no value is, and the first twenty values there are, for a warning."""
    found = sorted(value for value in values.unique() if value is not None)
    return [word for word in words if word not in found], ", ".join(found[:20])


def normalize_column(frame: pl.DataFrame, column: str, rule: str) -> pl.DataFrame:
    """Return `frame` with one category column normalised; each distinct value is spelled once."""
    distinct = frame[column].unique()
    table = pl.DataFrame({column: distinct, "_spelled": normalize_text(distinct, rule)})
    joined = frame.join(table, on=column, how="left", nulls_equal=True, maintain_order="left")
    return joined.with_columns(pl.col("_spelled").alias(column)).drop("_spelled")
