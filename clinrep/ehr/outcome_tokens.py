"""Which tokens mean that an outcome has happened: one table, as `outcomes.OUTCOMES` is one of CLIF tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from clinrep.config import InputError
from clinrep.ehr.clif import normalize_words
from clinrep.ehr.quantiles import get_bin_words

Finder = Callable[[pl.DataFrame, dict[str, Any]], set[str]]
"""(vocabulary, settings of stage 00) -> tokens that mean the event, in the vocabulary or not."""


def find_discharge_tokens(*words: str) -> Finder:
    """Return a finder of the discharge tokens of discharge_category, spelled as any edition does."""

    def find(vocabulary: pl.DataFrame, settings: dict[str, Any]) -> set[str]:
        edges = [edge for edge in settings["discharge_tokens"] if edge["column"] == "discharge_category"]
        spelled = normalize_words(words, settings["normalize"], "discharge_category")
        return {edge["token"].format(category=word) for edge in edges for word in spelled}

    return find


def find_category_tokens(table: str, column: str, *words: str) -> Finder:
    """Return a finder of the tokens of events whose category, or categorical value, `column` of `table` is a word."""

    def find(vocabulary: pl.DataFrame, settings: dict[str, Any]) -> set[str]:
        found: set[str] = set()
        for source in settings["sources"]:
            if source["table"] != table:
                continue
            for word in normalize_words(words, settings["normalize"], column):
                if source["category_column"] == column:
                    found |= _name_category(vocabulary, settings, source, word)
            rule = source["normalize_value"] or settings["normalize"]
            for word in normalize_words(words, rule, column):
                if source["categorical_value_column"] == column:
                    found |= _name_value(vocabulary, settings, source, word)
        return found

    return find


def find_table_tokens(table: str) -> Finder:
    """Return a finder of the tokens of every event of `table`."""

    def find(vocabulary: pl.DataFrame, settings: dict[str, Any]) -> set[str]:
        names = [source["name"] for source in settings["sources"] if source["table"] == table]
        return set(vocabulary.filter(pl.col("kind").is_in(names))["token"])

    return find


# Outcomes that the discharge tokens alone tell -> words of discharge_category.
DISCHARGE_WORDS: dict[str, tuple[str, ...]] = {
    "in_hospital_death": ("Expired", "expired"),
    "hospice_discharge": ("Hospice", "hospice"),
    "discharge_against_advice": ("Against Medical Advice (AMA)", "ama"),
}
OUTCOME_TOKENS: dict[str, Finder] = {
    **{outcome: find_discharge_tokens(*words) for outcome, words in DISCHARGE_WORDS.items()},
    "icu_admission": find_category_tokens("adt", "location_category", "ICU", "icu"),
    "imv_event": find_category_tokens("respiratory_support", "device_category", "IMV", "imv"),
    "renal_replacement": find_table_tokens("crrt_therapy"),
}
# Not a token but the time tells: hours after admission that a stay has to last longer than.
OUTCOME_HOURS = {"long_length_of_stay": 168.0}


def find_event_tokens(outcome: str, vocabulary: pl.DataFrame, settings: dict[str, Any], source: Path) -> np.ndarray:
    """Return which tokens mean the event, bool (V,); none for an outcome that time tells.

    Raises:
        InputError: neither tokens nor time tell of this outcome, or the vocabulary has no such token, so that
            no continuation could ever hold it.
    """
    if outcome in OUTCOME_HOURS:
        return np.zeros(vocabulary.height, dtype=bool)
    if outcome not in OUTCOME_TOKENS:
        known = ", ".join(sorted([*OUTCOME_TOKENS, *OUTCOME_HOURS]))
        raise InputError(
            f"zero_shot.outcomes holds {outcome!r}, which no token of a timeline tells; those that do: {known}"
        )
    tokens = OUTCOME_TOKENS[outcome](vocabulary, settings)
    # A word may be shared by sources (kind is the first's); special tokens and bins say nothing alone.
    names = ["discharge", *(one["name"] for one in settings["sources"])]
    is_event = (vocabulary["token"].is_in(list(tokens)) & vocabulary["kind"].is_in(names)).to_numpy()
    if not is_event.any():
        looked_for = ", ".join(sorted(tokens)) or "a source or discharge token of its table and column"
        raise InputError(
            f"zero_shot.outcomes holds {outcome!r}, but the vocabulary of {source} has no token of its event: looked "
            f"for {looked_for}; leave the outcome out, or tokenize with it in stage 00"
        )
    return is_event


def _name_category(vocabulary: pl.DataFrame, settings: dict[str, Any], source: dict[str, Any], word: str) -> set[str]:
    """Return the tokens of a category: its own, and where values are fused into it, those with each value."""
    key = source["token"].format(category=word)
    if settings["token_style"] == "separate" or not (source["value_column"] or source["categorical_value_column"]):
        return {key}
    bins = [*get_bin_words(settings["num_bins"]), settings["missing_value_token"]]
    own = vocabulary.filter(pl.col("kind") == source["name"])["token"]
    return {f"{key}_{bin_word}" for bin_word in bins} | set(own.filter(own.str.starts_with(f"{key}=")))


def _name_value(vocabulary: pl.DataFrame, settings: dict[str, Any], source: dict[str, Any], word: str) -> set[str]:
    """Return the tokens of a categorical value, whatever the category it is of."""
    is_fused = settings["token_style"] == "fused"
    template = source["token"] + f"={word}" if is_fused else source["value_token"].replace("{value}", word)
    before, has_category, after = template.partition("{category}")
    if not has_category:
        return {template}
    own = vocabulary.filter(pl.col("kind") == source["name"])["token"]
    return set(own.filter(own.str.starts_with(before) & own.str.ends_with(after)))
