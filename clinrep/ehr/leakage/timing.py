"""Tokens of the input that are of the event, or after it, or could only be known after it."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from clinrep.ehr.leakage.directory import Tokenized
from clinrep.ehr.leakage.findings import Finding, Severity
from clinrep.ehr.leakage.input_counts import InputCounts

# Columns that are filled when the stay ends; static tokens of them tell every model how it ends.
COLUMNS_OF_THE_END = frozenset(
    {"discharge_category", "discharge_name", "discharge_dttm", "death_dttm", "length_of_stay", "length_of_stay_hours"}
)
# CLIF columns that say when something was asked for or drawn, before its value could be read.
COLUMNS_BEFORE_THE_VALUE = frozenset(
    {"lab_order_dttm", "lab_collect_dttm", "order_dttm", "ordered_dttm", "collect_dttm", "collected_dttm"}
)
# CLIF tables that are coded from the whole stay, whatever time their rows carry.
TABLES_CODED_LATER = {
    "hospital_diagnosis": "diagnoses are coded after discharge",
    "patient_diagnosis": "diagnoses are coded after discharge",
    "patient_procedures": "procedures are coded for billing",
}


def check_times(counts: InputCounts, vocabulary: pl.DataFrame) -> list[Finding]:
    """Return the tokens in inputs that are at or after the event, of its kind, or of the discharge."""
    rules: tuple[tuple[Severity, str, np.ndarray, np.ndarray | None, str], ...] = (
        (
            "certain",
            "at or after the event",
            counts.stays_after_event,
            counts.after_event,
            "at or after the event it is to predict",
        ),
        (
            "certain",
            "the event itself",
            counts.stays_with_event,
            None,
            "it means the event, and the stay is labelled all the same",
        ),
        ("certain", "of the discharge", counts.stays_with_end, None, "it is written when the stay ends"),
        (
            "doubtful",
            "of the discharge",
            counts.stays_with_end_word,
            None,
            "train has this word at the discharge alone, and here it is an event's: does it mean the same?",
        ),
    )
    findings = []
    for severity, check, stays, times, words in rules:
        for k, token in zip(*np.nonzero(stays), strict=True):
            num, name = int(stays[k, token]), vocabulary["token"][int(token)]
            often = "" if times is None else f" ({int(times[k, token])} times)"
            detail = f"in the input of {num} of {int(counts.num_events[k].sum())} labelled stays{often}: {words}"
            findings.append(Finding(severity, check, detail, counts.outcomes[k], name, num))
    return findings


def check_index_times(site: Tokenized) -> list[Finding]:
    """Return whether some index_time is later than the settings' window after admission, or unlike between outcomes."""
    findings = []
    window = site.settings["window"]
    length = pl.duration(microseconds=round(float(window["length_hours"]) * 3.6e9))
    rows = site.outcomes.join(site.subjects.select("subject_id", "start"), on="subject_id", how="left")
    late = rows.filter(pl.col("index_time") > pl.col("start") + length)["subject_id"].n_unique()
    if late:  # with origin first_event it may be earlier than admission + window, never later
        what = (
            f"the input of {late} stays ends more than {window['length_hours']:g} h after admission; run stage 00 again"
        )
        findings.append(Finding("certain", "window", what, num_subjects=late))
    unlike = site.outcomes.group_by("subject_id").agg(pl.col("index_time").n_unique()).filter(pl.col("index_time") > 1)
    if unlike.height:
        what = f"{unlike.height} stays have another index_time for another outcome; run stage 00 again"
        findings.append(Finding("certain", "window", what, num_subjects=unlike.height))
    early = site.outcomes.filter(pl.col("label").fill_null(False) & (pl.col("event_time") < pl.col("index_time")))
    for outcome, number in early.group_by("outcome").len().sort("outcome").iter_rows():
        what = f"{number} stays labelled with an event before index_time: they are to be excluded"
        findings.append(Finding("certain", "event before index_time", what, outcome, num_subjects=number))
    return findings


def check_sources(settings: dict[str, Any]) -> list[Finding]:
    """Return the sources and static tokens whose columns or tables are filled after the time they are given."""
    findings = []
    for edge in settings["static_tokens"]:
        if edge.get("column") in COLUMNS_OF_THE_END:
            what = f"a static token of {edge['column']}, which is filled when the stay ends; take it out"
            findings.append(Finding("certain", "of the discharge", what, token=edge["token"]))
    for source in settings["sources"]:
        time, table = source.get("time_column"), source["table"]
        if time in COLUMNS_BEFORE_THE_VALUE:
            what = (
                f"source {source['name']} is placed at {time}, before its value was known; use the time of the result"
            )
            findings.append(Finding("doubtful", "known later", what, token=source["token"]))
        if time is not None and table in TABLES_CODED_LATER:
            what = (
                f"source {source['name']} is placed at {time}, but {TABLES_CODED_LATER[table]}; use time_column: null"
            )
            findings.append(Finding("doubtful", "known later", what, token=source["token"]))
    return findings
