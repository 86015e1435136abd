"""The tokenizer that stage 00 learns on train, or takes frozen from another run."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from clinrep.artifacts import ArtifactError, fingerprint_file, read_done, read_settings, read_table
from clinrep.config import InputError, config_to_dict, lookup
from clinrep.ehr.configs.tokenize import PAD_TOKEN, TokenizeConfig

logger = logging.getLogger("clinrep")

# What makes two tokenizers one: counts may differ, words and bins may not.
TOKENIZER_COLUMNS = {"vocabulary": ["token_id", "token"], "quantiles": ["category", "unit", "edges"]}
# Settings that decide what a word means; a frozen tokenizer is applied with the ones it was made with.
TOKEN_SETTINGS = (
    "sources",
    "static_tokens",
    "discharge_tokens",
    "normalize",
    "token_style",
    "gap_minutes",
    "clock_hours",
    "num_bins",
    "unknown_token",
    "missing_value_token",
    "missing_category",
    "bin_without_edges",
)


@dataclass(frozen=True)
class Tokenizer:
    """The tables `vocabulary` (its train_count may still be 0), `quantiles` and `categories`."""

    vocabulary: pl.DataFrame
    quantiles: pl.DataFrame
    categories: pl.DataFrame
    num_train_stays: int
    """Adult stays of split train that it was learned on."""
    is_frozen: bool = False


def load_tokenizer(directory: str, config: TokenizeConfig) -> Tokenizer:
    """Return the tokenizer of a finished stage-00 directory; other token settings are an InputError."""
    path = Path(directory)
    vocabulary, quantiles, categories = (read_table(name, path) for name in ("vocabulary", "quantiles", "categories"))
    _check_digests(path)
    saved = load_settings(path)
    now = config_to_dict(config)
    different = [name for name in TOKEN_SETTINGS if _strip(saved.get(name)) != _strip(now[name])]
    if different:
        raise InputError(
            f"--tokenizer_dir {directory} was made with other settings of {', '.join(different)}; "
            f"pass --config {path / 'config.yaml'} first, then your --clif_dir and --output_dir"
        )
    if config.unit_rules and saved.get("unit_rules") == now["unit_rules"]:
        logger.warning(
            "unit_rules are those of %s: right only where this site has the same units; "
            "else give your own, or --unit_rules [] for none",
            directory,
        )
    if saved.get("tokenizer_dir") is not None:
        raise InputError(
            f"--tokenizer_dir {directory} was itself written with a frozen tokenizer; give the directory that "
            f"learned it: {saved['tokenizer_dir']}"
        )
    _check_edges(path, quantiles, config.num_bins)
    return Tokenizer(vocabulary, quantiles, categories, _count_train_stays(path, categories), is_frozen=True)


def _check_edges(directory: Path, quantiles: pl.DataFrame, num_bins: int) -> None:
    """Refuse quantiles that cannot be of `num_bins` bins."""
    wrong = int((quantiles["edges"].list.len() != num_bins - 1).sum())
    if wrong:
        raise ArtifactError(
            f"{directory / 'quantiles.parquet'}: {wrong} of {quantiles.height} categories have not the {num_bins - 1} "
            "edges that num_bins asks for; run 00_tokenize.py again"
        )


def _count_train_stays(directory: Path, categories: pl.DataFrame) -> int:
    """Return how many stays a tokenizer was learned on, also where its ids did not come along to another hospital."""
    told = read_done(directory, "00_tokenize").get("rows", {}).get("train_stays")
    if told is not None:  # by python -m clinrep.export
        return int(told)
    if (directory / "splits.parquet").is_file():
        return read_table("splits", directory).filter(pl.col("split") == "train").height
    static = categories.filter((pl.col("source") == "static") & (pl.col("bin_counts").list.len() > 0))
    if static.is_empty():  # a column of numbers counts every stay once
        raise InputError(f"{directory} holds no splits.parquet, which tells how many stays it was learned on; copy it")
    return int(static["num_events"].max())  # type: ignore[arg-type]


def _strip(setting: Any) -> Any:
    """Return a setting without what says only how a site that lacks something is treated."""
    if not isinstance(setting, list):
        return setting
    ignored = ("required", "if_column_missing")
    return [
        {k: _strip(v) for k, v in one.items() if k not in ignored} if isinstance(one, dict) else one for one in setting
    ]


def _check_digests(directory: Path) -> None:
    """Refuse tables that are no longer those the run wrote: a tokenizer is not to be edited."""
    written = read_done(directory, "00_tokenize").get("outputs", {})
    for name in ("vocabulary", "quantiles", "categories"):
        path = directory / f"{name}.parquet"
        if written.get(path.name) != fingerprint_file(path):
            raise InputError(f"{path} is not what 00_tokenize.py wrote there (see DONE); run it again, or restore it")


# The type that each setting which later stages read must have in a saved config.yaml.
_KINDS: dict[str, type] = {
    "window": dict,
    "window.is_end_closed": bool,
    "static_tokens": list,
    "discharge_tokens": list,
    "sources": list,
    "gap_minutes": list,
    "timelines_dir": str,
    "outcome": str,
}


def load_settings(directory: Path, *needed: str) -> dict[str, Any]:
    """Return the saved settings of a stage's directory.

    Raises:
        InputError: config.yaml cannot be read, or one of the settings `needed` ('group.key') is missing or of
            another type, as in a file of another stage.
    """
    path = directory / "config.yaml"
    settings = read_settings(path)
    for name in needed:
        value: Any = settings
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, _KINDS[name]):
            found = "is missing" if value is None else f"is a {type(value).__name__}"
            raise InputError(f"{path}: {name} {found}; is it the file of another stage? restore it, or run it again")
    return settings


def read_vocabulary(directory: Path) -> pl.DataFrame:
    """Return the vocabulary of a stage-00 directory, its ids checked to be 0..V-1 with a special PAD.

    Raises:
        ArtifactError: the ids have gaps, or no token PAD of kind special.
    """
    vocabulary = read_table("vocabulary", directory)
    ids = vocabulary["token_id"].to_numpy()
    if not np.array_equal(ids, np.arange(len(ids))):
        raise ArtifactError(
            f"{directory / 'vocabulary.parquet'}: token_id should be 0..{len(ids) - 1} in order; "
            "run 00_tokenize.py again"
        )
    find_pad_id(vocabulary, directory)
    return vocabulary


def find_pad_id(vocabulary: pl.DataFrame, source: Path) -> int:
    """Return the id of the token PAD; an ArtifactError names `source` where there is none of kind special."""
    pad = vocabulary.filter((pl.col("token") == PAD_TOKEN) & (pl.col("kind") == "special"))
    if pad.height != 1:
        raise ArtifactError(f"the vocabulary of {source} holds no token PAD of kind special; run 00_tokenize.py again")
    return int(pad["token_id"][0])


def find_token_id(vocabulary: pl.DataFrame, token: str) -> int:
    """Return the id of a token; one that the vocabulary lacks is an InputError, never a new id."""
    ids = dict(zip(vocabulary["token"], vocabulary["token_id"], strict=True))
    return int(lookup(ids, token, "token of the vocabulary"))


def count_tokens(tokenizer: Tokenizer, train_counts: np.ndarray) -> Tokenizer:
    """Return the tokenizer with train_count = `train_counts` i64 (V,); a frozen one stays as it is."""
    if tokenizer.is_frozen:
        return tokenizer
    vocabulary = tokenizer.vocabulary.with_columns(train_count=pl.Series(train_counts, dtype=pl.UInt64))
    return dataclasses.replace(tokenizer, vocabulary=vocabulary)


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
