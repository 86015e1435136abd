"""The steps of stage 00 for hospital records, as 00_tokenize.py tells them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from clinrep.artifacts import SPLITS, read_table_file
from clinrep.config import InputError
from clinrep.ehr import cohort as cohorts
from clinrep.ehr import events as event_rows
from clinrep.ehr import labels, outcomes, splits, timelines, vocabulary
from clinrep.ehr.categories import describe_categories
from clinrep.ehr.clif import ClifTables
from clinrep.ehr.configs.tokenize import TokenizeConfig
from clinrep.ehr.editions import detect_edition
from clinrep.ehr.events import EventLog
from clinrep.ehr.ledger import Ledger
from clinrep.ehr.store import NO_TIME
from clinrep.ehr.timelines import Tokens
from clinrep.ehr.tokenizer import Tokenizer, count_tokens, encode, find_token_id, load_tokenizer
from clinrep.ehr.values import Values, make_quantiles, summarize_values
from clinrep.run import show_progress

logger = logging.getLogger("clinrep")


@dataclass
class Source:
    """A CLIF folder opened for one run: its tables, the settings, and the ledger that fills as it is read."""

    tables: ClifTables
    config: TokenizeConfig
    frozen: Tokenizer | None
    """The tokenizer to apply; null where one is to be learned."""
    ledger: Ledger = field(default_factory=Ledger)


@dataclass
class Tokenized:
    """A tokenizer and the stays to be written in it."""

    tokenizer: Tokenizer
    """Its train_count is complete once every timeline was made."""
    subjects: pl.DataFrame
    outcomes: pl.DataFrame
    site: pl.DataFrame
    """Table `categories` of all adult stays where the tokenizer is frozen, else that of the tokenizer."""
    log: EventLog
    ledger: Ledger
    kept: pl.DataFrame
    """The stays that get a timeline: stay, subject_id, split, first, last; sorted by subject_id."""
    edge_ids: tuple[np.ndarray, np.ndarray]
    """u32 (kept, positions): static and discharge tokens."""
    encoder: vocabulary.Encoder
    binning: timelines.Binning
    time_tokens: timelines.TimeTokens


def open_source(config: TokenizeConfig) -> Source:
    """Open the folder after checking every table, column and outcome the settings name."""
    tables = ClifTables(config.clif_dir)
    for table in ("patient", "hospitalization"):
        tables.require(table, "every run needs")
        tables.check_columns(table, cohorts.get_columns(table, config))
    event_rows.check_sources(tables, config)
    outcomes.check_outcomes(tables, config)
    detect_edition(tables)
    frozen = load_tokenizer(config.tokenizer_dir, config) if config.tokenizer_dir is not None else None
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


def read_events(source: Source, cohort: pl.DataFrame, directory: Path) -> EventLog:
    """Read the events of every adult stay; what memory does not hold lies in `directory` until closed."""
    log = event_rows.read_events(source.tables, cohort, source.config, source.ledger, directory)
    logger.info("%d events from %d sources", int(log.num_events.sum()), len(set(log.codes.sources)))
    return log


def tokenize(source: Source, cohort: pl.DataFrame, split_table: pl.DataFrame, log: EventLog) -> Tokenized:
    """Learn the tokenizer on all adult train stays (or take a frozen one); find kept stays, their edges and labels."""
    config, ledger = source.config, source.ledger
    cohort = cohort.join(split_table.select("subject_id", "split"), on="subject_id", maintain_order="left")
    is_train = _require_train(cohort, source)
    is_chosen = is_train if source.frozen is None else np.ones(cohort.height, dtype=bool)
    values = summarize_values(log, cohort, is_chosen, config, source.frozen.quantiles if source.frozen else None)
    quantiles = source.frozen.quantiles if source.frozen else make_quantiles(values)
    _warn_of_missing_values(values, config)
    slots = vocabulary.make_slots(values, config, source.frozen.categories if source.frozen else None)
    static = vocabulary.name_edges(cohort, quantiles, config.static_tokens, config)
    discharge = vocabulary.name_edges(cohort, quantiles, config.discharge_tokens, config)
    static_chosen, discharge_chosen, chosen = (
        frame.filter(pl.Series(is_chosen)) for frame in (static, discharge, cohort)
    )
    categories = describe_categories(values, static_chosen, discharge_chosen, chosen, config)
    tokenizer = source.frozen or Tokenizer(
        vocabulary.learn_vocabulary(slots, static_chosen, discharge_chosen, config),
        quantiles,
        categories,
        int(is_train.sum()),
    )
    table = tokenizer.vocabulary
    logger.info("vocabulary: %d tokens; quantiles: %d categories", table.height, quantiles.height)
    vocabulary.count_unknown(slots, values, table, config, ledger)
    for words, edges in ((static, config.static_tokens), (discharge, config.discharge_tokens)):
        vocabulary.count_unknown_edges(words, edges, table, config, ledger)
    kept = _keep_stays(cohort, log, source)
    rows = kept["stay"].to_numpy()
    gaps, clock = (
        np.array([find_token_id(table, word) for word in words], dtype=np.uint32)
        for words in vocabulary.name_time_tokens(config)
    )
    return Tokenized(
        tokenizer=tokenizer,
        subjects=cohorts.describe_subjects(kept),
        outcomes=_label(source, kept, _to_times(log.first_event[rows], NO_TIME)),
        site=categories,
        log=log,
        ledger=ledger,
        kept=kept.select("stay", "subject_id", "split", "first", "last"),
        edge_ids=(_encode_edges(static, rows, table, config), _encode_edges(discharge, rows, table, config)),
        encoder=vocabulary.make_encoder(slots, table, config),
        binning=timelines.Binning(values.group_of_code, values.quantiles.edges),
        time_tokens=timelines.make_time_tokens(config, gaps, clock),
    )


def iterate_parts(tokenized: Tokenized, config: TokenizeConfig) -> Iterator[tuple[str, int, pl.DataFrame]]:
    """Yield (split, part number, rows of table `timelines`); part boundaries follow stays alone.

    After the last, the tokenizer of `tokenized` holds the occurrences of its words in train.
    """
    split_of = tokenized.kept["split"].to_numpy()
    counts = np.zeros(tokenized.tokenizer.vocabulary.height, dtype=np.int64)
    waiting: dict[str, list[pl.DataFrame]] = {split: [] for split in SPLITS}
    num_parts = dict.fromkeys(SPLITS, 0)
    lengths = []
    num_of_code = np.zeros(len(tokenized.log.codes.sources), dtype=np.int64)
    for first, tokens, codes in _iterate_shards(tokenized, config):
        num_of_code += codes
        is_split = split_of[first : first + len(tokens.subject_id)]
        lengths.append(np.diff(tokens.offsets))
        for split in SPLITS:
            part = tokens.select(is_split == split)
            if split == "train":
                counts += np.bincount(part.ids, minlength=len(counts))
            waiting[split].append(part.to_frame())
            while sum(frame.height for frame in waiting[split]) >= config.subjects_per_part:
                rows = pl.concat(waiting[split])
                waiting[split] = [rows[config.subjects_per_part :]]
                yield split, num_parts[split], rows[: config.subjects_per_part]
                num_parts[split] += 1
    for split in SPLITS:
        rows = pl.concat(waiting[split])
        if rows.height or not num_parts[split]:
            yield split, num_parts[split], rows
        if not rows.height and not num_parts[split]:
            logger.warning("no stay with a timeline in split %s", split)
    _log_timelines(np.concatenate(lengths))
    _note_kept(tokenized, num_of_code, config)
    tokenized.tokenizer = count_tokens(tokenized.tokenizer, counts)


def _iterate_shards(tokenized: Tokenized, config: TokenizeConfig) -> Iterator[tuple[int, Tokens, np.ndarray]]:
    """Yield (position of the first kept stay, timelines) of every shard in order; some are made ahead in threads."""
    store = tokenized.log.store
    num_threads = max(1, min(pl.thread_pool_size(), int(config.memory_gb * 1e9 / 3 / store.bytes_per_shard)))
    shards = iter(show_progress(range(store.num_shards), config, "timelines"))
    pending: deque[Future[tuple[int, Tokens, np.ndarray]]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for shard in shards:
            pending.append(pool.submit(_build_shard, tokenized, shard))
            if len(pending) > num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _build_shard(tokenized: Tokenized, shard: int) -> tuple[int, Tokens, np.ndarray]:
    """Return the position of the first kept stay, the timelines, and how often each code is in them."""
    kept, store = tokenized.kept, tokenized.log.store
    first, last = np.searchsorted(kept["stay"].to_numpy(), store.get_stays(shard))
    rows = kept[int(first) : int(last)]
    stays = timelines.Stays(
        row=rows["stay"].to_numpy().astype(np.int64),
        subject_id=rows["subject_id"],
        first=rows["first"].to_physical().to_numpy(),
        last=rows["last"].to_physical().to_numpy(),
        static_ids=tokenized.edge_ids[0][first:last],
        discharge_ids=tokenized.edge_ids[1][first:last],
    )
    events = timelines.select_events(store.read(shard), stays)
    codes = np.bincount(events.code, minlength=len(tokenized.log.codes.sources))
    made = timelines.build_timelines(events, stays, tokenized.encoder, tokenized.binning, tokenized.time_tokens)
    return int(first), made, codes


def _note_kept(tokenized: Tokenized, num_of_code: np.ndarray, config: TokenizeConfig) -> None:
    """Record per source how many events are in timelines; the rest are of stays without one."""
    sources = np.array(tokenized.log.codes.sources, dtype=np.int64)
    kept = np.bincount(sources, weights=num_of_code, minlength=len(config.sources)).astype(np.int64)
    for spec, before, after in zip(config.sources, tokenized.log.num_of_source.tolist(), kept.tolist(), strict=True):
        if before:
            step, reason = f"{spec.name}: kept stay", "the stay gets no timeline"
            tokenized.ledger.add(spec.table, step, before, after, reason, logging.DEBUG)


def _warn_of_missing_values(values: Values, config: TokenizeConfig) -> None:
    """Warn of sources of numbers that have none: the column was exported empty, or the wrong one is named."""
    for number, spec in enumerate(config.sources):
        rows = (values.codes["source"] == number).to_numpy()
        num_events = int(values.num_events[rows].sum())
        if spec.value_column is not None and num_events and num_events == int(values.num_missing[rows].sum()):
            logger.warning(
                "source %s: none of its %d rows has a number in %s", spec.name, num_events, spec.value_column
            )


def _require_train(cohort: pl.DataFrame, source: Source) -> np.ndarray:
    is_train = (cohort["split"] == "train").to_numpy()
    if source.frozen is None and not is_train.any():
        raise InputError(f"no train stay among {cohort.height}: nothing to learn from; raise --train_fraction")
    return is_train


def _keep_stays(cohort: pl.DataFrame, log: EventLog, source: Source) -> pl.DataFrame:
    least = np.iinfo(np.int64).min
    times = {"first": _to_times(log.first_edge, NO_TIME), "last": _to_times(log.last_edge, least)}
    edges = cohort.select("admission_dttm", "discharge_dttm").with_columns(**times)
    first = edges.select(first=pl.min_horizontal("admission_dttm", "first"))["first"]
    last = edges.select(last=pl.max_horizontal("discharge_dttm", "last"))["last"]
    num_events = pl.Series(log.num_events)
    return cohorts.keep_complete_stays(cohort, first, last, num_events, source.config, source.ledger)


def _to_times(values: np.ndarray, missing: int) -> pl.Series:
    """Return microseconds as times, null where they are `missing`."""
    return pl.Series(values).set(pl.Series(values == missing), None).cast(pl.Datetime("us"))


def _encode_edges(words: pl.DataFrame, rows: np.ndarray, table: pl.DataFrame, config: TokenizeConfig) -> np.ndarray:
    ids = [encode(words[name][rows], table, config.unknown_token).to_numpy() for name in words.columns]
    return np.stack(ids, axis=1) if ids else np.empty((len(rows), 0), dtype=np.uint32)


def _label(source: Source, kept: pl.DataFrame, first_events: pl.Series) -> pl.DataFrame:
    index_times = labels.find_index_times(kept, first_events, source.config)
    frames = [labels.make_empty_table()]
    for name in source.config.outcomes:
        rows = labels.label_outcome(outcomes.OUTCOMES[name], source.tables, kept, index_times, source.config)
        counts = labels.describe_labels(rows.with_columns(split=kept["split"]))
        logger.info("outcome %s: %s", name, counts)
        frames.append(rows)
    _note_placeholders(source)
    return pl.concat(frames)


def _note_placeholders(source: Source) -> None:
    """Record the placeholders of the times that outcomes alone read, as of patient.death_dttm."""
    tables, ledger = source.tables, source.ledger
    for table, column in sorted(tables.times_read):
        if not ledger.has_noted(table, column):
            count = tables.count_placeholders(table, column)
            ledger.note_placeholders(table, column, count, tables.count_rows(table))


def _log_timelines(lengths: np.ndarray) -> None:
    median, longest = np.median(lengths), lengths.max()
    logger.info("%d timelines, %d tokens; median %g, longest %d", len(lengths), lengths.sum(), median, longest)
