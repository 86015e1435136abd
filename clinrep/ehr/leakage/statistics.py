"""Whether what was learned (token counts, bin edges, categories) is of train alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from clinrep.artifacts import read_table_file
from clinrep.ehr.leakage.directory import Tokenized
from clinrep.ehr.leakage.findings import Finding
from clinrep.ehr.quantiles import get_probabilities
from clinrep.ehr.tokenizer import TOKENIZER_COLUMNS

CHECK = "learned from more than train"
AGAIN = "run stage 00 again"


def check_statistics(site: Tokenized) -> list[Finding]:
    """Return what was not learned from train alone, as far as the tables can show it (see `relearn` for the rest)."""
    if site.settings.get("tokenizer_dir"):
        return _check_frozen(site, Path(site.settings["tokenizer_dir"]))
    return [*_check_counts(site), *_check_stays(site), *_check_edges(site)]


def _check_frozen(site: Tokenized, source: Path) -> list[Finding]:
    """Return which tables of a frozen tokenizer are not those of the directory that it was taken from."""
    findings = []
    for name, columns in TOKENIZER_COLUMNS.items():
        path = source / f"{name}.parquet"
        if not path.is_file():
            what = f"{path} is not there any more: whether the tokenizer is the source's cannot be checked"
            findings.append(Finding("doubtful", CHECK, what))
        elif not read_table_file(name, path).select(columns).equals(site.read(name).select(columns)):
            what = f"{name}.parquet is not that of {source}, though nothing was to be learned here; {AGAIN}"
            findings.append(Finding("certain", CHECK, what))
    return findings


def _check_counts(site: Tokenized) -> list[Finding]:
    """Return whether train_count of the vocabulary is not what train timelines hold, counted anew."""
    counts = np.zeros(site.vocabulary.height, dtype=np.int64)
    for split, path in site.find_timelines():
        if split == "train":
            ids = read_table_file("timelines", path)["token_ids"].explode(empty_as_null=False).to_numpy()
            counts += np.bincount(ids, minlength=len(counts))
    wrong = int((site.vocabulary["train_count"].fill_null(0).to_numpy().astype(np.int64) != counts).sum())
    if not wrong:
        return []
    what = f"train_count of {wrong} tokens of the vocabulary is not how often train timelines hold them; {AGAIN}"
    return [Finding("certain", CHECK, what)]


def _check_stays(site: Tokenized) -> list[Finding]:
    """Return whether the static tokens were counted over other stays than those of train: each has one of a column."""
    columns = [edge for edge in site.settings["static_tokens"] if edge.get("column") is not None]
    categories = site.read("categories").filter(pl.col("source") == "static")
    num_counted, num_train = int(categories["num_events"].sum()), (site.splits["split"] == "train").sum()
    if not columns or num_counted == len(columns) * num_train:
        return []
    what = f"categories were counted over {num_counted / len(columns):g} stays, train has {num_train}; {AGAIN}"
    return [Finding("certain", CHECK, what)]


def _check_edges(site: Tokenized) -> list[Finding]:
    """Return the categories whose edges cannot be train's quantiles, by how many train values are in each bin.

    Of n values, at most floor((n - 1) p) + 1 are below their p-quantile (numpy's linear one). Edges learned from other
    values break that for about every second edge.
    """
    quantiles, categories = site.read("quantiles"), site.read("categories").filter(pl.col("bin_counts").list.len() > 0)
    # numbers of one category and unit from several sources are binned together: the counts are the same
    binned = categories.select("category", "unit", "bin_counts").unique(["category", "unit"])
    joined = quantiles.join(binned, on=["category", "unit"], how="left", nulls_equal=True)
    other_count, broken = 0, 0
    includes_infinite = bool(site.settings.get("quantiles_include_infinite"))
    for row in joined.iter_rows(named=True):
        bins = np.array(row["bin_counts"] if row["bin_counts"] is not None else [], dtype=np.int64)
        if bins.sum() != row["train_count"] and not includes_infinite:
            other_count += 1
        elif len(bins) and np.isfinite(row["edges"]).all():  # beside infinite values edges are no numbers
            ranks = np.floor((row["train_count"] - 1) * get_probabilities(len(bins))).astype(np.int64) + 1
            broken += bool((np.cumsum(bins)[:-1] > ranks).any())
    findings = []
    if other_count:
        what = (
            f"edges of {other_count} of {quantiles.height} categories come from another number of values than train has"
        )
        findings.append(Finding("certain", CHECK, f"{what}; {AGAIN}"))
    if broken:
        what = f"edges of {broken} of {quantiles.height} categories are not the quantiles of train's values"
        findings.append(Finding("certain", CHECK, f"{what}; {AGAIN}"))
    return findings
