"""Timelines cut at index_time: what stages 02 and 03 show the model of each stay."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import polars as pl

from clinrep.artifacts import SPLITS, read_table
from clinrep.config import InputError, lookup
from clinrep.ehr.tokenizer import find_pad_id, load_settings, read_vocabulary
from clinrep.sequences import Sequences

logger = logging.getLogger("clinrep")


def load_sequences(
    timelines_dir: str, max_length: int, outcome: str | None = None, truncation: str = "keep_latest"
) -> Sequences:
    """Return the sequence of every stay, of all splits, sorted by subject_id.

    A sequence is the timeline up to the stay's index_time (that instant included only if stage 00's
    window says so), and of that at most `max_length` tokens: the static ones and the most recent, or
    with truncation `keep_earliest` the first.
    With `outcome`, only stays whose label is not null, with their label.

    Raises:
        InputError: unknown outcome, no room for events in max_length, or an unfinished directory.
    """
    directory = Path(timelines_dir)
    settings = load_settings(directory)
    num_static = len(settings["static_tokens"])
    if max_length <= num_static:
        raise InputError(f"max_length is {max_length} but the static tokens alone are {num_static}; raise it")
    stays = _read_stays(directory, outcome)
    timelines = read_table("timelines", directory).join(stays, on="subject_id", how="inner").sort("subject_id")
    if timelines.height != stays.height:
        raise InputError(f"{directory}: {stays.height - timelines.height} stays with outcomes have no timeline")
    vocabulary = read_vocabulary(directory)
    tokens = timelines["token_ids"].explode().to_numpy()
    is_bin = (vocabulary["kind"] == "bin").to_numpy()[tokens]
    keep, lengths = _cut(
        timelines, num_static, bool(settings["window"]["is_end_closed"]), max_length, is_bin, truncation
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    columns = ["subject_id", "split"] + (["label"] if outcome is not None else [])
    pad_token_id = find_pad_id(vocabulary, directory)
    sequences = Sequences(
        timelines.select(columns), tokens[keep], offsets, pad_token_id, directory / "vocabulary.parquet"
    )
    _log_sequences(sequences)
    return sequences


def _read_stays(directory: Path, outcome: str | None) -> pl.DataFrame:
    """Return subject_id, split, index_time (and label, not null) of the stays to use."""
    outcomes = read_table("outcomes", directory)
    splits = read_table("splits", directory).select("subject_id", "split")
    if outcomes.is_empty():
        raise InputError(f"{directory}: outcomes.parquet is empty, so index times are unknown; name outcomes in 00")
    if outcome is None:
        stays = outcomes.select("subject_id", "index_time").unique()
    else:
        lookup({name: name for name in outcomes["outcome"].unique()}, outcome, f"outcome of {directory}")
        stays = outcomes.filter((pl.col("outcome") == outcome) & pl.col("label").is_not_null())
        stays = stays.select("subject_id", "index_time", "label")
    if stays["subject_id"].is_duplicated().any():
        raise InputError(f"{directory}: outcomes.parquet has stays with several index times or rows; run 00 again")
    joined = stays.join(splits, on="subject_id", how="left")
    if joined["split"].null_count():
        raise InputError(f"{directory}: {joined['split'].null_count()} stays of outcomes.parquet are in no split")
    return joined


def _cut(
    timelines: pl.DataFrame,
    num_static: int,
    is_end_closed: bool,
    max_length: int,
    is_bin: np.ndarray,
    truncation: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return which tokens are kept, bool (T,), and how many of each timeline, i64 (N,).

    `is_bin`, bool (T,), says which tokens are the bin of the token before them: none may open what is
    left after truncation, where nobody could tell what it is the value of.
    """
    lengths = timelines["token_ids"].list.len().to_numpy().astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    row = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(row)) - starts[row]
    times = timelines["times"].explode().to_numpy()
    index_time = timelines["index_time"].to_numpy()[row]
    is_static = position < num_static
    is_seen = times <= index_time if is_end_closed else times < index_time
    keep = is_static | is_seen
    rank = np.cumsum(keep) - 1
    seen_lengths = np.bincount(row, weights=keep, minlength=len(lengths)).astype(np.int64)
    if truncation == "keep_earliest":
        starts_seen = np.cumsum(seen_lengths) - seen_lengths
        keep &= is_static | (rank - starts_seen[row] < max_length)
        return keep, np.bincount(row, weights=keep, minlength=len(lengths)).astype(np.int64)
    # Of what is seen, the static tokens and then the last max_length - num_static.
    num_after = (np.cumsum(seen_lengths) - 1)[row] - rank
    room = max_length - num_static
    keep &= is_static | (num_after < room)
    is_first_left = (num_after == room - 1) & (seen_lengths[row] > max_length)
    keep &= ~(is_first_left & is_bin)
    return keep, np.bincount(row, weights=keep, minlength=len(lengths)).astype(np.int64)


def _log_sequences(sequences: Sequences) -> None:
    for split in SPLITS:
        rows = sequences.find_rows(split)
        if not len(rows):
            continue
        lengths = sequences.lengths[rows]
        is_labelled = "label" in sequences.subjects.columns
        events = f", {int(sequences.labels[rows].sum())} with the event" if is_labelled else ""
        median, longest = np.median(lengths), lengths.max()
        logger.info("%s: %d sequences%s; median %g tokens, longest %d", split, len(rows), events, median, longest)
