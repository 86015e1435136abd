"""Finds the events of outcomes in CLIF tables: rows, discharges, long stays, readmissions to an ICU.

A finder returns one frame for the stays it was given: subject_id, event_time (null = it happened, when is
unknown), unknown (why it cannot be told whether it happened; null = it did). A stay without a row had no
event; several rows a stay are allowed, the earliest counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta

import polars as pl

from clinrep.ehr.clif import ClifTables, Kind, find_absent, normalize_text, normalize_words
from clinrep.ehr.configs.tokenize import TokenizeConfig

logger = logging.getLogger("clinrep")

Finder = Callable[[ClifTables, pl.DataFrame, TokenizeConfig], pl.DataFrame]

LONG_STAY = timedelta(days=7)
NOT_RECORDED = "whether it happened is not recorded"
# One meaning in the words of CLIF 2.x and 3.0; with `normalize: snake_case` both are spelled alike anyway.
ICU, IMV, EXPIRED, HOSPICE = ("ICU", "icu"), ("IMV", "imv"), ("Expired", "expired"), ("Hospice", "hospice")
AMA = ("Against Medical Advice (AMA)", "ama")
MISSING = ("Missing", "missing")  # CLIF's word for a discharge_category that the source lacks
# Where an ICU patient is taken and brought back from: the bed in the ICU is kept.
TRIPS = ("procedural", "radiology", "dialysis")

_NO_TIME, _KNOWN = pl.lit(None, dtype=pl.Datetime("us")), pl.lit(None, dtype=pl.String)
ADT: dict[str, Kind] = {"hospitalization_id": "id", "in_dttm": "time", "location_category": "category"}


def make_events(frame: pl.DataFrame, event_time: pl.Expr = _NO_TIME, unknown: pl.Expr = _KNOWN) -> pl.DataFrame:
    """Return the events of a frame with a column subject_id."""
    return frame.select("subject_id", event_time=event_time, unknown=unknown)


def find_rows(table: str, columns: dict[str, Kind], *words: str) -> Finder:
    """Return a finder of rows of `table` whose category is one of `words`, or of all its rows where none is given.

    `columns` are those of the stay, the time and, with words, the category, in that order.
    """
    stay, time, *categories = columns

    def find(tables: ClifTables, stays: pl.DataFrame, config: TokenizeConfig) -> pl.DataFrame:
        scan = tables.scan(table, columns)
        for column in categories:
            texts = _read_texts(tables, table, column)
            spelled, found = spell_words(words, config, column), normalize_text(texts, config.normalize, column)
            warn_if_absent(spelled, found, f"{table}.{column}")
            scan = scan.filter(pl.col(column).is_in(texts.filter(found.is_in(spelled)).implode()))
        rows = scan.group_by(stay).agg(first=pl.col(time).min(), num_undated=pl.col(time).null_count())
        with tables.explain_errors(table):
            events = rows.collect(engine="streaming").rename({stay: "subject_id"})
        events = events.join(stays.select("subject_id"), on="subject_id", how="semi")
        # One row says when, another that there was one without a time.
        dated, undated = events.filter(pl.col("first").is_not_null()), events.filter(pl.col("num_undated") > 0)
        return pl.concat([make_events(dated, pl.col("first")), make_events(undated)])

    return find


def find_discharges(*words: str) -> Finder:
    """Return a finder of stays whose discharge_category is one of `words`; the time is the discharge.

    Null is unknown, and so are the words of the setting `unknown_discharges`.
    """

    def find(tables: ClifTables, stays: pl.DataFrame, config: TokenizeConfig) -> pl.DataFrame:
        spelled = spell_words(words, config, "discharge_category")
        warn_if_absent(spelled, stays["discharge_category"], "hospitalization.discharge_category")
        _warn_of_missing(stays["discharge_category"], config)
        category = pl.col("discharge_category")
        unknown = spell_words(tuple(config.unknown_discharges), config, "discharge_category")
        is_unknown = category.is_null() | category.is_in(unknown)
        found = stays.filter(category.is_in(spelled) | is_unknown)
        return make_events(found, pl.col("discharge_dttm"), pl.when(is_unknown).then(pl.lit(NOT_RECORDED)))

    return find


def _warn_of_missing(categories: pl.Series, config: TokenizeConfig) -> None:
    """Warn of discharges that CLIF calls missing while the settings take them for known ones without an event."""
    missing = set(spell_words(MISSING, config, "discharge_category"))
    missing -= set(spell_words(tuple(config.unknown_discharges), config, "discharge_category"))
    count = int(categories.is_in(list(missing)).sum())
    if count:
        logger.warning(
            "hospitalization.discharge_category is 'Missing' for %d of %d stays, which count as having no event; "
            "unknown_discharges: [Missing] leaves them out",
            *(count, len(categories)),
        )


def find_long_stays(tables: ClifTables, stays: pl.DataFrame, config: TokenizeConfig) -> pl.DataFrame:
    """Find stays of more than 168 h; the event is the end of day 7."""
    # Exact, in microseconds: whole hours would miss stays of 168 to 169 h (spec/manuscript.md, D18).
    found = stays.filter(pl.col("discharge_dttm") - pl.col("admission_dttm") > LONG_STAY)
    return make_events(found, pl.col("admission_dttm") + LONG_STAY)


def find_icu_readmissions(tables: ClifTables, stays: pl.DataFrame, config: TokenizeConfig) -> pl.DataFrame:
    """Find the start of each stay's second time in an ICU, after it was elsewhere.

    ICU rows with no other place between them are one time in the ICU, from unit to unit too. Rows without a
    place (the discharge rows of CLIF 2.0) and TRIPS are no other place; of the rows of one instant an ICU
    counts. A row with a place, but without a time, could make any row a readmission: an event without a time.
    """
    texts = _read_texts(tables, "adt", "location_category")
    places = normalize_text(texts, config.normalize, "location_category")
    icu, trips = (places.is_in(spell_words(words, config, "location_category")) for words in (ICU, TRIPS))
    is_place = (places.str.strip_chars() != "") & ~trips
    place, time = pl.col("location_category"), pl.col("in_dttm")
    scan = tables.scan("adt", ADT).filter(place.is_in(texts.filter(is_place).implode()))
    scan = scan.select("in_dttm", subject_id="hospitalization_id", is_icu=place.is_in(texts.filter(icu).implode()))
    with tables.explain_errors("adt"):
        rows = scan.join(scan.filter("is_icu").select("subject_id"), on="subject_id", how="semi").collect()
    rows = rows.join(stays.select("subject_id"), on="subject_id", how="semi")
    undated = rows.filter(time.is_null())
    instants = rows.filter(time.is_not_null()).group_by("subject_id", "in_dttm").agg(pl.col("is_icu").any())
    instants = instants.sort("subject_id", "in_dttm")
    was_icu = pl.col("is_icu").shift(1).over("subject_id").fill_null(False)
    starts = instants.filter(pl.col("is_icu") & ~was_icu)
    again = starts.filter(pl.int_range(pl.len()).over("subject_id") == 1)
    return pl.concat([make_events(again, time), make_events(undated)])


def _read_texts(tables: ClifTables, table: str, column: str) -> pl.Series:
    """Return the distinct texts of a category: rows are many, spellings few, so these are compared, then rows found."""
    with tables.explain_errors(table):
        scan = tables.scan(table, {column: "category"})
        return scan.select(pl.col(column).unique()).collect(engine="streaming")[column]


def spell_words(words: tuple[str, ...], config: TokenizeConfig, column: str) -> list[str]:
    """Return `words` as the setting `normalize` spells this column, each spelling once."""
    return list(dict.fromkeys(normalize_words(words, config.normalize, column)))


def warn_if_absent(words: list[str], values: pl.Series, where: str) -> None:
    """Warn when no row has a word an outcome is defined by: a misspelling would make every label false."""
    absent, known = find_absent(words, values)
    if len(absent) == len(words):
        named = " or ".join(map(repr, words))
        logger.warning("%s never holds %s, so no stay has that event; found: %s", where, named, known)
