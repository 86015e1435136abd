"""How often each token is in the input of labelled stays, and where it must not be: V tokens, K outcomes, N stays.

The input is cut here again, apart from clinrep.ehr.sequences: static tokens, and what was before index_time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import polars as pl

from clinrep.artifacts import read_table_file
from clinrep.config import InputError
from clinrep.ehr.leakage.directory import Tokenized
from clinrep.ehr.outcome_tokens import DISCHARGE_WORDS, OUTCOME_TOKENS, find_event_tokens

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
    stays_with_end_word: np.ndarray
    """i64 (K, V): stays with an event that is spelled as a token of the discharge, where a source can spell it so."""
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
        *(np.zeros(shape, dtype=np.int64) for _ in range(5)),
    )
    is_event_word = find_event_words(site)
    words = InputWords(find_end_tokens(site), is_event_word, _find_event_tokens(site, outcomes, is_event_word))
    for _, path in site.find_timelines():
        part = read_table_file("timelines", path).join(stays, on="subject_id", how="inner")
        _count_part(counts, part, site, words)
    return counts


@dataclass(frozen=True)
class InputWords:
    """What tokens may be, by their words."""

    is_end: np.ndarray
    """bool (V,): written at the end of a stay."""
    is_event_word: np.ndarray
    """bool (V,): some source can write it too."""
    is_outcome: np.ndarray
    """bool (K, V): it means the event of the outcome."""


def find_end_tokens(site: Tokenized) -> np.ndarray:
    """Return which tokens are written at the end of a stay, bool (V,)."""
    fixed = [edge["token"] for edge in site.settings["discharge_tokens"] if "{" not in edge["token"]]
    is_end: np.ndarray = ((site.vocabulary["kind"] == "discharge") | site.vocabulary["token"].is_in(fixed)).to_numpy()
    return is_end


def find_event_words(site: Tokenized) -> np.ndarray:
    """Return which tokens some source can write, by its template, whether train has such an event or not: bool (V,).

    Words at the end of a stay that have no template (TL_END) are not among them.
    """
    settings = site.settings
    patterns = []
    for source in settings["sources"]:
        values = "(?:[_=].*)?" if source["value_column"] or source["categorical_value_column"] else ""
        patterns.append(_make_pattern(source["token"]) + (values if settings["token_style"] == "fused" else ""))
        if settings["token_style"] == "separate" and source["categorical_value_column"]:
            patterns.append(_make_pattern(source["value_token"]))
    fixed = {edge["token"] for edge in settings["discharge_tokens"] if "{" not in edge["token"]}
    can_write = re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.DOTALL)
    words = site.vocabulary["token"]
    return np.array([word not in fixed and bool(patterns) and bool(can_write.fullmatch(word)) for word in words])


def _make_pattern(template: str) -> str:
    """Return the regular expression of all that a template as LAB_{category} can be."""
    return ".*".join(re.escape(part) for part in re.split(r"\{\w*\}", template))


def _find_event_tokens(site: Tokenized, outcomes: list[str], is_event_word: np.ndarray) -> np.ndarray:
    """Return which tokens mean the event of each outcome, bool (K, V); none where no token tells.

    A word of the discharge that a source can write too (hospice, of the bare words of the manuscript) tells nothing:
    where it is of the discharge, its place tells.
    """
    found = np.zeros((len(outcomes), site.vocabulary.height), dtype=bool)
    for k, outcome in enumerate(outcomes):
        if outcome in OUTCOME_TOKENS:
            try:
                found[k] = find_event_tokens(outcome, site.vocabulary, site.settings, site.path)
            except InputError:  # the vocabulary has no such token: then none can be in an input
                continue
        if outcome in DISCHARGE_WORDS:
            found[k] &= ~is_event_word
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


def _count_part(counts: InputCounts, part: pl.DataFrame, site: Tokenized, words: InputWords) -> None:
    """Add one part of the timelines, with the columns of `_join_labels`, to `counts`."""
    num_tokens = len(words.is_end)
    lengths = part["token_ids"].list.len().to_numpy().astype(np.int64)
    ids = part["token_ids"].explode(empty_as_null=False).to_numpy().astype(np.int64)
    times = part["times"].explode(empty_as_null=False).to_numpy()
    if len(ids) and ids.max() >= num_tokens:
        raise InputError(
            f"{site.path}: a timeline holds token {ids.max()}, the vocabulary has {num_tokens}; run 00 again"
        )
    row = np.repeat(np.arange(part.height), lengths)
    position = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    is_static = position < len(site.settings["static_tokens"])
    num_discharge = len(site.settings["discharge_tokens"])  # last in a timeline, as its schema says
    is_last = ~is_static & (position >= lengths[row] - num_discharge)
    index_time = part["index_time"].to_numpy()[row]
    is_before = times <= index_time if site.settings["window"]["is_end_closed"] else times < index_time
    seen = np.flatnonzero(is_static | is_before)
    ids, times, row = ids[seen], times[seen], row[seen]
    is_odd = words.is_end[ids] & ~is_static[seen] & ~is_last[seen]  # a word of the end among the events
    is_ending = is_last[seen] | (is_odd & ~words.is_event_word[ids])
    is_odd &= words.is_event_word[ids]
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
        _add(counts.stays_with_event[k], token[words.is_outcome[k][token]])
        is_labelled = label[row] >= 0
        is_late = is_labelled & (times >= part[f"event{k}"].to_numpy()[row])
        _add(counts.after_event[k], ids[is_late])
        _add(counts.stays_after_event[k], _find_distinct(row[is_late], ids[is_late], num_tokens))
        for total, is_found in ((counts.stays_with_end, is_ending), (counts.stays_with_end_word, is_odd)):
            is_mine = is_labelled & is_found
            _add(total[k], _find_distinct(row[is_mine], ids[is_mine], num_tokens))


def _find_distinct(row: np.ndarray, token: np.ndarray, num_tokens: int) -> np.ndarray:
    """Return the token of every distinct (row, token)."""
    distinct: np.ndarray = np.unique(row * num_tokens + token) % num_tokens
    return distinct


def _add(total: np.ndarray, places: np.ndarray) -> None:
    """Add 1 to the flattened `total` for each of `places`."""
    total += np.bincount(places, minlength=total.size).reshape(total.shape).astype(total.dtype)
