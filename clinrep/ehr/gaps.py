"""How much later each token is than the one before it, learned from train timelines: V tokens, T tokens of a part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from clinrep.artifacts import iterate_table
from clinrep.config import InputError
from clinrep.ehr.tokenizer import find_token_id
from clinrep.ehr.vocabulary import name_gap_tokens
from clinrep.zero_shot.questions import Clock

GAPS_PER_CLASS = 10_000
HOUR = np.timedelta64(1, "h")


def learn_clock(
    directory: Path, vocabulary: pl.DataFrame, settings: dict[str, Any], is_end: np.ndarray, seed: int
) -> Clock:
    """Return how time passes in timelines with gap tokens.

    The classes of gaps are: each gap token, the discharge (`is_end`, bool (V,)), which no gap token stands
    before, and every other token by its kind. Of each, at most GAPS_PER_CLASS gaps of train are kept, all
    equally likely to be. One part of the timelines is in memory at a time.
    """
    kinds, first = np.unique(vocabulary["kind"].to_numpy(), return_inverse=True)
    class_of_token = first.astype(np.int64)
    class_of_token[is_end] = end_class = len(kinds)
    minutes = list(settings["gap_minutes"])
    for number, token in enumerate(name_gap_tokens(minutes)):
        class_of_token[find_token_id(vocabulary, token)] = end_class + 1 + number
    is_time_token = (vocabulary["kind"] == "time").to_numpy()
    rng = np.random.default_rng(seed)
    kept = pl.DataFrame(schema={"class": pl.Int64, "gap": pl.Float64, "priority": pl.Float64})
    for part in iterate_table("timelines", directory, "train"):
        kind, gap = _find_gaps(part, settings, class_of_token, end_class, is_time_token)
        new = pl.DataFrame({"class": kind, "gap": gap, "priority": rng.random(len(gap))})
        kept = pl.concat([kept, new]).sort("priority").group_by("class", maintain_order=True).head(GAPS_PER_CLASS)
    if kept.is_empty():
        raise InputError(f"{directory}: no train timeline has an event, so what gap tokens mean cannot be learned")
    # What train never has lasts no time, or as long as the name of the gap token says.
    pieces = [np.array([hours]) for hours in [*[0.0] * (end_class + 1), *(minute / 60 for minute in minutes)]]
    for (number,), rows in kept.group_by("class"):
        pieces[int(str(number))] = rows["gap"].sort().to_numpy()
    offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64)
    return Clock(class_of_token, np.concatenate(pieces), offsets, is_time_token)


def _find_gaps(
    part: pl.DataFrame,
    settings: dict[str, Any],
    class_of_token: np.ndarray,
    end_class: int,
    is_time_token: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return class i64 and length f64, in hours, of the gaps of a part of the timelines.

    Left out: static tokens, all but the first discharge token, and tokens directly after a time token, which
    are never later than it.
    """
    lengths = part["token_ids"].list.len().to_numpy().astype(np.int64)
    tokens = part["token_ids"].explode(empty_as_null=False).to_numpy()
    times = part["times"].explode(empty_as_null=False).to_numpy()
    starts = np.cumsum(lengths) - lengths
    position = np.arange(len(tokens)) - np.repeat(starts, lengths)
    until_end = np.repeat(lengths, lengths) - position - len(settings["discharge_tokens"])  # 0: first discharge token
    before = np.maximum(np.arange(len(tokens)) - 1, 0)
    is_gap = (position >= max(1, len(settings["static_tokens"]))) & (until_end >= 0) & ~is_time_token[tokens[before]]
    rows = np.flatnonzero(is_gap)
    kind = np.where(until_end[rows] == 0, end_class, class_of_token[tokens[rows]])
    # Only the manuscript's stamps ever go back.
    return kind, np.maximum((times[rows] - times[rows - 1]) / HOUR, 0.0)
