"""Events to words, and words to token ids: the tokenizer, learned on train or frozen."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from clinrep.artifacts import read_table
from clinrep.config import InputError, config_to_dict
from clinrep.ehr.configs.tokenize import PAD_TOKEN, EdgeToken, TokenizeConfig
from clinrep.ehr.ledger import Ledger
from clinrep.ehr.quantiles import find_bins, get_bin_words, learn_quantiles

logger = logging.getLogger("clinrep")

# Settings that decide what a word means; a frozen tokenizer is applied with the ones it was made with.
TOKEN_SETTINGS = (
    "sources",
    "static_tokens",
    "discharge_tokens",
    "normalize",
    "num_bins",
    "unknown_token",
    "missing_value_token",
    "missing_category",
)


@dataclass(frozen=True)
class Tokenizer:
    """The tables `vocabulary` (its train_count may still be 0) and `quantiles`."""

    vocabulary: pl.DataFrame
    quantiles: pl.DataFrame
    is_frozen: bool = False


def load_tokenizer(directory: str, config: TokenizeConfig) -> Tokenizer:
    """Return the tokenizer of a finished stage-00 directory; other token settings are an InputError."""
    path = Path(directory)
    vocabulary, quantiles = read_table("vocabulary", path), read_table("quantiles", path)
    saved = load_settings(path)
    now = config_to_dict(config)
    different = [name for name in TOKEN_SETTINGS if saved.get(name) != now[name]]
    if different:
        raise InputError(
            f"--tokenizer_dir {directory} was made with other settings of {', '.join(different)}; "
            f"pass --config {path / 'config.yaml'} first, then your --clif_dir and --output_dir"
        )
    return Tokenizer(vocabulary, quantiles, is_frozen=True)


def load_settings(directory: Path) -> dict[str, Any]:
    """Return the saved settings of a stage-00 directory."""
    try:
        return dict(yaml.safe_load((directory / "config.yaml").read_text()))
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{directory / 'config.yaml'} cannot be read ({error}); run 00_tokenize.py again") from error


def render_words(events: pl.DataFrame, config: TokenizeConfig) -> pl.DataFrame:
    """Return `events` with `key`: the token of the event's category, also the key of its quantiles."""
    distinct = events.select("source", "category").unique()
    keys = [config.sources[source].token.format(category=category) for source, category in distinct.iter_rows()]
    table = distinct.with_columns(pl.Series("key", keys, dtype=pl.String))
    return events.join(table, on=["source", "category"], how="left", nulls_equal=True, maintain_order="left")


def learn_edges(events: pl.DataFrame, cohort: pl.DataFrame, config: TokenizeConfig) -> pl.DataFrame:
    """Return the table `quantiles` of train events (with `key`) and train stays."""
    columns = ["category", "unit", "value"]
    is_numeric = [source.value_column is not None for source in config.sources]
    numbers = [number for number, is_one in enumerate(is_numeric) if is_one]
    frames = [events.filter(pl.col("source").is_in(numbers)).select(category="key", unit="unit", value="value")]
    for column in sorted({edge.column for edge in _get_edges(config) if edge.column and "{bin}" in edge.token}):
        unit = pl.lit(None, dtype=pl.String)
        frames.append(cohort.select(category=pl.lit(column), unit=unit, value=pl.col(column).cast(pl.Float64)))
    return learn_quantiles(pl.concat([frame.select(columns) for frame in frames]), config.num_bins)


