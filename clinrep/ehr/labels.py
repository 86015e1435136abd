"""Labels of stays for the outcomes, by one rule for all: whether the event comes after index_time, by the horizon."""

from __future__ import annotations

import logging
from datetime import timedelta

import polars as pl

from clinrep.artifacts import SPLITS
from clinrep.ehr.clif import ClifTables
from clinrep.ehr.configs.tokenize import TokenizeConfig
from clinrep.ehr.outcome_events import make_events
from clinrep.ehr.outcomes import Outcome

logger = logging.getLogger("clinrep")

MANY_CENSORED = 0.1
"""Share of the stays not excluded otherwise from which on censoring is worth a warning."""
CENSORED = "follow-up ends before the horizon"


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

    The label is whether the event follows index_time, by the horizon. It is null, never false, for a stay
    that the question cannot be asked of: its table is missing, the event was already seen at index_time, the
    stay had ended or had not begun by then, whether or when it happened is unknown, what the outcome asks
    for before index_time is missing, or follow-up ends before the horizon. Splits are not known here, so
    train, val and test are treated alike.
    """
    base = stays.select("subject_id", "discharge_dttm", "first").with_columns(index_time=index_times)
    length = pl.lit(outcome.horizon, dtype=pl.Duration("us"))
    base = base.with_columns(outcome=pl.lit(outcome.name), horizon=pl.col("index_time") + length)
    missing = [table for table in outcome.columns if not tables.has(table)]
    if missing:
        reason = f"no table {missing[0]}"
        logger.warning("outcome %s: %s, every label is null", outcome.name, reason)
        rows = pl.concat([make_empty_table(), base.select("subject_id", "outcome", "index_time")], how="diagonal")
        return rows.with_columns(excluded_reason=pl.lit(reason))
    for find in (_find_first_events, _find_precondition, _find_follow_up):
        base = base.join(find(outcome, tables, stays, config), on="subject_id", how="left", maintain_order="left")
    is_in_time = (pl.col("event_time") <= pl.col("horizon")).fill_null(True)
    rows = base.with_columns(excluded_reason=_name_exclusion(outcome, config.window.is_end_closed))
    rows = rows.with_columns(
        label=pl.when(pl.col("excluded_reason").is_null()).then(pl.col("event_time").is_not_null() & is_in_time),
        event_time=pl.when(pl.col("unknown").is_null()).then("event_time"),
    )
    _warn_of_censoring(outcome, rows)
    return rows.select(make_empty_table().columns)


def describe_labels(rows: pl.DataFrame) -> str:
    """Return what a log says of one outcome's rows with their `split`: counts by split, and why labels are null."""
    told = []
    for split in SPLITS:
        mine = rows.filter(pl.col("split") == split)
        because = mine["excluded_reason"].drop_nulls().value_counts().sort("count", "excluded_reason", descending=True)
        excluded = "".join(f", {count} {reason}" for reason, count in because.iter_rows())
        labels = mine["label"].drop_nulls()
        told.append(f"{split} {labels.sum()} events in {labels.len()} labelled stays{excluded}")
    return "; ".join(told)


def _find_first_events(
    outcome: Outcome, tables: ClifTables, stays: pl.DataFrame, config: TokenizeConfig
) -> pl.DataFrame:
    """Return a row per stay: its earliest event_time, is_undated (another has none), unknown."""
    found = outcome.find_events(tables, stays, config)
    return found.group_by("subject_id").agg(
        event_time=pl.col("event_time").min(),
        is_undated=pl.col("event_time").is_null().any(),
        unknown=pl.col("unknown").min(),
    )


def _find_precondition(
    outcome: Outcome, tables: ClifTables, stays: pl.DataFrame, config: TokenizeConfig
) -> pl.DataFrame:
    """Return subject_id and asked_from, when the precondition was first met; without one, no rows."""
    asked = outcome.precondition
    found = make_events(stays.clear()) if asked is None else asked.find_events(tables, stays, config)
    return found.group_by("subject_id").agg(asked_from=pl.col("event_time").min())


def _find_follow_up(outcome: Outcome, tables: ClifTables, stays: pl.DataFrame, config: TokenizeConfig) -> pl.DataFrame:
    """Return subject_id and followed_until; without a follow-up, no rows."""
    if outcome.follow_up is None:
        return make_events(stays.clear()).select("subject_id", followed_until="event_time")
    return outcome.follow_up.find_ends(tables, stays, config)


def _name_exclusion(outcome: Outcome, is_end_closed: bool) -> pl.Expr:
    """Return why the label is null, or null where it is not; the first reason that holds is named."""
    index, event = pl.col("index_time"), pl.col("event_time")

    def is_seen(time: str) -> pl.Expr:
        return (pl.col(time) <= index if is_end_closed else pl.col(time) < index).fill_null(False)

    reasons = [
        (~is_seen("first"), "observation window ends before the stay begins"),
        (is_seen("event_time"), "event before index_time"),
        (is_seen("discharge_dttm"), "stay ended before index_time"),
        (pl.col("is_undated").fill_null(False), "event without a time"),
    ]
    if outcome.precondition is not None:
        reasons.append((~is_seen("asked_from"), outcome.precondition.reason))
    if outcome.follow_up is not None:
        is_followed = (pl.col("followed_until") >= pl.col("horizon")).fill_null(False)
        reasons.append((event.is_null() & ~is_followed, CENSORED))
    return pl.coalesce("unknown", *[pl.when(holds).then(pl.lit(reason)) for holds, reason in reasons])


def _warn_of_censoring(outcome: Outcome, rows: pl.DataFrame) -> None:
    """Warn where so many stays are not followed to the horizon that those which are differ from the rest."""
    num_labelled = rows["label"].drop_nulls().len()
    num_censored = rows.filter(pl.col("excluded_reason") == CENSORED).height
    if outcome.follow_up is not None and num_censored > MANY_CENSORED * (num_labelled + num_censored):
        logger.warning(
            "outcome %s: %d of %d stays have no label because their follow-up ends before the horizon; known events "
            "keep theirs and are overrepresented; the setting %s says how far your site follows patients",
            *(outcome.name, num_censored, num_labelled + num_censored, outcome.follow_up.setting),
        )
