"""CLIF tables as they are really found: which file is which table, columns, types, spelling."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from clinrep.config import InputError, lookup
from clinrep.ehr import moments
from clinrep.ehr.casts import CASTS, is_naive
from clinrep.ehr.casts import Kind as Kind  # others take it from here
from clinrep.ehr.renames import RENAMES
from clinrep.failures import pass_disk_error, say

logger = logging.getLogger("clinrep")

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

LIKE_DATA = re.compile(r"\d|.{41}|[\r\n]", re.DOTALL)
"""Finds texts that may be an id, a date or prose of a patient, and so are not shown."""


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
        self._schemas: dict[str, dict[str, pl.DataType]] = {}
        self._all_null: dict[tuple[str, str], bool] = {}
        self._warned: set[tuple[str, str]] = set()
        self.times_read: set[tuple[str, str]] = set()
        """(table, column) of every time that `scan` was asked for."""

    def has(self, table: str) -> bool:
        """Return whether the folder holds this table.

        Raises:
            InputError: a name CLIF does not have, or the table is there in another form: its events would be lost.
        """
        stems = lookup(TABLE_FILES, table, "CLIF table")
        if table not in self.paths:
            for name in self.ignored:
                if name.rstrip("/").partition(".")[0].lower() in stems:
                    raise InputError(
                        f"{self.directory} holds {name}, but table {table} is read from {stems[0]}.parquet; export it "
                        "as one Parquet file of that name, or move it out of the folder to go without"
                    )
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
        schema = self.read_schema(table)
        for column, kind in columns.items():
            if column not in schema:
                found = ", ".join(schema)
                where = f"{self.paths[table]} has no column {column!r}"
                raise InputError(f"{where}; its columns are {found}; rename one, or correct the config")
            self._cast(table, column, kind)

    def scan(self, table: str, columns: Mapping[str, Kind]) -> pl.LazyFrame:
        """Return columns of a table, in the file's row order, checked now and read only when collected.

        ids and categories become String, numbers Float64, times Datetime[us] in UTC without zone
        (aware times are converted, naive ones and dates are taken as they are, with a warning). Collect
        it within `explain_errors`.
        """
        self.check_columns(table, columns)
        times = [column for column, kind in columns.items() if kind == "time"]
        self.warn_of_naive(table, times)
        self.times_read.update((table, column) for column in times)
        casts = [self._cast(table, column, kind).alias(column) for column, kind in columns.items()]
        return self._scan_file(table).select(casts)

    def read(self, table: str, columns: Mapping[str, Kind]) -> pl.DataFrame:
        """Return what `scan` describes, read into memory."""
        frame = self.scan(table, columns)
        with self.explain_errors(table):
            return frame.collect()

    @contextmanager
    def explain_errors(self, table: str) -> Iterator[None]:
        """Turn what polars raises while it reads this table into an InputError that names the file."""
        path = self.paths[table]
        try:
            yield
        except pl.exceptions.InvalidOperationError as error:
            raise InputError(
                f"{path}: a column has values of the wrong type ({say(error)}); export it again"
            ) from error
        except (pl.exceptions.PolarsError, OSError) as error:
            pass_disk_error(error, path)
            raise InputError(f"{path} is damaged ({say(error)}); export it again") from error

    def count_rows(self, table: str) -> int:
        """Return the rows of a table, by its footer."""
        with self.explain_errors(table):
            return int(self._scan_file(table).select(pl.len()).collect().item())

    def count_placeholders(self, table: str, column: str) -> int:
        """Return how many times of a column no hospital meant (`moments`); they are read as null."""
        dtype = self.read_schema(table)[column]
        if not dtype.is_temporal() or isinstance(dtype, pl.Time | pl.Duration):
            return 0  # all null, as `_cast` has found
        with self.explain_errors(table):
            return int(self._scan_file(table).select((~moments.is_moment(column, dtype)).sum()).collect().item())

    def read_schema(self, table: str) -> dict[str, pl.DataType]:
        """Return the columns of a table with their types in the file."""
        if table not in self._schemas:
            path = self.paths[table]
            try:
                _check_zones(path)
                self._schemas[table] = dict(self._scan_file(table).collect_schema())
            except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
                pass_disk_error(error, path)
                raise InputError(f"{path} is not a readable Parquet file ({say(error)}); export it again") from error
        return self._schemas[table]

    def warn_of_naive(self, table: str, columns: Sequence[str]) -> None:
        """Warn of those time columns that have no zone, once for each; needs them to be there."""
        schema = self.read_schema(table)
        naive = [c for c in columns if is_naive(schema[c]) and (table, c) not in self._warned]
        if naive:
            name, listed = self.paths[table].name, ", ".join(naive)
            logger.warning("%s: %s have no time zone and are taken as UTC", name, listed)
            self._warned.update((table, column) for column in naive)

    def _scan_file(self, table: str) -> pl.LazyFrame:
        return pl.scan_parquet(self.paths[table], glob=False)  # a folder may be named run[1]

    def _cast(self, table: str, column: str, kind: Kind) -> pl.Expr:
        """Return the cast to the kind's type; another type is an InputError unless every value is null.

        Exports give an all-null column whatever type they like: Null, Float64, Int32.
        """
        expected, target, cast = CASTS[kind]
        dtype = self.read_schema(table)[column]
        expr = cast(column, dtype)
        if expr is not None:
            return expr
        if self._is_all_null(table, column):
            return pl.when(pl.col(column).is_null()).then(pl.lit(None, dtype=target))
        raise InputError(
            f"{self.paths[table]}: column {column!r} should be {expected}, found {dtype}; correct the export"
        )

    def _is_all_null(self, table: str, column: str) -> bool:
        """Return whether a column holds nothing; reads up to its first value, once."""
        if self.read_schema(table)[column] == pl.Null():
            return True
        if (table, column) not in self._all_null:
            first = self._scan_file(table).select(column).filter(pl.col(column).is_not_null()).head(1)
            with self.explain_errors(table):
                self._all_null[table, column] = first.collect(engine="streaming").is_empty()
        return self._all_null[table, column]


def _check_zones(path: Path) -> None:
    """Refuse a time zone that polars does not know: it would end the process, also for a column that nobody reads."""
    for field in pq.read_schema(path):
        zone = field.type.tz if pa.types.is_timestamp(field.type) else None
        if zone is not None and not re.fullmatch(r"[+-]\d\d:00", zone):
            try:
                pl.Series([], dtype=pl.Datetime("us", "UTC")).dt.convert_time_zone(zone)
            except pl.exceptions.PolarsError as error:
                raise InputError(
                    f"{path}: column {field.name!r} has the time zone {zone!r}, which is not known; export it in UTC, "
                    "or in a zone by name, such as America/Chicago"
                ) from error


def _map_files(directory: Path) -> tuple[dict[str, Path], list[str]]:
    """Return table -> file, and the names of what is no table known here."""
    tables = {stem: table for table, stems in TABLE_FILES.items() for stem in stems}
    paths: dict[str, Path] = {}
    ignored = []
    for path in sorted(directory.iterdir()):
        table = tables.get(path.stem.lower()) if path.suffix.lower() == ".parquet" else None
        if table is None:
            ignored.append(f"{path.name}/" if path.is_dir() else path.name)
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


def normalize_text(values: pl.Series, rule: str, column: str | None = None) -> pl.Series:
    """Return categories spelled by a rule of `TokenizeConfig.normalize`.

    snake_case gives every edition of CLIF the words of 3.0: lower snake_case, then what 3.0 renamed in
    this column (`renames.RENAMES`; None: no renames). Blank text becomes null. Signs count where text
    has no letter, so none gets lost and none becomes null: `+` plus, `++` plus_plus, `-2` minus_2.
    The other rules change nothing but case; empty text stays empty text.
    """
    return values.to_frame("text").select(_SPELLINGS[rule](pl.col("text"), column))["text"].alias(values.name)


def _spell_snake_case(text: pl.Expr, column: str | None) -> pl.Expr:
    lower = text.str.to_lowercase()
    # A dash between numbers is a range or a date; elsewhere it is a sign.
    dash = r"(\p{N})\s*-\s*(\p{N})"
    ranges = lower.str.replace_all(dash, "${1}_${2}").str.replace_all(dash, "${1}_${2}")  # twice: 1-2-3
    has_letter, has_number = (lower.str.contains(f"\\p{{{kind}}}") for kind in "LN")
    spelled = (
        pl.when(has_letter)
        .then(_join_words(_name_symbols(lower, _JOINTS)))
        .when(has_number)
        .then(_join_words(_name_symbols(ranges, _JOINTS | _SIGNS)))
        .otherwise(_join_words(_name_symbols(lower, _JOINTS | _SIGNS | _MARKS)))
    )
    word = pl.when(spelled != "").then(spelled).when(text.str.strip_chars() != "").then(pl.lit("symbol"))
    return word.replace(RENAMES.get(column or "", {}))


def _name_symbols(text: pl.Expr, names: Mapping[str, str]) -> pl.Expr:
    return text.str.replace_many(list(names), [f"_{name}_" for name in names.values()])


def _join_words(text: pl.Expr) -> pl.Expr:
    return text.str.replace_all(r"[^\p{L}\p{N}]+", "_").str.strip_chars("_")


_JOINTS = {"&": "and", "/": "or"}  # as in CLIF 3.0's own values: l_and_d, ps_or_cpap
_SIGNS = {"+": "plus", "-": "minus", "\N{MINUS SIGN}": "minus", "<": "below", ">": "above"}
_MARKS = {
    ".": "dot",
    "_": "underscore",
    "?": "question",
    "*": "star",
    "#": "number",
    "%": "percent",
    "=": "equal",
    "~": "about",
    "!": "exclamation",
}

_SPELLINGS: dict[str, Callable[[pl.Expr, str | None], pl.Expr]] = {
    "snake_case": _spell_snake_case,
    "lower": lambda text, column: text.str.to_lowercase(),
    "none": lambda text, column: text,
}


def normalize_words(words: Sequence[str], rule: str, column: str | None = None) -> list[str]:
    """Return words of the settings or of an outcome, spelled as this column's categories are."""
    return [word for word in normalize_text(pl.Series(words, dtype=pl.String), rule, column) if word is not None]


def find_absent(words: Sequence[str], values: pl.Series) -> tuple[list[str], str]:
    """Return those of `words` that no value is, and for a warning the first twenty values there are.

    Values that look like ids, codes or prose, as a wrong column holds them, are a patient's: they are only counted.
    """
    found = sorted(value for value in values.unique() if value is not None)
    names = [value for value in found if not LIKE_DATA.search(value)]
    others = [f"{len(found) - len(names)} values with digits or of many words"] if len(names) < len(found) else []
    return [word for word in words if word not in found], ", ".join([*names[:20], *others])


def normalize_column(frame: pl.DataFrame, column: str, rule: str) -> pl.DataFrame:
    """Return `frame` with one category column normalised under its own name; each distinct value is spelled once."""
    distinct = frame[column].unique()
    table = pl.DataFrame({column: distinct, "_spelled": normalize_text(distinct, rule, column)})
    joined = frame.join(table, on=column, how="left", nulls_equal=True, maintain_order="left")
    return joined.with_columns(pl.col("_spelled").alias(column)).drop("_spelled")
