"""How often each token is in the input of labelled stays, and where it must not be: V tokens, K outcomes, N stays.

The input is cut here again, apart from clinrep.ehr.sequences: static tokens, and what was before index_time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from clinrep.artifacts import read_table_file
from clinrep.config import InputError
from clinrep.ehr.leakage.directory import Tokenized
from clinrep.ehr.outcome_tokens import OUTCOME_TOKENS, find_event_tokens

MAX_COUNT = 15
"""Occurrences in one input that are told apart; more count as this many."""
UNLABELLED = -1


@dataclass
class InputCounts:
    """Counts over the inputs of every labelled stay, of all splits."""

    outcomes: list[str]
    num_events: np.ndarray
    """i64 (K, 2): labelled stays without and with the event."""
    histogram: np.ndarray
    """i32 (K, V, MAX_COUNT + 1, 2): stays by occurrences and label; the column of 0 occurrences stays empty."""
    patients: np.ndarray
    """i32 (K, V, 2): patients whose first labelled stay has the token, by its label."""
    after_event: np.ndarray
    """i64 (K, V): occurrences at or after the event."""
    stays_after_event: np.ndarray
    """i64 (K, V): stays with such an occurrence."""
    stays_with_end: np.ndarray
    """i64 (K, V): stays with a token of the discharge."""
    stays_with_event: np.ndarray
    """i64 (K, V): stays with a token that means the event itself."""


def count_inputs(site: Tokenized) -> InputCounts:
    """Count over all timelines, one part at a time.

    Raises:
        InputError: a token id beyond the vocabulary.
    """
    outcomes = sorted(site.outcomes["outcome"].unique().to_list())
    stays, num_tokens = _join_labels(site, outcomes), site.vocabulary.height
    shape = (len(outcomes), num_tokens)
    labels = [stays[f"label{k}"].to_numpy() for k in range(len(outcomes))]
    counts = InputCounts(
        outcomes,
        np.array([[(label == value).sum() for value in (0, 1)] for label in labels], dtype=np.int64).reshape(-1, 2),
        np.zeros((*shape, MAX_COUNT + 1, 2), dtype=np.int32),
        np.zeros((*shape, 2), dtype=np.int32),
        *(np.zeros(shape, dtype=np.int64) for _ in range(4)),
    )
    is_end, is_event = find_end_tokens(site), _find_event_tokens(site, outcomes)
    for _, path in site.find_timelines():
        part = read_table_file("timelines", path).join(stays, on="subject_id", how="inner")
        _count_part(counts, part, site, is_end, is_event)
    return counts


def find_end_tokens(site: Tokenized) -> np.ndarray:
    """Return which tokens are written at the end of a stay, bool (V,)."""
    fixed = [edge["token"] for edge in site.settings["discharge_tokens"] if "{" not in edge["token"]]
    is_end: np.ndarray = ((site.vocabulary["kind"] == "discharge") | site.vocabulary["token"].is_in(fixed)).to_numpy()
    return is_end


def _find_event_tokens(site: Tokenized, outcomes: list[str]) -> np.ndarray:
    """Return which tokens mean the event of each outcome, bool (K, V); none where no token tells."""
    found = np.zeros((len(outcomes), site.vocabulary.height), dtype=bool)
    for k, outcome in enumerate(outcomes):
        if outcome in OUTCOME_TOKENS:
            try:
                found[k] = find_event_tokens(outcome, site.vocabulary, site.settings, site.path)
            except InputError:  # the vocabulary has no such token: then none can be in an input
                continue
    return found


def _join_labels(site: Tokenized, outcomes: list[str]) -> pl.DataFrame:
    """Return a row per stay: index_time, and of every outcome label (i8), event time, whether first of the patient."""
    times = site.outcomes.group_by("subject_id").agg(pl.col("index_time").first())
    stays = times.join(site.splits.select("subject_id", "patient_id"), on="subject_id", how="left").sort("subject_id")
    for k, outcome in enumerate(outcomes):
        rows = site.outcomes.filter(pl.col("outcome") == outcome)
        label = pl.col("label").cast(pl.Int8).fill_null(UNLABELLED)
        mine = rows.select("subject_id", label.alias(f"label{k}"), pl.col("event_time").alias(f"event{k}"))
        stays = stays.join(mine, on="subject_id", how="left", maintain_order="left")
        is_labelled = pl.col(f"label{k}").fill_null(UNLABELLED) >= 0
        is_first = is_labelled & (
            pl.col("subject_id") == pl.col("subject_id").filter(is_labelled).first().over("patient_id")
        )
        stays = stays.with_columns(
            pl.col(f"label{k}").fill_null(UNLABELLED), is_first.fill_null(False).alias(f"first{k}")
        )
    return stays


def _count_part(
    counts: InputCounts, part: pl.DataFrame, site: Tokenized, is_end: np.ndarray, is_event: np.ndarray
) -> None:
    """Add one part of the timelines, with the columns of `_join_labels`, to `counts`."""
    num_tokens = len(is_end)
    lengths = part["token_ids"].list.len().to_numpy().astype(np.int64)
    ids = part["token_ids"].explode(empty_as_null=False).to_numpy().astype(np.int64)
    times = part["times"].explode(empty_as_null=False).to_numpy()
    if len(ids) and ids.max() >= num_tokens:
        raise InputError(
            f"{site.path}: a timeline holds token {ids.max()}, the vocabulary has {num_tokens}; run 00 again"
        )
    row = np.repeat(np.arange(part.height), lengths)
    is_static = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths) < len(
        site.settings["static_tokens"]
    )
    index_time = part["index_time"].to_numpy()[row]
    is_before = times <= index_time if site.settings["window"]["is_end_closed"] else times < index_time
    seen = np.flatnonzero(is_static | is_before)
    ids, times, row, is_static = ids[seen], times[seen], row[seen], is_static[seen]
    pairs, occurrences = np.unique(row * num_tokens + ids, return_counts=True)
    pair_row, pair_token = pairs // num_tokens, pairs % num_tokens
    occurrences = np.minimum(occurrences, MAX_COUNT)
    for k in range(len(counts.outcomes)):
        label = part[f"label{k}"].to_numpy().astype(np.int64)
        is_mine = label[pair_row] >= 0
        own_row, token = pair_row[is_mine], pair_token[is_mine]
        place = (token * (MAX_COUNT + 1) + occurrences[is_mine]) * 2 + label[own_row]
        _add(counts.histogram[k], place)
        is_first = part[f"first{k}"].to_numpy()[own_row]
        _add(counts.patients[k], (token * 2 + label[own_row])[is_first])
        _add(counts.stays_with_event[k], token[is_event[k][token]])
        is_labelled = label[row] >= 0
        is_late = is_labelled & (times >= part[f"event{k}"].to_numpy()[row])
        _add(counts.after_event[k], ids[is_late])
        _add(counts.stays_after_event[k], _find_distinct(row[is_late], ids[is_late], num_tokens))
        is_ending = is_labelled & is_end[ids] & ~is_static
        _add(counts.stays_with_end[k], _find_distinct(row[is_ending], ids[is_ending], num_tokens))


def _find_distinct(row: np.ndarray, token: np.ndarray, num_tokens: int) -> np.ndarray:
    """Return the token of every distinct (row, token)."""
    distinct: np.ndarray = np.unique(row * num_tokens + token) % num_tokens
    return distinct


def _add(total: np.ndarray, places: np.ndarray) -> None:
    """Add 1 to the flattened `total` for each of `places`."""
    total += np.bincount(places, minlength=total.size).reshape(total.shape).astype(total.dtype)
