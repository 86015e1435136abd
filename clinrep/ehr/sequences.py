"""Timelines cut at index_time: what stages 02 and 03 show the model of each stay."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from clinrep.artifacts import SPLITS, iterate_table, read_table
from clinrep.config import InputError, lookup
from clinrep.ehr.tokenizer import find_pad_id, load_settings, read_vocabulary
from clinrep.sequences import Sequences

logger = logging.getLogger("clinrep")


def load_sequences(
    timelines_dir: str,
    max_length: int,
    outcome: str | None = None,
    truncation: str = "keep_latest",
    subject_ids: list[str] | None = None,
) -> Sequences:
    """Return the sequence of every stay, of all splits, sorted by subject_id; with `subject_ids` of these alone.

    A sequence is the timeline up to the stay's index_time (that instant included only if stage 00's
    window says so), and of that at most `max_length` tokens: the static ones and the most recent, or
    with truncation `keep_earliest` the first.
    With `outcome`, only stays whose label is not null, with their label.

    Raises:
        InputError: unknown outcome, no room for events in max_length, or an unfinished directory.
    """
    directory = Path(timelines_dir)
    settings = load_settings(directory, "static_tokens", "window.is_end_closed")
    num_static = len(settings["static_tokens"])
    if max_length <= num_static:
        raise InputError(f"max_length is {max_length} but the static tokens alone are {num_static}; raise it")
    stays = _read_stays(directory, outcome)
    if subject_ids is not None:
        stays = stays.filter(pl.col("subject_id").is_in(subject_ids))
    vocabulary = read_vocabulary(directory)
    cut = partial(
        _cut,
        num_static=num_static,
        is_end_closed=bool(settings["window"]["is_end_closed"]),
        max_length=max_length,
        is_bin_token=(vocabulary["kind"] == "bin").to_numpy(),
        truncation=truncation,
    )
    subjects, tokens, times, lengths = _read_cut(directory, stays, cut, vocabulary.height)
    columns = ["subject_id", "patient_id", "split"] + (["label"] if outcome is not None else [])
    sequences = Sequences(
        subjects.select(columns),
        tokens,
        times,
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        find_pad_id(vocabulary, directory),
        directory / "vocabulary.parquet",
    )
    sequences = _leave_out_empty(sequences.take(subjects["subject_id"].arg_sort().to_numpy()))
    _log_sequences(sequences)
    return sequences


def _read_cut(
    directory: Path,
    stays: pl.DataFrame,
    cut: Callable[..., tuple[np.ndarray, np.ndarray]],
    vocabulary_size: int,
) -> tuple[pl.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Return the stays as they come in the timelines, the tokens and times that `cut` keeps, and how many of each.

    Whole timelines are held one part at a time: they are ten times what is left of them.
    """
    pieces = []
    for part in iterate_table("timelines", directory):
        timelines = part.join(stays, on="subject_id", how="inner")
        tokens = timelines["token_ids"].explode(empty_as_null=False).to_numpy()
        _check_tokens(tokens, vocabulary_size, directory)
        times = timelines["times"].explode(empty_as_null=False).to_numpy()
        keep, lengths = cut(timelines["token_ids"].list.len(), timelines["index_time"], tokens, times)
        pieces.append((timelines.drop("token_ids", "times"), tokens[keep], times[keep], lengths))
    frames, *arrays = zip(*pieces, strict=True)
    subjects = pl.concat(frames)
    if num_repeated := subjects.height - subjects["subject_id"].n_unique():
        raise InputError(f"{directory}: {num_repeated} timelines are of a stay that has another; run 00 again")
    if subjects.height != stays.height:
        raise InputError(f"{directory}: {stays.height - subjects.height} stays with outcomes have no timeline")
    tokens, times, lengths = (np.concatenate(array) for array in arrays)
    return subjects, tokens, times, lengths


def _check_tokens(tokens: np.ndarray, vocabulary_size: int, directory: Path) -> None:
    """Refuse ids that the vocabulary does not hold."""
    num_unknown = int((tokens >= vocabulary_size).sum())
    if num_unknown:
        raise InputError(
            f"{directory}: {num_unknown} tokens have an id above {vocabulary_size - 1}, where the vocabulary ends; "
            "timelines and vocabulary are of different runs: run 00_tokenize.py again"
        )


def _leave_out_empty(sequences: Sequences) -> Sequences:
    """Return the sequences that hold a token; stage 00 writes no others, timelines made elsewhere may."""
    is_empty = sequences.lengths == 0
    if not is_empty.any():
        return sequences
    logger.warning("%d of %d stays have no token before index_time: left out", is_empty.sum(), len(sequences))
    return sequences.take(np.flatnonzero(~is_empty))


def _read_stays(directory: Path, outcome: str | None) -> pl.DataFrame:
    """Return subject_id, split, index_time (and label, not null) of the stays to use."""
    outcomes = read_table("outcomes", directory)
    splits = read_table("splits", directory)
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
    num_split = splits.select("patient_id", "split").n_unique() - splits["patient_id"].n_unique()
    if num_split:
        raise InputError(
            f"{directory / 'splits.parquet'}: {num_split} patients are in more than one split; run 00 again"
        )
    joined = stays.join(splits, on="subject_id", how="left")
    if joined["split"].null_count():
        raise InputError(f"{directory}: {joined['split'].null_count()} stays of outcomes.parquet are in no split")
    return joined


def _cut(
    num_tokens: pl.Series,
    index_times: pl.Series,
    tokens: np.ndarray,
    times: np.ndarray,
    *,
    num_static: int,
    is_end_closed: bool,
    max_length: int,
    is_bin_token: np.ndarray,
    truncation: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return which tokens are kept, bool (T,), and how many of each timeline, i64 (N,).

    `is_bin_token`, bool (V,), says which tokens are the bin of the token before them: none may open what is
    left after truncation, where nobody could tell what it is the value of.
    """
    lengths = num_tokens.to_numpy().astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    row = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(row)) - starts[row]
    index_time = index_times.to_numpy()[row]
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
    keep &= ~(is_first_left & is_bin_token[tokens])
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
