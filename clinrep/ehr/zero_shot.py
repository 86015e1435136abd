"""What zero-shot prediction asks of hospital records: N stays, K outcomes, V tokens of the vocabulary."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from clinrep import distributed
from clinrep.artifacts import read_table
from clinrep.config import InputError, lookup
from clinrep.ehr.configs.extract import ExtractConfig
from clinrep.ehr.gaps import HOUR, learn_clock
from clinrep.ehr.outcome_tokens import OUTCOME_HOURS, find_event_tokens
from clinrep.ehr.tokenizer import load_settings, read_vocabulary
from clinrep.sequences import Sequences
from clinrep.zero_shot.questions import Questions

logger = logging.getLogger("clinrep")


def read_questions(config: ExtractConfig, sequences: Sequences) -> Questions:
    """Return what to look for in the continuations of N sequences, in their order.

    Asked of a stay are the outcomes of which it has a label: so none whose event came before index_time.
    With a horizon the label is whether the event came within it.

    Raises:
        InputError: an outcome that outcomes.parquet lacks or tokens cannot tell; a horizon, or a length of
            stay, without gap tokens; timelines without discharge tokens.
    """
    directory, asked = Path(config.timelines_dir), config.zero_shot
    needed = ("window.is_end_closed", "discharge_tokens", "sources", "gap_minutes")
    settings, vocabulary = load_settings(directory, *needed), read_vocabulary(directory)
    outcomes = read_table("outcomes", directory)
    for outcome in asked.outcomes:
        lookup(dict.fromkeys(outcomes["outcome"].unique()), outcome, f"outcome of {directory}")
    is_event = np.stack([find_event_tokens(name, vocabulary, settings, directory) for name in asked.outcomes])
    is_end = _find_end_tokens(vocabulary, settings, directory)
    _check_time(asked.outcomes, asked.horizon_hours, settings, directory)
    seed = distributed.derive_seed(config.seed, "zero_shot_gaps")
    clock = learn_clock(directory, vocabulary, settings, is_end, seed) if settings["gap_minutes"] else None
    if clock is None:
        logger.info("zero-shot: no gap tokens, so the first event sampled may be one before index_time")
    last_times = sequences.times[sequences.offsets[1:] - 1]
    labelled = _join_labels(outcomes, sequences, asked.outcomes, asked.horizon_hours)
    index_hours = (labelled[0]["index_time"].to_numpy() - last_times) / HOUR
    return Questions(
        outcomes=list(asked.outcomes),
        is_event=is_event,
        is_end=is_end,
        is_asked=np.stack([frame["label"].is_not_null().to_numpy() for frame in labelled], axis=1),
        labels=np.stack([frame["label"].fill_null(False).to_numpy() for frame in labelled], axis=1),
        deadline_hours=_find_deadlines(directory, sequences, asked.outcomes, last_times),
        horizon_hours=index_hours + (np.inf if asked.horizon_hours is None else asked.horizon_hours),
        index_hours=index_hours,
        is_index_closed=bool(settings["window"]["is_end_closed"]),
        never=np.array([sequences.pad_token_id]),
        clock=clock,
    )


def _check_time(names: list[str], horizon_hours: float | None, settings: dict[str, Any], directory: Path) -> None:
    """Refuse what only gap tokens can tell, where there are none."""
    timed = [name for name in names if name in OUTCOME_HOURS]
    timed += [] if horizon_hours is None else ["zero_shot.horizon_hours"]
    if timed and not settings["gap_minutes"]:
        raise InputError(
            f"{timed[0]} needs to know how time passes, but the timelines of {directory} have no gap tokens; "
            f"run 00_tokenize.py and 01_pretrain.py with gap_minutes, or leave {timed[0]} out"
        )


def _find_end_tokens(vocabulary: pl.DataFrame, settings: dict[str, Any], directory: Path) -> np.ndarray:
    """Return which tokens mean that the stay is over, bool (V,)."""
    fixed = [edge["token"] for edge in settings["discharge_tokens"] if edge["column"] is None]
    is_end = ((vocabulary["kind"] == "discharge") | vocabulary["token"].is_in(fixed)).to_numpy()
    if not is_end.any():
        raise InputError(
            f"the timelines of {directory} have no discharge token, so no continuation of them ends; "
            "tokenize with discharge_tokens in stage 00"
        )
    return is_end


def _join_labels(
    outcomes: pl.DataFrame, sequences: Sequences, names: list[str], horizon_hours: float | None
) -> list[pl.DataFrame]:
    """Return for each outcome the rows (index_time, label) of the sequences, in their order."""
    if horizon_hours is not None:
        end = pl.col("index_time") + pl.duration(microseconds=round(horizon_hours * 3_600_000_000))
        is_within = (pl.col("event_time") <= end).fill_null(True)
        # null and false would be false: who is excluded stays excluded
        outcomes = outcomes.with_columns(label=pl.when(pl.col("label").is_not_null()).then(pl.col("label") & is_within))
    rows = outcomes.select("subject_id", "outcome", "index_time", "label")
    index_times = rows.select("subject_id", "index_time").unique("subject_id")
    stays = sequences.subjects.select("subject_id").join(
        index_times, on="subject_id", how="left", maintain_order="left"
    )
    return [
        stays.join(
            rows.filter(pl.col("outcome") == name).drop("index_time", "outcome"),
            on="subject_id",
            how="left",
            maintain_order="left",
        )
        for name in names
    ]


def _find_deadlines(directory: Path, sequences: Sequences, names: list[str], last_times: np.ndarray) -> np.ndarray:
    """Return hours after the last token when the event is that the stay goes on, f64 (N, K); else inf."""
    deadlines = np.full((len(sequences), len(names)), np.inf)
    if any(name in OUTCOME_HOURS for name in names):
        starts = read_table("subjects", directory).select("subject_id", "start")
        joined = sequences.subjects.join(starts, on="subject_id", how="left", maintain_order="left")
        since = (joined["start"].to_numpy() - last_times) / HOUR
        for number, name in enumerate(names):
            deadlines[:, number] = since + OUTCOME_HOURS.get(name, np.inf)
    return deadlines
