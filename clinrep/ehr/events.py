"""Rows of CLIF tables to events: (stay, time, source, category, value)."""

from __future__ import annotations

import logging

import polars as pl

from clinrep.config import InputError
from clinrep.ehr.clif import ClifTables, Kind, find_absent, normalize_column, normalize_words
from clinrep.ehr.configs.tokenize import Condition, EventSource, TokenizeConfig
from clinrep.ehr.ledger import Ledger

logger = logging.getLogger("clinrep")

EVENT_SCHEMA = {
    "stay": pl.UInt32(),  # row number in the cohort
    "time": pl.Datetime("us"),
    "source": pl.UInt16(),  # position in config.sources: the order of simultaneous events
    "category": pl.String(),  # normalised; null where the source has none
    "unit": pl.String(),
    "value": pl.Float64(),  # null where missing or not numeric
    "word": pl.String(),  # normalised categorical value
}


def check_sources(tables: ClifTables, config: TokenizeConfig) -> None:
    """Raise an InputError for a required table that is missing, or a column that is missing or wrong."""
    for source in config.sources:
        if source.required:
            tables.require(source.table, f"source {source.name!r} requires")
        if tables.has(source.table):
            tables.check_columns(source.table, get_source_columns(source))


def get_source_columns(source: EventSource) -> dict[str, Kind]:
    """Return the columns a source reads, with their kind."""
    columns: dict[str, Kind] = {"hospitalization_id": "id", source.time_column: "time"}
    for column in (source.category_column, source.categorical_value_column, source.unit_column):
        if column is not None:
            columns[column] = "category"
    if source.value_column is not None:
        columns[source.value_column] = "number"
    for condition in source.keep_if:
        is_compared = bool(condition.one_of or condition.none_of)
        if is_compared and columns.get(condition.column, "any") == "number":
            name = f"keep_if of source {source.name}"
            raise InputError(
                f"{name}: column {condition.column!r} holds numbers; one_of and none_of compare categories"
            )
        if is_compared or condition.column not in columns:
            columns[condition.column] = "category" if is_compared else "any"
    return columns


def read_events(tables: ClifTables, cohort: pl.DataFrame, config: TokenizeConfig, ledger: Ledger) -> pl.DataFrame:
    """Return the events of every adult stay (columns of `EVENT_SCHEMA`), in the order of the sources."""
    used = {source.table for source in config.sources} | {"patient", "hospitalization"}
    unused = sorted(set(tables.paths) - used)
    if unused:
        logger.info("%s: no event source uses %s", tables.directory, ", ".join(unused))
    frames = [pl.DataFrame(schema=EVENT_SCHEMA)]
    read_tables: set[str] = set()
    for number, source in enumerate(config.sources):
        if not tables.has(source.table):
            ledger.add(source.table, f"{source.name}: table", 0, 0, "the folder has no such table")
            logger.warning("source %s: no table %s; it gives no events", source.name, source.table)
            continue
        rows = _read_rows(tables, source, cohort, ledger, is_first=source.table not in read_tables)
        read_tables.add(source.table)
        frames.append(_make_events(rows, number, source, config, ledger))
    return pl.concat(frames)


def _read_rows(
    tables: ClifTables, source: EventSource, cohort: pl.DataFrame, ledger: Ledger, is_first: bool
) -> pl.DataFrame:
    """Read a source's rows of adult stays, adding `stay`.

    Rows of stays outside the cohort enter the ledger once per table, however many sources share it.
    """
    frame = tables.read(source.table, get_source_columns(source))
    ids = cohort.select("stay", hospitalization_id="subject_id")
    rows = frame.join(ids, on="hospitalization_id", how="inner", maintain_order="left")
    if frame.height and rows.is_empty():
        message = (
            f"{tables.paths[source.table]}: none of its {frame.height} rows has the hospitalization_id of an adult stay"
        )
        if source.required:
            raise InputError(f"{message}; ids of another site, or spelled otherwise? correct the export")
        logger.warning("%s: source %s gives no events", message, source.name)
    if is_first:
        ledger.add(source.table, "read", frame.height, frame.height, f"rows of {tables.paths[source.table].name}")
        ledger.add(source.table, "adult stay", frame.height, rows.height, "hospitalization_id is not of an adult stay")
    return rows


def _make_events(
    rows: pl.DataFrame, number: int, source: EventSource, config: TokenizeConfig, ledger: Ledger
) -> pl.DataFrame:
    table, name = source.table, source.name
    for column, kind in get_source_columns(source).items():
        if kind == "category" and column != source.unit_column:
            rows = normalize_column(rows, column, config.normalize)
    for condition in source.keep_if:
        rows = _apply_condition(rows, condition, source, config, ledger)
    if source.category_column is not None:
        category = pl.col(source.category_column)
        if source.null_category == "drop":
            rows = ledger.filter(
                rows, category.is_not_null(), table, f"{name}: category", f"no {source.category_column}"
            )
        else:
            rows = rows.with_columns(category.fill_null(config.missing_category))
    is_timed = pl.col(source.time_column).is_not_null()
    rows = ledger.filter(rows, is_timed, table, f"{name}: time", f"no {source.time_column}")
    return rows.select(
        "stay",
        time=pl.col(source.time_column),
        source=pl.lit(number, pl.UInt16),
        category=_column_or_null(source.category_column, pl.String()),
        unit=normalize_unit(_column_or_null(source.unit_column, pl.String())),
        value=_column_or_null(source.value_column, pl.Float64()),
        word=_column_or_null(source.categorical_value_column, pl.String()),
    )


def _apply_condition(
    rows: pl.DataFrame, condition: Condition, source: EventSource, config: TokenizeConfig, ledger: Ledger
) -> pl.DataFrame:
    column, step = pl.col(condition.column), f"{source.name}: keep_if {condition.column}"
    keep: pl.Expr
    if condition.is_null is not None:
        keep = column.is_null() if condition.is_null else column.is_not_null()
        reason = "it is not null" if condition.is_null else "it is null"
        rows = ledger.filter(rows, keep, source.table, step, reason)
    if condition.one_of:
        words = normalize_words(condition.one_of, config.normalize)
        _warn_of_absent(words, rows[condition.column], source)
        rows = ledger.filter(rows, column.is_in(words), source.table, step, f"it is not one of {', '.join(words)}")
    if condition.none_of:
        words = normalize_words(condition.none_of, config.normalize)
        _warn_of_absent(words, rows[condition.column], source)
        keep = column.is_null() | ~column.is_in(words)
        rows = ledger.filter(rows, keep, source.table, step, f"it is one of {', '.join(words)}")
    return rows


def _warn_of_absent(words: list[str], values: pl.Series, source: EventSource) -> None:
    absent, known = find_absent(words, values)
    if absent:
        logger.warning("source %s: %s never occurs in %s; found: %s", source.name, absent, values.name, known)


def _column_or_null(column: str | None, dtype: pl.DataType) -> pl.Expr:
    return pl.lit(None, dtype=dtype) if column is None else pl.col(column)


def normalize_unit(unit: pl.Expr) -> pl.Expr:
    """Return units in lower case with single blanks (found: '10^3/µL<tab>'); empty text becomes null."""
    spelled = unit.str.strip_chars().str.to_lowercase().str.replace_all(r"\s+", " ")
    return pl.when(spelled != "").then(spelled)
