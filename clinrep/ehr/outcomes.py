"""The outcomes: one table of definitions over CLIF tables, and the rule that labels a stay."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from clinrep.config import lookup
from clinrep.ehr.clif import ClifTables, Kind, find_absent, normalize_text, normalize_words
from clinrep.ehr.configs.tokenize import TokenizeConfig

logger = logging.getLogger("clinrep")

LONG_STAY = timedelta(days=7)


@dataclass(frozen=True)
class Outcome:
    """One outcome: what happened when, from which tables."""

    name: str
    definition: str
    table: str
    columns: dict[str, Kind]
    find_events: Callable[[ClifTables, pl.DataFrame, TokenizeConfig], pl.DataFrame]
    """(tables, stays, config) -> subject_id, event_time (null = it happened, when is unknown), and
    is_unknown (whether it happened cannot be told); several rows a stay are allowed."""


def _find_death(tables: ClifTables, stays: pl.DataFrame, config: TokenizeConfig) -> pl.DataFrame:
    category = pl.col("discharge_category")
    word = _normalize_word("Expired", config, "discharge_category")
    _warn_if_absent(word, stays["discharge_category"], "hospitalization.discharge_category")
    is_event = (category == word) | category.is_null()
    return stays.filter(is_event).select("subject_id", event_time="discharge_dttm", is_unknown=category.is_null())


def _find_long_stay(tables: ClifTables, stays: pl.DataFrame, config: TokenizeConfig) -> pl.DataFrame:
    # Exact, in microseconds: whole hours would miss stays of 168 to 169 h (spec/manuscript.md, D18).
    is_long = pl.col("discharge_dttm") - pl.col("admission_dttm") > LONG_STAY
    event_time = pl.col("admission_dttm") + LONG_STAY
    return stays.filter(is_long).select("subject_id", event_time=event_time, is_unknown=pl.lit(False))


def _find_rows(table: str, columns: dict[str, Kind], word: str) -> Callable[..., pl.DataFrame]:
    """Return a finder of rows of `table` (stay, time and category columns, in that order) that say `word`."""
    stay, time, column = columns

    def find(tables: ClifTables, stays: pl.DataFrame, config: TokenizeConfig) -> pl.DataFrame:
        # Rows are many, spellings few: find the spellings first, then only their rows.
        scan = tables.scan(table, columns)
        with tables.explain_errors(table):
            texts = scan.select(pl.col(column).unique()).collect(engine="streaming")[column]
        spelled, words = _normalize_word(word, config, column), normalize_text(texts, config.normalize, column)
        _warn_if_absent(spelled, words, f"{table}.{column}")
        is_event = pl.col(column).is_in(texts.filter(words == spelled).implode())
        rows = (
            scan.filter(is_event)
            .group_by(stay)
            .agg(event_time=pl.col(time).min(), num_undated=pl.col(time).null_count())
        )
        with tables.explain_errors(table):
            found = rows.collect(engine="streaming").rename({stay: "subject_id"})
        found = found.join(stays.select("subject_id"), on="subject_id", how="semi")
        # One row says when, another that there was one without a time.
        dated = found.filter(pl.col("event_time").is_not_null()).select("subject_id", "event_time")
        undated = found.filter(pl.col("num_undated") > 0).select(
            "subject_id", event_time=pl.lit(None, dtype=pl.Datetime("us"))
        )
        return pl.concat([dated, undated]).with_columns(is_unknown=pl.lit(False))

    return find


_STAY: dict[str, Kind] = {"hospitalization_id": "id", "admission_dttm": "time", "discharge_dttm": "time"}
_DEATH: dict[str, Kind] = {**_STAY, "discharge_category": "category"}
_ADT: dict[str, Kind] = {"hospitalization_id": "id", "in_dttm": "time", "location_category": "category"}
_DEVICE: dict[str, Kind] = {"hospitalization_id": "id", "recorded_dttm": "time", "device_category": "category"}

OUTCOMES = {
    outcome.name: outcome
    for outcome in (
        Outcome(
            "in_hospital_death",
            "discharge_category is Expired; the event is the discharge; a null category is unknown",
            "hospitalization",
            _DEATH,
            _find_death,
        ),
        Outcome(
            "long_length_of_stay",
            "discharge is more than 7 days (168 h) after admission; the event is the end of day 7",
            "hospitalization",
            _STAY,
            _find_long_stay,
        ),
        Outcome(
            "icu_admission",
            "first ADT row with location_category ICU",
            "adt",
            _ADT,
            _find_rows("adt", _ADT, "ICU"),
        ),
        Outcome(
            "imv_event",
            "first respiratory_support row with device_category IMV (invasive mechanical ventilation)",
            "respiratory_support",
            _DEVICE,
            _find_rows("respiratory_support", _DEVICE, "IMV"),
        ),
    )
}


def check_outcomes(tables: ClifTables, config: TokenizeConfig) -> None:
    """Raise an InputError for an unknown outcome, or a missing or wrong column of one that is known."""
    for name in config.outcomes:
        outcome = lookup(OUTCOMES, name, "outcome")
        if tables.has(outcome.table):
            tables.check_columns(outcome.table, outcome.columns)


def make_empty_table() -> pl.DataFrame:
    """Return table `outcomes` without rows."""
    times, text = pl.Datetime("us"), pl.String()
    return pl.DataFrame(
        schema={
            "subject_id": text,
            "outcome": text,
            "index_time": times,
            "label": pl.Boolean(),
            "event_time": times,
            "excluded_reason": text,
        }
    )


def find_index_times(stays: pl.DataFrame, first_events: pl.Series, config: TokenizeConfig) -> pl.Series:
    """Return the end of each stay's observation window, in the order of `stays`."""
    origin = pl.col("admission_dttm")
    if config.window.origin == "first_event":
        origin = pl.min_horizontal(origin, "_first")
    length = timedelta(hours=config.window.length_hours)
    return stays.with_columns(_first=first_events).select(index_time=origin + length)["index_time"]


