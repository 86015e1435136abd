"""Rows of CLIF tables to events of stays, each table read once and in bounded memory."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from clinrep.config import InputError
from clinrep.ehr.clif import ClifTables
from clinrep.ehr.codes import Codes
from clinrep.ehr.configs.sources import EventSource
from clinrep.ehr.configs.tokenize import TokenizeConfig
from clinrep.ehr.ledger import Ledger
from clinrep.ehr.patient_stays import PatientStays
from clinrep.ehr.scan import BATCH_ROWS, Batch, Combinations, TableScan
from clinrep.ehr.sources import NULL, NUM_BEYOND_KEPT, Columns, SourcePlan, get_source_columns
from clinrep.ehr.store import NO_TIME, UNTIMED, Events, EventStore
from clinrep.run import show_progress

logger = logging.getLogger("clinrep")
IdColumn = Literal["hospitalization_id", "patient_id"]


@dataclass
class EventLog:
    """The events of every adult stay, and what was learned of each stay while they were read."""

    store: EventStore
    codes: Codes
    num_events: np.ndarray
    """i64 (stays,)"""
    first_event: np.ndarray
    """i64 (stays,): microseconds since 1970 of the first event with a time, `NO_TIME` where there is none."""
    first_edge: np.ndarray
    """i64 (stays,): the same of the sources that move the edge tokens."""
    last_edge: np.ndarray
    """i64 (stays,): of their last event; the least integer where there is none."""
    num_of_source: np.ndarray
    """i64 (sources,): events that can stand in a timeline."""
    beyond: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `BEYOND_SCHEMA`: what was beyond its declared range."""

    def __enter__(self) -> EventLog:
        """Return the log itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what lies in files."""
        self.store.close()


def check_sources(tables: ClifTables, config: TokenizeConfig) -> None:
    """Raise an InputError for a required table that is missing, or a column that is missing or wrong."""
    for source in config.sources:
        # Another hospital may lack what the tokenizer's own has; the site report says so.
        if source.required and config.tokenizer_dir is None:
            tables.require(source.table, f"source {source.name!r} requires")
        if tables.has(source.table) and not _find_missing_columns(source, tables):
            for column, kinds in get_source_columns(source, tables).items():
                for kind in kinds:
                    tables.check_columns(source.table, {column: kind})


def _find_missing_columns(source: EventSource, tables: ClifTables) -> list[str]:
    """Return the columns that the table lacks, where the source may then be skipped."""
    if source.if_column_missing == "error":
        return []
    asked = [source.id_column, source.time_column, source.category_column, source.value_column]
    asked += [source.categorical_value_column, source.unit_column]
    present = tables.read_schema(source.table)
    return [name for name in asked if name is not None and name not in present]


def read_events(
    tables: ClifTables, cohort: pl.DataFrame, config: TokenizeConfig, ledger: Ledger, directory: Path
) -> EventLog:
    """Read the events of every adult stay; what memory does not hold lies in `directory` until closed."""
    used = {source.table for source in config.sources} | {"patient", "hospitalization"}
    unused = sorted(set(tables.paths) - used)
    if unused:
        logger.info("%s: no event source uses %s", tables.directory, ", ".join(unused))
    plans = _plan_sources(tables, config, ledger)
    num_rows = {plan.source.table: tables.count_rows(plan.source.table) for plan in plans}
    num_events = sum(num_rows[plan.source.table] for plan in plans)
    store = EventStore(cohort.height, num_events, int(config.memory_gb * 1e9), directory)
    none, least = np.full(cohort.height, NO_TIME), np.iinfo(np.int64).min
    zeros = (np.zeros(size, dtype=np.int64) for size in (cohort.height, len(config.sources)))
    log = EventLog(store, Codes(), next(zeros), none, none.copy(), np.full_like(none, least), next(zeros))
    reader = _Reader(tables, cohort, config, ledger, log)
    by_table: dict[tuple[str, IdColumn], list[SourcePlan]] = {}
    for plan in plans:
        by_table.setdefault((plan.source.table, plan.source.id_column), []).append(plan)
    try:
        for (table, id_column), chosen in by_table.items():
            reader.read(table, id_column, chosen)
    except BaseException:
        store.close()
        raise
    return log


def _plan_sources(tables: ClifTables, config: TokenizeConfig, ledger: Ledger) -> list[SourcePlan]:
    plans = []
    absent: dict[str, list[str]] = {}
    for number, source in enumerate(config.sources):
        step = f"{source.name}: table"
        if not tables.has(source.table):
            ledger.add(source.table, step, 0, 0, "the folder has no such table")
            absent.setdefault(source.table, []).append(source.name)
        elif missing := _find_missing_columns(source, tables):
            ledger.add(source.table, step, 0, 0, f"the table has no column {', '.join(missing)}")
            logger.warning("source %s: %s has no column %s; it gives no events", source.name, source.table, missing)
        else:
            plans.append(SourcePlan(number, source, tables, config))
    for table, names in absent.items():
        logger.warning("no table %s: no events from source %s", table, ", ".join(names))
    return plans


