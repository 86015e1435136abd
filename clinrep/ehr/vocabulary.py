"""The words of events and stays, the vocabulary train has of them, and what it lacks."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import polars as pl

from clinrep.ehr.clif import LIKE_DATA
from clinrep.ehr.configs.tokenize import PAD_TOKEN, EdgeToken, TokenizeConfig
from clinrep.ehr.ledger import Ledger
from clinrep.ehr.quantiles import find_bins, get_bin_words
from clinrep.ehr.tokenizer import encode
from clinrep.ehr.values import Values, list_edge_columns

logger = logging.getLogger("clinrep")

SLOT_SCHEMA = {
    "source": pl.UInt16(),
    "code": pl.UInt32(),
    "bin": pl.Int32(),  # of a numeric code: 0..num_bins - 1, MISSING or UNKNOWN after them; null for others
    "token": pl.String(),
    "value_token": pl.String(),  # null where the event is one token
    "is_known": pl.Boolean(),  # whether train has it
    "num_events": pl.UInt64(),  # of all adult stays, for the words that have no bin
}


@dataclass(frozen=True)
class Slots:
    """Everything an event can become: a code with its bin. S slots, C codes."""

    table: pl.DataFrame
    """Columns of `SLOT_SCHEMA`, one row per slot."""
    base: np.ndarray
    """i64 (C,): the first slot of each code; a number's slots follow by bin, then missing, then unknown."""


def make_slots(values: Values, config: TokenizeConfig, frozen: pl.DataFrame | None = None) -> Slots:
    """Return the words of every code and bin, and whether the stays the quantiles are of have them.

    `frozen` is the table `categories` of a frozen tokenizer, which then says what train had.
    """
    of_frozen = set() if frozen is None else set(frozen.select("category", "unit").iter_rows())
    num_bins, quantiles = config.num_bins, values.quantiles
    has_edges = ~np.isnan(quantiles.edges).all(axis=1)  # infinite values make some of them NaN
    # A bin between tied edges is never used; any other is known, also one that only val or test fill.
    is_reachable = np.repeat(has_edges[:, None], num_bins, axis=1)
    is_reachable[:, 1:-1] &= quantiles.edges[:, :-1] < quantiles.edges[:, 1:]
    words = [*get_bin_words(num_bins), config.missing_value_token, config.unknown_token]
    rows: list[tuple[int, int, int | None, str, str | None, bool, int]] = []
    base = np.empty(values.codes.height, dtype=np.int64)
    for code, source, category, key, unit, word in values.codes.iter_rows():
        base[code] = len(rows)
        group, chosen = values.group_of_code[code], int(values.num_chosen[code])
        if group < 0:
            tokens = name_tokens(config, source, category, key, word)
            rows.append((source, code, None, *tokens, chosen > 0, int(values.num_events[code])))
            continue
        missing = int(values.num_chosen_missing[code])
        is_seen = [*is_reachable[group].tolist(), missing > 0, False]
        num_numbers = int(values.num_events[code] - values.num_missing[code])
        counts = [0] * num_bins + [int(values.num_missing[code]), 0 if has_edges[group] else num_numbers]
        is_of_train = chosen > 0 if frozen is None else (key, unit) in of_frozen
        if config.bin_without_edges == "last" and is_of_train and not has_edges[group]:
            words_here, counts[-1], is_seen[-1] = [*words[:-1], words[num_bins - 1]], 0, True
        else:
            words_here = words
        for number, (word_of_bin, is_known, count) in enumerate(zip(words_here, is_seen, counts, strict=True)):
            tokens = name_tokens(config, source, category, key, word_of_bin)
            rows.append((source, code, number, *tokens, is_known and chosen > 0, count))
    return Slots(pl.DataFrame(rows, schema=SLOT_SCHEMA, orient="row"), base)


def name_tokens(
    config: TokenizeConfig, source: int, category: str | None, key: str, word: str | None
) -> tuple[str, str | None]:
    """Return the one or two tokens of an event with a bin or categorical value `word` (null: neither)."""
    if word is None:
        return key, None
    if config.token_style == "fused":
        is_number = config.sources[source].categorical_value_column is None
        return (f"{key}_{word}" if is_number else f"{key}={word}"), None
    if word == config.unknown_token:
        return key, word  # an unknown bin is the unknown token itself, whatever the template
    return key, config.sources[source].value_token.format(value=word, category=category)