def name_values(events: pl.DataFrame, quantiles: pl.DataFrame, config: TokenizeConfig) -> pl.DataFrame:
    """Return `events` (with `key`) with `value_token`: the second token, null where the source has none."""
    has_bin = [source.value_column is not None for source in config.sources]
    has_word = [source.categorical_value_column is not None for source in config.sources]
    bins = find_bins(events.select("unit", "value", category="key"), quantiles, config.num_bins)
    words = dict(enumerate(get_bin_words(config.num_bins))) | {-1: config.unknown_token}
    bin_word = pl.lit(bins.replace_strict(words, return_dtype=pl.String)).fill_null(config.missing_value_token)
    number = pl.col("source").cast(pl.Int64)
    is_bin = number.is_in([i for i, is_one in enumerate(has_bin) if is_one])
    is_word = number.is_in([i for i, is_one in enumerate(has_word) if is_one])
    word = pl.when(is_bin).then(bin_word).when(is_word).then(pl.col("word").fill_null(config.missing_category))
    named = events.with_columns(word=word)
    distinct = named.select("source", "category", "word").unique()
    tokens = [_fill_value_token(config, *row) for row in distinct.iter_rows()]
    table = distinct.with_columns(pl.Series("value_token", tokens, dtype=pl.String))
    keys = ["source", "category", "word"]
    return named.join(table, on=keys, how="left", nulls_equal=True, maintain_order="left")


def _fill_value_token(config: TokenizeConfig, source: int, category: str | None, word: str | None) -> str | None:
    if word is None or word == config.unknown_token:
        return word  # an unknown bin is the unknown token itself, whatever the template
    return config.sources[source].value_token.format(value=word, category=category)


def render_edges(
    cohort: pl.DataFrame, quantiles: pl.DataFrame, edges: list[EdgeToken], config: TokenizeConfig
) -> pl.DataFrame:
    """Return one String column per edge token, in order, one row per row of `cohort`."""
    return cohort.select(
        [pl.lit(_render_edge(cohort, quantiles, edge, config)).alias(str(i)) for i, edge in enumerate(edges)]
        or [pl.col("stay").alias("_")]
    ).drop("_", strict=False)


def _render_edge(cohort: pl.DataFrame, quantiles: pl.DataFrame, edge: EdgeToken, config: TokenizeConfig) -> pl.Series:
    if edge.column is None:
        return pl.Series([edge.token] * cohort.height, dtype=pl.String)
    if "{bin}" in edge.token:
        unit = pl.lit(None, dtype=pl.String)
        values = cohort.select(category=pl.lit(edge.column), unit=unit, value=pl.col(edge.column).cast(pl.Float64))
        words = dict(enumerate(get_bin_words(config.num_bins))) | {None: config.missing_value_token}
        tokens = {number: edge.token.format(bin=word) for number, word in words.items()} | {-1: config.unknown_token}
        return find_bins(values, quantiles, config.num_bins).replace_strict(tokens, return_dtype=pl.String)
    categories = cohort[edge.column].fill_null(config.missing_category)
    tokens_of = {category: edge.token.format(category=category) for category in categories.unique()}
    return categories.replace_strict(tokens_of, return_dtype=pl.String)


def _get_edges(config: TokenizeConfig) -> list[EdgeToken]:
    return [*config.static_tokens, *config.discharge_tokens]


def learn_vocabulary(
    events: pl.DataFrame, static: pl.DataFrame, discharge: pl.DataFrame, config: TokenizeConfig
) -> pl.DataFrame:
    """Return the table `vocabulary` of train words, train_count still 0.

    The order is fixed by the config and the words alone, never by rows or threads: special tokens,
    bins, static tokens in position order, events in source order, discharge; within each, sorted.
    A word that two of these share has the first one's kind.
    """
    kinds: dict[str, str] = dict.fromkeys([PAD_TOKEN, config.unknown_token], "special")
    kinds |= {edge.token: "special" for edge in _get_edges(config) if edge.column is None}
    for word in [*get_bin_words(config.num_bins), config.missing_value_token]:
        kinds.setdefault(word, "bin")
    for name in static.columns:
        for word in sorted(static[name].unique()):
            kinds.setdefault(word, "static")
    for number, source in enumerate(config.sources):
        rows = events.filter(pl.col("source") == number)
        for column in ("key", "value_token"):
            for word in sorted(rows[column].drop_nulls().unique()):
                kinds.setdefault(word, source.name)
    for name in discharge.columns:
        for word in sorted(discharge[name].unique()):
            kinds.setdefault(word, "discharge")
    return pl.DataFrame({"token": list(kinds), "kind": list(kinds.values())}).select(
        pl.int_range(pl.len(), dtype=pl.UInt32).alias("token_id"), "token", "kind", train_count=pl.lit(0, pl.UInt64)
    )


