"""The steps of stage 00 for hospital records, as 00_tokenize.py tells them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from clinrep.artifacts import SPLITS, read_table_file
from clinrep.config import InputError
from clinrep.ehr import cohort as cohorts
from clinrep.ehr import events as event_rows
from clinrep.ehr import outcomes, splits, timelines, vocabulary
from clinrep.ehr.clif import ClifTables
from clinrep.ehr.configs.tokenize import TokenizeConfig
from clinrep.ehr.ledger import Ledger
from clinrep.ehr.vocabulary import Tokenizer

logger = logging.getLogger("clinrep")


@dataclass
class Source:
    """A CLIF folder opened for one run: its tables, the settings, and the ledger that fills as it is read."""

    tables: ClifTables
    config: TokenizeConfig
    frozen: Tokenizer | None
    """The tokenizer to apply; null where one is to be learned."""
    ledger: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True)
class Tokenized:
    """What stage 00 made of the kept stays; every table is sorted by subject_id."""

    timelines: pl.DataFrame
    """Columns of table `timelines`, and split."""
    tokenizer: Tokenizer
    subjects: pl.DataFrame
    outcomes: pl.DataFrame


def open_source(config: TokenizeConfig) -> Source:
    """Open the folder after checking every table, column and outcome the settings name."""
    tables = ClifTables(config.clif_dir)
    for table in ("patient", "hospitalization"):
        tables.require(table, "every run needs")
        tables.check_columns(table, cohorts.get_columns(table, config))
    event_rows.check_sources(tables, config)
    outcomes.check_outcomes(tables, config)
    frozen = vocabulary.load_tokenizer(config.tokenizer_dir, config) if config.tokenizer_dir is not None else None
    if config.splits_path is not None:
        read_table_file("splits", Path(config.splits_path))
    return Source(tables, config, frozen)


def read_cohort(source: Source) -> pl.DataFrame:
    """Return every adult stay; see clinrep.ehr.cohort.read_cohort."""
    cohort = cohorts.read_cohort(source.tables, source.config, source.ledger)
    logger.info("%d adult stays of %d patients", cohort.height, cohort["patient_id"].n_unique())
    return cohort


def split_patients(source: Source, cohort: pl.DataFrame) -> pl.DataFrame:
    """Return the table `splits`; see clinrep.ehr.splits."""
    table = splits.split_patients(cohort, source.config)
    for split in SPLITS:
        rows = table.filter(pl.col("split") == split)
        logger.info("split %s: %d stays of %d patients", split, rows.height, rows["patient_id"].n_unique())
    return table


def read_events(source: Source, cohort: pl.DataFrame) -> pl.DataFrame:
    """Return the events of every adult stay, with the token of their category."""
    events = event_rows.read_events(source.tables, cohort, source.config, source.ledger)
    logger.info("%d events from %d sources", events.height, events["source"].n_unique())
    return vocabulary.render_words(events, source.config)


def tokenize(source: Source, cohort: pl.DataFrame, split_table: pl.DataFrame, events: pl.DataFrame) -> Tokenized:
    """Learn the tokenizer on all adult train stays (or take a frozen one) and write every kept stay in it."""
    config, ledger = source.config, source.ledger
    cohort = cohort.join(split_table.select("subject_id", "split"), on="subject_id", maintain_order="left")
    quantiles = source.frozen.quantiles if source.frozen else _learn_quantiles(events, cohort, config)
    events = vocabulary.name_values(events, quantiles, config)
    static = vocabulary.render_edges(cohort, quantiles, config.static_tokens, config)
    discharge = vocabulary.render_edges(cohort, quantiles, config.discharge_tokens, config)
    tokenizer = source.frozen or _learn_tokenizer(events, cohort, static, discharge, quantiles, config)
    vocabulary.count_unknown(events, tokenizer.vocabulary, config, ledger)
    for words, edges in ((static, config.static_tokens), (discharge, config.discharge_tokens)):
        vocabulary.count_unknown_edges(words, edges, tokenizer.vocabulary, config, ledger)
    kept = cohorts.keep_complete_stays(cohort, config, ledger)
    events = timelines.sort_events(_encode_events(_keep_events(events, kept, source), tokenizer, config))
    rows = kept["stay"].to_numpy()
    edge_ids = [_encode_edges(table[rows], tokenizer, config) for table in (static, discharge)]
    built = timelines.build_timelines(events, kept, *edge_ids).with_columns(split=kept["split"])
    _log_timelines(built)
    train_ids = built.filter(pl.col("split") == "train")["token_ids"].explode(empty_as_null=False)
    return Tokenized(
        timelines=built,
        tokenizer=vocabulary.count_tokens(tokenizer, train_ids),
        subjects=cohorts.describe_subjects(kept),
        outcomes=_label(source, kept, timelines.find_first_events(events, kept)),
    )


def iterate_parts(tokenized: Tokenized, config: TokenizeConfig) -> Iterator[tuple[str, int, pl.DataFrame]]:
    """Yield (split, part number, rows of table `timelines`); part boundaries follow stays alone."""
    for split in SPLITS:
        rows = tokenized.timelines.filter(pl.col("split") == split).drop("split")
        for part, part_rows in enumerate(rows.iter_slices(config.subjects_per_part)):
            yield split, part, part_rows
        if rows.is_empty():
            logger.warning("no stay with a timeline in split %s", split)
            yield split, 0, rows


def _learn_quantiles(events: pl.DataFrame, cohort: pl.DataFrame, config: TokenizeConfig) -> pl.DataFrame:
    train = _require_train(cohort)
    return vocabulary.learn_edges(events.join(train.select("stay"), on="stay", how="semi"), train, config)


def _learn_tokenizer(
    events: pl.DataFrame,
    cohort: pl.DataFrame,
    static: pl.DataFrame,
    discharge: pl.DataFrame,
    quantiles: pl.DataFrame,
    config: TokenizeConfig,
) -> Tokenizer:
    train = _require_train(cohort)
    rows = train["stay"].to_numpy()
    train_events = events.join(train.select("stay"), on="stay", how="semi")
    table = vocabulary.learn_vocabulary(train_events, static[rows], discharge[rows], config)
    logger.info("vocabulary: %d tokens; quantiles: %d categories", table.height, quantiles.height)
    return Tokenizer(table, quantiles)


def _require_train(cohort: pl.DataFrame) -> pl.DataFrame:
    train = cohort.filter(pl.col("split") == "train")
    if train.is_empty():
        raise InputError(f"no train stay among {cohort.height}: nothing to learn from; raise --train_fraction")
    return train


def _keep_events(events: pl.DataFrame, kept: pl.DataFrame, source: Source) -> pl.DataFrame:
    """Return the events of kept stays, accounting per source for those of the others."""
    left = events.join(kept.select("stay"), on="stay", how="semi", maintain_order="left")
    for number, spec in enumerate(source.config.sources):
        is_its = pl.col("source") == number
        before, after = (int(frame.select(is_its.sum()).item()) for frame in (events, left))
        if before:
            source.ledger.add(spec.table, f"{spec.name}: kept stay", before, after, "the stay gets no timeline")
    return left


def _encode_events(events: pl.DataFrame, tokenizer: Tokenizer, config: TokenizeConfig) -> pl.DataFrame:
    return events.select(
        "stay",
        "time",
        "source",
        vocabulary.encode(events["key"], tokenizer.vocabulary, config.unknown_token).alias("token_id"),
        vocabulary.encode(events["value_token"], tokenizer.vocabulary, config.unknown_token).alias("value_token_id"),
    )


def _encode_edges(words: pl.DataFrame, tokenizer: Tokenizer, config: TokenizeConfig) -> np.ndarray:
    """Return u32 (stays, positions)."""
    columns = [vocabulary.encode(words[name], tokenizer.vocabulary, config.unknown_token) for name in words.columns]
    arrays = [column.to_numpy() for column in columns]
    return np.stack(arrays, axis=1) if arrays else np.empty((words.height, 0), dtype=np.uint32)


def _label(source: Source, kept: pl.DataFrame, first_events: pl.Series) -> pl.DataFrame:
    index_times = outcomes.find_index_times(kept, first_events, source.config)
    tables = []
    for name in source.config.outcomes:
        table = outcomes.label_outcome(outcomes.OUTCOMES[name], source.tables, kept, index_times, source.config)
        num_events, num_null = int(table["label"].sum() or 0), table["label"].null_count()
        logger.info(
            "outcome %s: %d events in %d labelled stays, %d excluded",
            *(name, num_events, table.height - num_null, num_null),
        )
        tables.append(table)
    return pl.concat(tables) if tables else outcomes.make_empty_table()


def _log_timelines(built: pl.DataFrame) -> None:
    lengths = built["token_ids"].list.len()
    num_tokens, median, longest = lengths.sum(), lengths.median(), lengths.max()
    logger.info("%d timelines, %d tokens; median %g, longest %d", built.height, num_tokens, median, longest)