class _Reader:
    """Reads tables, one after the other, into an EventLog."""

    def __init__(
        self, tables: ClifTables, cohort: pl.DataFrame, config: TokenizeConfig, ledger: Ledger, log: EventLog
    ) -> None:
        self.tables, self.config, self.ledger, self.log = tables, config, ledger, log
        self.cohort = cohort
        self.stay_of_id = dict(zip(cohort["subject_id"], range(cohort.height), strict=True))
        edges = config.edge_time_sources
        self.moves_edges = [edges is None or source.name in edges for source in config.sources]

    def read(self, table: str, id_column: IdColumn, plans: list[SourcePlan]) -> None:
        """Read one table for all the sources on it."""
        columns: Columns = {}
        for plan in plans:
            for column, kinds in plan.columns.items():
                columns.setdefault(column, set()).update(kinds)
        scan, num_rows = TableScan(self.tables.paths[table], columns), self.tables.count_rows(table)
        self.tables.warn_of_naive(table, [column for column, kinds in columns.items() if "time" in kinds])
        finder = PatientStays(self.cohort) if id_column == "patient_id" else None
        ids = finder.numbers if finder is not None else self.stay_of_id
        stay_of_code = np.full(1, -1, dtype=np.int64)
        combinations, counts = Combinations(), np.empty(0, dtype=np.int64)
        num_read = num_known = 0
        batches = show_progress(scan.iterate(), self.config, table, -(-num_rows // BATCH_ROWS))
        for batch in batches:
            new = [ids.get(text, -1) for text in scan.values[id_column][len(stay_of_code) - 1 :]]
            stay_of_code = np.concatenate([stay_of_code, np.array(new, dtype=np.int64)])
            stay = stay_of_code[batch.text[id_column]]
            numbers = _number_rows(batch, columns, id_column, combinations)
            is_known = stay >= 0
            num_read, num_known = num_read + batch.num_rows, num_known + int(is_known.sum())
            _extend_plans(plans, combinations, scan, columns, id_column, self.log.codes)
            counts = np.concatenate([counts, np.zeros(len(combinations.rows) - len(counts), dtype=np.int64)])
            counts += np.bincount(numbers[is_known], minlength=len(counts))
            for plan in plans:
                self._add_events(plan, batch, stay, is_known, numbers, finder)
        self._record(table, scan, plans, counts, num_read, num_known)

    def _add_events(
        self,
        plan: SourcePlan,
        batch: Batch,
        stay: np.ndarray,
        is_known: np.ndarray,
        numbers: np.ndarray,
        finder: PatientStays | None,
    ) -> None:
        """Turn the rows of one batch into the events of one source."""
        code = plan.codes[numbers]
        is_event = is_known & (code >= 0)
        # no copies where every row is kept
        rows: np.ndarray | slice = slice(None) if is_event.all() else np.flatnonzero(is_event)
        code, stay = code[rows].astype(np.uint32), stay[rows]
        source = plan.source
        has_time = source.time_column is not None
        time = batch.times[source.time_column][rows] if has_time else np.full(len(code), NO_TIME)  # type: ignore[index]
        if has_time and self.config.learn_from_untimed:
            time = np.where(batch.is_null[source.time_column][rows], UNTIMED, time)  # type: ignore[index]
        has_value = source.value_column is not None
        value = batch.numbers[source.value_column][rows] if has_value else np.full(len(code), np.nan)  # type: ignore[index]
        if has_value:
            value = plan.convert_values(value, numbers[rows])
        if finder is not None:
            stay = np.where(time == UNTIMED, -1, finder.find(stay, time))  # no time, no stay
            plan.num_outside += int(((stay < 0) & (time != UNTIMED)).sum())
            is_inside = stay >= 0
            stay, time, code, value = stay[is_inside], time[is_inside], code[is_inside], value[is_inside]
        events = Events(stay.astype(np.uint32), time, code, value)
        if source.ranges:
            events = apply_ranges(events, plan, self.log.codes)
        self._note_times(events, plan)
        self.log.store.add(events)

    def _note_times(self, events: Events, plan: SourcePlan) -> None:
        """Keep count and first and last times of each stay's events."""
        log = self.log
        log.num_events += np.bincount(events.stay, minlength=len(log.num_events))
        if self.config.learn_from_untimed:
            events = events.take(events.time != UNTIMED)
        log.num_of_source[plan.number] += len(events)
        if plan.source.time_column is None:
            return
        np.minimum.at(log.first_event, events.stay, events.time)
        if self.moves_edges[plan.number]:
            np.minimum.at(log.first_edge, events.stay, events.time)
            np.maximum.at(log.last_edge, events.stay, events.time)

    def _record(
        self, table: str, scan: TableScan, plans: list[SourcePlan], counts: np.ndarray, num_read: int, num_known: int
    ) -> None:
        """Write the ledger of a table that was read, and warn of what looks wrong."""
        what = f"{self.tables.paths[table]}: none of its {num_read} rows has the id of an adult stay"
        if num_read and not num_known:
            if any(plan.source.required for plan in plans) and self.config.tokenizer_dir is None:
                raise InputError(f"{what}; ids of another site, or spelled otherwise? correct the export")
            logger.warning("%s: it gives no events", what)
        id_column = plans[0].source.id_column
        self.ledger.add(table, "read", num_read, num_read, f"rows of {self.tables.paths[table].name}")
        for column, count in scan.num_placeholders.items():
            self.ledger.note_placeholders(table, column, count, num_read)
        self.ledger.add(table, "adult stay", num_read, num_known, f"{id_column} is not of an adult stay")
        for plan in plans:
            plan.write_ledger(counts, num_known, self.ledger)
            self.log.beyond += plan.write_ranges(counts, self.log.codes, self.ledger)
            plan.warn_of_absent_words(scan.values)
            plan.warn_of_absent_ranges(self.log.codes)
            if plan.source.required and num_known and not self.log.num_of_source[plan.number]:
                logger.warning("source %s: no row of %s is left; see the counts above", plan.source.name, table)


def _list_combined(columns: Columns, id_column: str) -> tuple[list[str], list[str]]:
    """Return the columns whose texts, and those whose null flags, make a row's combination, in its order."""
    texts = [name for name, kinds in columns.items() if kinds & {"id", "category"} and name != id_column]
    return texts, [name for name, kinds in columns.items() if kinds - {"id", "category"}]


def _number_rows(batch: Batch, columns: Columns, id_column: str, combinations: Combinations) -> np.ndarray:
    """Return the combination each row has of all texts and null flags but the id."""
    texts, flags = _list_combined(columns, id_column)
    parts = [*(batch.text[name] for name in texts), *(batch.is_null[name].view(np.int8) for name in flags)]
    return combinations.number(parts or [np.zeros(batch.num_rows, dtype=np.int8)])


def _extend_plans(
    plans: list[SourcePlan], combinations: Combinations, scan: TableScan, columns: Columns, id_column: str, codes: Codes
) -> None:
    """Let every plan decide about the combinations that are new."""
    new = combinations.rows[len(plans[0].failed) :]
    if not new:
        return
    texts, flags = _list_combined(columns, id_column)
    digits = list(zip(*new, strict=True))
    data: dict[str, pl.Series] = {}
    for name, column in zip(texts, digits[: len(texts)], strict=True):
        values = scan.values[name]
        data[name] = pl.Series([values[code - 1] if code else None for code in column], dtype=pl.String)
    for name, column in zip(flags, digits[len(texts) :], strict=False):
        data[NULL + name] = pl.Series(column, dtype=pl.Int8).cast(pl.Boolean)
    frame = pl.DataFrame(data) if data else pl.DataFrame({"_": [None] * len(new)})
    for plan in plans:
        plan.extend(frame, codes)


def apply_ranges(events: Events, plan: SourcePlan, codes: Codes) -> Events:
    """Return the events after what the source declares about impossible values, counting each."""
    low, high, action = plan.get_bounds(codes)
    is_beyond = (events.value < low[events.code]) | (events.value > high[events.code])
    is_beyond &= np.isfinite(events.value)  # infinite values are missing ones
    rows = np.flatnonzero(is_beyond)
    if not len(rows):
        return events
    beyond = events.code[rows]
    timed = rows[events.time[rows] != UNTIMED]
    for code in np.unique(events.code[timed]).tolist():
        mine = events.value[timed[events.code[timed] == code]]
        plan.num_beyond[code] = plan.num_beyond.get(code, 0) + len(mine)
        kept = plan.some_beyond.setdefault(code, [])
        kept += mine[: NUM_BEYOND_KEPT - len(kept)].tolist()
    actions = action[beyond]
    clipped = rows[actions == plan.CLIP]
    value = events.value.copy()
    value[clipped] = np.clip(value[clipped], low[events.code[clipped]], high[events.code[clipped]])
    keep = np.ones(len(events), dtype=bool)
    keep[rows[actions == plan.DROP]] = False
    return Events(events.stay, events.time, events.code, value).take(keep)