def name_edges(
    cohort: pl.DataFrame, quantiles: pl.DataFrame, edges: list[EdgeToken], config: TokenizeConfig
) -> pl.DataFrame:
    """Return one String column per edge token, in order, one row per row of `cohort`."""
    columns = [_name_edge(cohort, quantiles, edge, config).alias(str(i)) for i, edge in enumerate(edges)]
    return pl.DataFrame(columns) if columns else pl.DataFrame()


def _name_edge(cohort: pl.DataFrame, quantiles: pl.DataFrame, edge: EdgeToken, config: TokenizeConfig) -> pl.Series:
    if edge.column is None:
        return pl.Series([edge.token] * cohort.height, dtype=pl.String)
    if "{bin}" not in edge.token:
        categories = cohort[edge.column].fill_null(config.missing_category)
        tokens_of = {category: edge.token.format(category=category) for category in categories.unique()}
        return categories.replace_strict(tokens_of, return_dtype=pl.String)
    value = cohort[edge.column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    row = quantiles.filter((pl.col("category") == edge.column) & pl.col("unit").is_null())["edges"]
    bins = np.full(len(value), -1, dtype=np.int32)
    if row.len():
        edges = np.array(row.to_list(), dtype=np.float64)
        bins = find_bins(value, np.zeros(len(value), dtype=np.int64), edges)
    words = dict(enumerate(get_bin_words(config.num_bins))) | {-2: config.missing_value_token}
    tokens = {number: edge.token.format(bin=word) for number, word in words.items()} | {-1: config.unknown_token}
    bins = np.where(np.isfinite(value), bins, -2)
    return pl.Series(bins).replace_strict(tokens, return_dtype=pl.String)


def name_time_tokens(config: TokenizeConfig) -> tuple[list[str], list[str]]:
    """Return the tokens of gaps, by least length, and of the parts of the day."""
    gaps = name_gap_tokens(config.gap_minutes)
    clock = [f"CLOCK_{hour:02d}" for hour in range(0, 24, config.clock_hours)] if config.clock_hours else []
    return gaps, clock


def name_gap_tokens(gap_minutes: list[float]) -> list[str]:
    """Return the tokens of gaps of at least these lengths, in their order."""
    return [f"GAP_{minutes:.15g}m" for minutes in gap_minutes]


def learn_vocabulary(
    slots: Slots, static: pl.DataFrame, discharge: pl.DataFrame, config: TokenizeConfig
) -> pl.DataFrame:
    """Return the table `vocabulary` of train words (edge tokens of train stays), train_count still 0.

    The order is fixed by the config and the words alone, never by rows or threads: special tokens,
    bins, time tokens, static tokens in position order, events in source order, discharge; within each,
    sorted. A word that two of these share has the first one's kind.
    """
    edges = [*config.static_tokens, *config.discharge_tokens]
    kinds: dict[str, str] = dict.fromkeys([PAD_TOKEN, config.unknown_token], "special")
    kinds |= {edge.token: "special" for edge in edges if edge.column is None}
    has_bins = config.token_style == "separate" or bool(list_edge_columns(edges))
    for word in [*get_bin_words(config.num_bins), config.missing_value_token] if has_bins else []:
        kinds.setdefault(word, "bin")
    for words in name_time_tokens(config):
        for word in words:
            kinds.setdefault(word, "time")
    for name in static.columns:
        for word in sorted(static[name].unique()):
            kinds.setdefault(word, "static")
    known = slots.table.filter("is_known")
    for number, source in enumerate(config.sources):
        rows = known.filter(pl.col("source") == number)
        for column in ("token", "value_token"):
            for word in sorted(rows[column].drop_nulls().unique()):
                if kinds.setdefault(word, source.name) not in (source.name, "bin", "special"):
                    shown = "(with digits, or long)" if LIKE_DATA.search(word) else word
                    logger.info("token %s is of source %s and also of %s", shown, source.name, kinds[word])
    for name in discharge.columns:
        for word in sorted(discharge[name].unique()):
            kinds.setdefault(word, "discharge")
    return pl.DataFrame({"token": list(kinds), "kind": list(kinds.values())}).select(
        pl.int_range(pl.len(), dtype=pl.UInt32).alias("token_id"), "token", "kind", train_count=pl.lit(0, pl.UInt64)
    )


@dataclass(frozen=True)
class Encoder:
    """What each slot is in a timeline: R ranks, in the order of simultaneous events."""

    base: np.ndarray
    """i64 (C,): as in `Slots`."""
    rank: np.ndarray
    """i64 (S,): place among simultaneous events, by source, token id and value token id."""
    token_id: np.ndarray
    """u32 (R,)"""
    value_token_id: np.ndarray
    """i64 (R,): -1 where the event is one token."""


def make_encoder(slots: Slots, vocabulary: pl.DataFrame, config: TokenizeConfig) -> Encoder:
    """Return the token ids of every slot; words the vocabulary lacks become the unknown token."""
    table = slots.table.select(
        "source",
        token_id=encode(slots.table["token"], vocabulary, config.unknown_token),
        value_token_id=encode(slots.table["value_token"], vocabulary, config.unknown_token)
        .cast(pl.Int64)
        .fill_null(-1),
    )
    columns = ["source", "token_id", "value_token_id"]
    ranks = table.unique().sort(columns).with_row_index("rank")
    rank = table.join(ranks, on=columns, how="left", maintain_order="left")["rank"].cast(pl.Int64).to_numpy()
    return Encoder(slots.base, rank, ranks["token_id"].to_numpy(), ranks["value_token_id"].to_numpy())


def count_unknown(
    slots: Slots, values: Values, vocabulary: pl.DataFrame, config: TokenizeConfig, ledger: Ledger
) -> None:
    """Record in the ledger, per token, the events of all adult stays whose word the vocabulary lacks."""
    known = set(vocabulary["token"])
    is_fused = config.token_style == "fused"
    counts: dict[tuple[int, str], int] = {}
    for code, source, _, key, _, _ in values.codes.iter_rows():
        if not is_fused and key not in known and values.num_events[code]:
            counts[source, f"token {key}"] = counts.get((source, f"token {key}"), 0) + int(values.num_events[code])
    num_categories, num_values, unknown_bin = sum(counts.values()), 0, config.num_bins + 1
    for source, code, number, token, value_token, _, count in slots.table.iter_rows():
        word = token if is_fused else value_token
        if word is None or not count or (word in known and number != unknown_bin):
            continue
        key = values.codes["key"][code]
        num_values += count if is_fused or key in known else 0  # else counted by its category
        what = f"token {word}" if is_fused else f"value {word} of {key}"
        counts[source, what] = counts.get((source, what), 0) + count
    for (source, what), count in sorted(counts.items()):
        reason = f"{what} is not in train: kept as {config.unknown_token}"
        ledger.add(config.sources[source].table, f"{config.sources[source].name}: unknown", count, count, reason)
    if num_categories + num_values:
        logger.warning(
            "%d of %d events get %s: %d for a category, %d for a bin or value that train does not have (see ledger)",
            *(num_categories + num_values, int(values.num_events.sum()), config.unknown_token),
            *(num_categories, num_values),
        )


def count_unknown_edges(
    words: pl.DataFrame, edges: list[EdgeToken], vocabulary: pl.DataFrame, config: TokenizeConfig, ledger: Ledger
) -> None:
    """Record in the ledger, per token, the stays whose edge token (`words` of `name_edges`) is not in train."""
    known = vocabulary["token"].implode()
    for edge, word in zip(edges, words.columns, strict=True):
        is_unknown = ~pl.col(word).is_in(known)
        if "{bin}" in edge.token:
            is_unknown |= pl.col(word) == config.unknown_token
        for token, count in words.filter(is_unknown)[word].value_counts().sort(word).iter_rows():
            what = f"value of {edge.column}" if token == config.unknown_token else f"token {token}"
            reason = f"{what} is not in train: kept as {config.unknown_token}"
            ledger.add(edge.table or "", f"{edge.column}: unknown", count, count, reason)
