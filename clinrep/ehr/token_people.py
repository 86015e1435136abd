"""How many people of train have each token, and values in each bin of a category: V tokens, B bins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from clinrep.artifacts import iterate_table, read_table
from clinrep.ehr.quantiles import get_bin_words
from clinrep.export.edges import BinPeople


@dataclass(frozen=True)
class TokenPeople:
    """Counts of distinct people with a timeline in train; people whose stays got none are not among them."""

    of_token: np.ndarray
    """i64 (V,)"""
    of_bins: dict[str, BinPeople]
    """Category -> of its bins, whatever the unit: tokens do not tell units apart."""


def count_people(
    directory: Path, vocabulary: pl.DataFrame, categories: pl.DataFrame, settings: dict[str, Any]
) -> TokenPeople:
    """Count the people of train timelines; nothing but counts is kept."""
    num_tokens, num_bins = vocabulary.height, int(settings["num_bins"])
    markers = _find_markers(vocabulary, categories, settings)
    wanted = np.unique(markers["marker"].to_numpy())
    patients = read_table("subjects", directory).select("subject_id", "patient_id")
    numbers = patients.select("subject_id", patient=pl.col("patient_id").rank("dense").cast(pl.Int64) - 1)
    tokens, marked = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for part in iterate_table("timelines", directory, "train"):
        rows = part.join(numbers, on="subject_id", how="left", maintain_order="left")
        lengths = rows["token_ids"].list.len().to_numpy().astype(np.int64)
        ids = rows["token_ids"].explode(empty_as_null=False, keep_nulls=False).to_numpy().astype(np.int64)
        patient = np.repeat(rows["patient"].to_numpy(), lengths)
        tokens.append(np.unique(patient * num_tokens + ids))
        marked.append(_find_marked(ids, patient, lengths, wanted, num_tokens))
    pairs = np.unique(np.concatenate(tokens))
    of_token = np.bincount(pairs % num_tokens, minlength=num_tokens)
    pairs = np.unique(np.concatenate(marked))
    if not len(wanted):
        return TokenPeople(of_token, {})
    found = pl.DataFrame({"patient": pairs // len(wanted), "marker": wanted[pairs % len(wanted)]})
    return TokenPeople(of_token, _count_bins(found.join(markers, on="marker"), num_bins))


def _find_marked(
    ids: np.ndarray, patient: np.ndarray, lengths: np.ndarray, wanted: np.ndarray, num_tokens: int
) -> np.ndarray:
    """Return the distinct patient * M + number of a marker, of the M `wanted` ones, in some timelines."""
    if not len(wanted):
        return np.empty(0, np.int64)
    following = np.append(ids[1:], 0) + 1
    following[np.cumsum(lengths[lengths > 0]) - 1] = 0  # the last of a timeline is followed by nothing
    found = [np.empty(0, np.int64)]
    for marker in (ids * (num_tokens + 1), ids * (num_tokens + 1) + following):
        place = np.minimum(np.searchsorted(wanted, marker), len(wanted) - 1)
        is_wanted = wanted[place] == marker
        found.append(patient[is_wanted] * len(wanted) + place[is_wanted])
    return np.unique(np.concatenate(found))


def _find_markers(vocabulary: pl.DataFrame, categories: pl.DataFrame, settings: dict[str, Any]) -> pl.DataFrame:
    """Return category, bin, marker: token * (V + 1) for one token, + its follower + 1 for a pair."""
    ids = dict(vocabulary.select("token", "token_id").iter_rows())
    base = vocabulary.height + 1
    rows = []
    numeric = categories.filter(pl.col("bin_counts").list.len() > 0).select("source", "category").unique()
    for source, category in numeric.iter_rows():
        for number, word in enumerate(get_bin_words(int(settings["num_bins"]))):
            for first, second in _name_bin(source, category, word, settings):
                if first in ids and (second is None or second in ids):
                    marker = ids[first] * base + (0 if second is None else ids[second] + 1)
                    rows.append((category, number, marker))
    schema = {"category": pl.String, "bin": pl.Int64, "marker": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row").unique()


def _name_bin(source: str, category: str, word: str, settings: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Return the tokens, one or two, that a value of a category in bin `word` becomes."""
    if source in ("static", "discharge"):
        edges = settings[f"{source}_tokens"]
        return [
            (edge["token"].format(bin=word), None)
            for edge in edges
            if edge.get("column") == category and "{bin}" in edge["token"]
        ]
    if settings["token_style"] == "fused":
        return [(f"{category}_{word}", None)]
    spec = next(spec for spec in settings["sources"] if spec["name"] == source)
    prefix, _, suffix = spec["token"].partition("{category}")
    raw = category.removeprefix(prefix).removesuffix(suffix)
    return [(category, spec["value_token"].format(value=word, category=raw))]


def _count_bins(found: pl.DataFrame, num_bins: int) -> dict[str, BinPeople]:
    """Return the people of each category by bin, from rows of a patient and a bin that occurs."""
    counts = {}
    for (category,), rows in found.partition_by("category", as_dict=True).items():
        rows = rows.select("patient", "bin").unique()
        ends = rows.group_by("patient").agg(low=pl.col("bin").min(), high=pl.col("bin").max())
        within, low, high = (
            np.bincount(bins.to_numpy(), minlength=num_bins) for bins in (rows["bin"], ends["low"], ends["high"])
        )
        counts[str(category)] = BinPeople(within, np.cumsum(low), np.cumsum(high[::-1])[::-1])
    return counts