def count_tokens(tokenizer: Tokenizer, train_ids: pl.Series) -> Tokenizer:
    """Return the tokenizer with train_count = occurrences in `train_ids`; a frozen one stays as it is."""
    if tokenizer.is_frozen:
        return tokenizer
    counts = train_ids.to_frame("token_id").group_by("token_id").agg(pl.len().cast(pl.UInt64).alias("train_count"))
    vocabulary = tokenizer.vocabulary.drop("train_count").join(counts, on="token_id", how="left", maintain_order="left")
    return dataclasses.replace(tokenizer, vocabulary=vocabulary.with_columns(pl.col("train_count").fill_null(0)))


def encode(words: pl.Series, vocabulary: pl.DataFrame, unknown_token: str) -> pl.Series:
    """Return token ids u32 of `words`; an unknown word gets the unknown token's id, null stays null.

    Raises:
        InputError: a word is PAD, or the vocabulary lacks the unknown token.
    """
    if (words == PAD_TOKEN).any():
        raise InputError(f"a category is spelled {PAD_TOKEN!r}, the token that fills batches; give its token a prefix")
    ids = dict(zip(vocabulary["token"], vocabulary["token_id"], strict=True))
    if unknown_token not in ids:
        raise InputError(f"the vocabulary has no {unknown_token!r}; name its unknown_token in the config")
    return words.replace_strict(ids | {None: None}, default=ids[unknown_token], return_dtype=pl.UInt32)


def count_unknown(events: pl.DataFrame, vocabulary: pl.DataFrame, config: TokenizeConfig, ledger: Ledger) -> None:
    """Record in the ledger, per token, the events whose word the vocabulary lacks."""
    known = vocabulary["token"].implode()
    for column in ("key", "value_token"):
        word = pl.col(column)
        rows = events.filter(word.is_not_null() & (~word.is_in(known) | (word == config.unknown_token)))
        counts = rows.group_by("source", "key", column if column != "key" else pl.lit(None).alias("_")).len()
        for row in counts.sort(pl.all()).iter_rows(named=True):
            source = config.sources[row["source"]]
            what = f"token {row['key']}" if column == "key" else f"value {row[column]} of {row['key']}"
            reason = f"{what} is not in train: kept as {config.unknown_token}"
            ledger.add(source.table, f"{source.name}: unknown", row["len"], row["len"], reason)
    num_unknown = int(events.select((~pl.col("key").is_in(known)).sum()).item())
    if num_unknown:
        logger.warning("%d events have a category that train does not have: %s", num_unknown, config.unknown_token)


def count_unknown_edges(
    words: pl.DataFrame, edges: list[EdgeToken], vocabulary: pl.DataFrame, config: TokenizeConfig, ledger: Ledger
) -> None:
    """Record in the ledger, per token, the stays whose edge token (`words` of `render_edges`) is not in train."""
    known = vocabulary["token"].implode()
    for edge, word in zip(edges, words.columns, strict=True):
        is_unknown = ~pl.col(word).is_in(known) | (pl.col(word) == config.unknown_token)
        for token, count in words.filter(is_unknown)[word].value_counts().sort(word).iter_rows():
            what = f"value of {edge.column}" if token == config.unknown_token else f"token {token}"
            reason = f"{what} is not in train: kept as {config.unknown_token}"
            ledger.add(edge.table or "", f"{edge.column}: unknown", count, count, reason)