def label_outcome(
    outcome: Outcome, tables: ClifTables, stays: pl.DataFrame, index_times: pl.Series, config: TokenizeConfig
) -> pl.DataFrame:
    """Return rows of table `outcomes` for one outcome, in the order of `stays`.

    The label is whether the event follows index_time. It is null, never false, for a stay that the
    question cannot be asked of: its table is missing, the event was already seen at index_time, the
    stay had ended or had not begun by then, or whether or when it happened is unknown.
    """
    base = stays.select("subject_id", "discharge_dttm", "first").with_columns(index_time=index_times)
    if tables.has(outcome.table):
        found = outcome.find_events(tables, stays, config)
    else:
        logger.warning("outcome %s: no table %s, every label is null", outcome.name, outcome.table)
        found = pl.DataFrame(
            schema={"subject_id": pl.String, "event_time": pl.Datetime("us"), "is_unknown": pl.Boolean}
        )
    per_stay = found.group_by("subject_id").agg(
        event_time=pl.col("event_time").min(),
        is_unknown=pl.col("is_unknown").any(),
        is_undated=pl.col("event_time").is_null().any(),
    )
    labelled = base.join(per_stay, on="subject_id", how="left", maintain_order="left")
    reason = _name_exclusion(tables.has(outcome.table), outcome.table, config.window.is_end_closed)
    return labelled.with_columns(outcome=pl.lit(outcome.name), excluded_reason=reason).select(
        "subject_id",
        "outcome",
        "index_time",
        label=pl.when(pl.col("excluded_reason").is_null()).then(pl.col("event_time").is_not_null()),
        event_time=pl.when(~pl.col("is_unknown").fill_null(False)).then(pl.col("event_time")),
        excluded_reason="excluded_reason",
    )


def _name_exclusion(has_table: bool, table: str, is_end_closed: bool) -> pl.Expr:
    """Return why the label is null, or null where it is not; the first reason that holds is named."""
    if not has_table:
        return pl.lit(f"no table {table}")
    index = pl.col("index_time")

    def is_seen(time: str) -> pl.Expr:
        return (pl.col(time) <= index if is_end_closed else pl.col(time) < index).fill_null(False)

    return (
        pl.when(pl.col("is_unknown").fill_null(False))
        .then(pl.lit("whether it happened is not recorded"))
        .when(~is_seen("first"))
        .then(pl.lit("observation window ends before the stay begins"))
        .when(is_seen("event_time"))
        .then(pl.lit("event before index_time"))
        .when(is_seen("discharge_dttm"))
        .then(pl.lit("stay ended before index_time"))
        .when(pl.col("is_undated").fill_null(False))
        .then(pl.lit("event without a time"))
        .otherwise(None)
    )


def _normalize_word(word: str, config: TokenizeConfig, column: str) -> str:
    return normalize_words([word], config.normalize, column)[0]


def _warn_if_absent(word: str, values: pl.Series, where: str) -> None:
    """Warn when no row has the word an outcome is defined by: a misspelling would make every label false."""
    absent, known = find_absent([word], values)
    if absent:
        logger.warning("%s never holds %r, so no stay has that event; found: %s", where, word, known)
