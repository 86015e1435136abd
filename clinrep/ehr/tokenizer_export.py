"""The tokenizer of stage 00 as it may leave a hospital: rare words blanked, edges and counts of few people hidden."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from clinrep.artifacts import read_table
from clinrep.config import InputError
from clinrep.ehr.quantiles import get_probabilities
from clinrep.ehr.token_people import TokenPeople, count_people
from clinrep.ehr.tokenizer import load_settings, read_vocabulary
from clinrep.export.config import ExportConfig
from clinrep.export.edges import BinPeople, fill_edges, find_exportable, merge_bins, round_count, round_down
from clinrep.export.tokenizer import ExportedTokenizer

logger = logging.getLogger("clinrep")

OF_SETTINGS = ("special", "bin", "time")  # kinds of tokens whose names come from the settings, not from patients
RARE_NAME = "RARE_{}"


def export_tokenizer(directory: Path, config: ExportConfig) -> ExportedTokenizer:
    """Return the tokenizer that a stage-00 directory learned, with nothing that rests on few people.

    Raises:
        InputError: the directory applies another's tokenizer, or has fewer train people than a cell must have.
    """
    settings = load_settings(directory)
    if settings.get("tokenizer_dir") is not None:
        raise InputError(
            f"--timelines_dir {directory} was written with a frozen tokenizer; export the directory that learned it: "
            f"{settings['tokenizer_dir']}"
        )
    vocabulary, least = read_vocabulary(directory), config.min_cell_count
    quantiles, categories = (read_table(name, directory) for name in ("quantiles", "categories"))
    train = read_table("splits", directory).filter(pl.col("split") == "train")
    if train["patient_id"].n_unique() < least:
        raise InputError(
            f"--timelines_dir {directory} has {train['patient_id'].n_unique()} train patients, fewer than "
            f"--min_cell_count {least}; nothing of it may leave"
        )
    people = count_people(directory, vocabulary, categories, settings)
    words = _hide_words(vocabulary, people, categories, settings, config)
    edges, exported = _hide_edges(quantiles, categories, people, settings, config)
    rows = _hide_rows(categories, vocabulary, people, edges, settings, config)
    return ExportedTokenizer(
        words,
        edges.drop("bin_counts", "is_median_kept"),
        rows,
        settings,
        int(round_count(np.array(train.height), least)),
        {
            "tokens of few people": int(_is_rare(vocabulary, people, least).sum()),
            "token counts": words["train_count"].null_count(),
            "categories without edges": quantiles.height - edges.height,
            "edges hidden in other categories": exported,
            "rows of categories.parquet left out": categories.height - rows.height,
        },
    )


def _is_rare(vocabulary: pl.DataFrame, people: TokenPeople, least: int) -> pl.Series:
    is_word = ~vocabulary["kind"].is_in(OF_SETTINGS)
    return is_word & pl.Series(people.of_token < least)


def _hide_words(
    vocabulary: pl.DataFrame,
    people: TokenPeople,
    categories: pl.DataFrame,
    settings: dict[str, Any],
    config: ExportConfig,
) -> pl.DataFrame:
    """Return the vocabulary with names of few people blanked, and counts rounded or null."""
    least = config.min_cell_count
    is_rare, ids = _is_rare(vocabulary, people, least), vocabulary["token_id"].cast(pl.String)
    counts = vocabulary["train_count"].cast(pl.Int64)
    is_hidden = is_rare | (counts < least) | pl.Series(people.of_token < least)
    for members in _group_edge_tokens(vocabulary["token"], settings):
        is_hidden |= _complete(members, counts.to_numpy(), is_hidden.to_numpy(), least)
    rounded = pl.Series(round_count(counts.to_numpy(), least)).cast(pl.UInt64)
    names = vocabulary["token"]
    if config.rare_tokens == "blank":
        names = names.zip_with(~is_rare, pl.Series([RARE_NAME.format(number) for number in ids]))
    if names.n_unique() < len(names):
        raise InputError(f"the vocabulary has a token spelled {RARE_NAME.format('<number>')}; use --rare_tokens keep")
    table = vocabulary.with_columns(token=names, train_count=rounded)
    return table.with_columns(train_count=pl.when(pl.Series(~is_hidden)).then("train_count"))


def _group_edge_tokens(tokens: pl.Series, settings: dict[str, Any]) -> list[tuple[np.ndarray, bool]]:
    """Return groups of tokens of which every stay has one, as (places, whether it is no clear group).

    Templates without a prefix share words: nobody can tell whose a word is, so they are one group.
    """
    groups: list[tuple[set[int], bool]] = []
    for edge in (*settings["static_tokens"], *settings["discharge_tokens"]):
        field = next((field for field in ("{category}", "{bin}") if field in edge["token"]), None)
        if field is None:
            continue
        prefix, _, suffix = edge["token"].partition(field)
        is_one = tokens.str.starts_with(prefix) & tokens.str.ends_with(suffix)
        members, is_mixed = set(is_one.arg_true().to_list()), False
        for other, was_mixed in [group for group in groups if group[0] & members]:
            groups.remove((other, was_mixed))
            members, is_mixed = members | other, True
        groups.append((members, is_mixed))
    return [(np.array(sorted(members), dtype=np.int64), is_mixed) for members, is_mixed in groups if members]


def _complete(group: tuple[np.ndarray, bool], counts: np.ndarray, is_hidden: np.ndarray, least: int) -> pl.Series:
    """Return which counts must go too, so that a hidden one is not what all stays leave over."""
    places, is_mixed = group
    also = np.zeros(len(counts), dtype=bool)
    hidden, shown = places[is_hidden[places]], places[~is_hidden[places]]
    if len(hidden) and is_mixed:
        also[places] = True
        return pl.Series(also)
    shown = shown[np.argsort(counts[shown], kind="stable")]
    num_hidden, total = len(hidden), int(counts[hidden].sum())
    for place in shown if num_hidden else ():
        if num_hidden > 1 and total >= least:
            break
        also[place], num_hidden, total = True, num_hidden + 1, total + int(counts[place])
    return pl.Series(also)


def _hide_edges(
    quantiles: pl.DataFrame,
    categories: pl.DataFrame,
    people: TokenPeople,
    settings: dict[str, Any],
    config: ExportConfig,
) -> tuple[pl.DataFrame, int]:
    """Return `quantiles` of what may have edges, with `bin_counts` and `is_median_kept`; and how many edges changed."""
    least, num_bins = config.min_cell_count, int(settings["num_bins"])
    counts = categories.filter(pl.col("bin_counts").list.len() > 0).unique(["category", "unit"], keep="first")
    counts = counts.select("category", "unit", "bin_counts")
    of_category = counts.group_by("category").agg(pl.col("bin_counts"))
    all_units = {name: np.array(lists, dtype=np.int64).sum(axis=0) for name, lists in of_category.iter_rows()}
    joined = quantiles.join(counts, on=["category", "unit"], how="left", nulls_equal=True, maintain_order="left")
    nobody = BinPeople(*[np.zeros(num_bins, dtype=np.int64)] * 3)
    kept, rows, num_hidden = [], [], 0
    for row, (category, _, count, edges, bins) in enumerate(joined.iter_rows()):
        edges, bins = np.array(edges, dtype=np.float64), np.array(bins or [0] * num_bins, dtype=np.int64)
        of_bins = people.of_bins.get(category, nobody).subtract(all_units.get(category, bins) - bins)
        is_fine = find_exportable(edges, bins, get_probabilities(num_bins), of_bins, least)
        if count >= least * num_bins and is_fine.any():
            num_hidden += int((~is_fine).sum())
            kept.append(row)
            rows.append(_tell_edges(count, edges, bins, is_fine, of_bins.within, config))
    schema: dict[str, pl.DataType] = {
        "edges": pl.List(pl.Float64),
        "train_count": pl.UInt64(),
        "bin_counts": pl.List(pl.UInt64),
        "is_median_kept": pl.Boolean(),
    }
    new = pl.DataFrame(rows, schema=schema)
    return pl.concat([quantiles[kept].select("category", "unit"), new], how="horizontal"), num_hidden


def _tell_edges(
    count: int, edges: np.ndarray, bins: np.ndarray, is_fine: np.ndarray, within: np.ndarray, config: ExportConfig
) -> dict[str, Any]:
    """Return what is told of a category: its edges, and how its values lie in their bins if enough people are in each.

    `within` are the people in each bin of the edges as they were; i64 (num_bins,), as `bins`.
    """
    least, num_bins = config.min_cell_count, len(bins)
    filled = fill_edges(edges, is_fine)
    merged = merge_bins(bins, edges, filled)
    people = np.zeros_like(within)
    places = np.searchsorted(filled, np.concatenate([[-np.inf], edges]), side="right")
    np.maximum.at(people, places, within)  # of two bins made one, at least the people of the larger
    is_told = ((merged == 0) | ((merged >= least) & (people >= least))).all()
    return {
        "edges": round_down(filled, config.edge_digits).tolist(),
        "train_count": int(round_count(np.array(count), least)),
        "bin_counts": round_count(merged, least).tolist() if is_told else [],
        "is_median_kept": num_bins % 2 == 0 and bool(is_fine[num_bins // 2 - 1]),
    }


def _hide_rows(
    categories: pl.DataFrame,
    vocabulary: pl.DataFrame,
    people: TokenPeople,
    edges: pl.DataFrame,
    settings: dict[str, Any],
    config: ExportConfig,
) -> pl.DataFrame:
    """Return `categories` of what enough people have, counts rounded; what edges do not tell is empty."""
    least, middle = config.min_cell_count, int(settings["num_bins"]) // 2 - 1
    told = edges.select(
        "category", "unit", "is_median_kept", edge=pl.col("edges").list.get(middle), told_counts="bin_counts"
    )
    table = categories.join(told, on=["category", "unit"], how="left", nulls_equal=True, maintain_order="left")
    counts = table["num_events"].cast(pl.Int64).to_numpy()
    is_numeric = table["bin_counts"].list.len() > 0
    is_hidden = (_count_people_of_rows(table, vocabulary, people) < least) | (counts < least)
    if settings["bin_without_edges"] == "last":  # else another site would put such a number into the last bin
        is_hidden |= (is_numeric & table["is_median_kept"].is_null()).to_numpy()
    of_edge = table["source"].is_in(["static", "discharge"]).arg_true()
    for places, is_mixed in _group_edge_tokens(table["category"][of_edge], settings):
        group = (of_edge.to_numpy()[places].astype(np.int64), is_mixed)
        is_hidden |= _complete(group, counts, is_hidden, least).to_numpy()
    for name in ("num_events", "num_missing"):
        rounded = round_count(table[name].cast(pl.Int64).to_numpy(), least)
        table = table.with_columns(pl.Series(name, rounded).cast(pl.UInt64))
    table = table.with_columns(
        bin_counts=pl.col("told_counts").fill_null([]),
        median=pl.when(pl.col("is_median_kept")).then("edge"),
    )
    return table.filter(pl.Series(~is_hidden)).select(categories.columns)


def _count_people_of_rows(table: pl.DataFrame, vocabulary: pl.DataFrame, people: TokenPeople) -> np.ndarray:
    """Return how many people, at least, each row of `categories` is of, i64.

    Tokens do not tell units apart: every event in another unit may be of another person.
    """
    of_token = dict(zip(vocabulary["token"], people.of_token.tolist(), strict=True))
    of_bins = {category: int(bins.at_most[-1]) for category, bins in people.of_bins.items()}
    found = [
        min(of_token.get(value, 0), of_token.get(category, of_token.get(value, 0)))
        if value is not None
        else of_token.get(category, of_bins.get(category, 0))
        for category, value in table.select("category", "value").iter_rows()
    ]
    events = pl.col("num_events").cast(pl.Int64)
    others = events.sum().over("category", "value") - events.sum().over("category", "value", "unit")
    return np.array(found, dtype=np.int64) - table.select(others).to_series().to_numpy()
