"""Section of the report: timelines.html, a page that shows single stays token by token, without who they are."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from clinrep import artifacts
from clinrep.analysis.inputs import TEST_SPLIT, Site
from clinrep.analysis.page import embed_json, render_page
from clinrep.analysis.study import Section, Study
from clinrep.analysis.tables import label_outcome
from clinrep.analysis.timeline_data import Lane, Risk, ShownStay, read_stays

OLDEST_SHOWN = 89  # older ages are identifiers (45 CFR 164.514(b)(2)(i)(C))
MICROSECONDS_PER_HOUR = 3_600_000_000
BIN_KIND, STATIC_KIND = "bin", "static"
_BIN_NAME = re.compile(r"Q(\d+)")


def build_timelines_section(study: Study) -> Section:
    """Write timelines.html and return the section that leads to it, or says why there is none."""
    config = study.config
    site = next(site for site in study.sites if site.name == (config.timelines.site or config.fitted_site))
    directory = Path(config.timelines_dir[site.name])
    if config.timelines.num_stays == 0 and config.timelines.subject_ids is None:
        return Section("timelines", "Timelines", "Not made: timelines.num_stays is 0.")
    if not artifacts.find_parts("timelines", directory, TEST_SPLIT):
        return Section("timelines", "Timelines", f"Not made: {directory} holds no timelines of the split {TEST_SPLIT}.")
    stays, lanes = read_stays(study, site)
    page = render_page(
        "timelines.html.j2",
        ["page.css", "timelines.css"],
        ["page.js", "timeline_chart.js", "timelines.js"],
        title="Single stays, token by token",
        num_stays=len(stays),
        lanes=lanes,
        notice=config.data_notice,
        content=embed_json(_describe(study, site, stays, lanes)),
    )
    artifacts.write_text(study.directory / "timelines.html", page)
    text = (
        f"{len(stays)} stays {'that were asked for' if config.timelines.subject_ids else 'of test, drawn at random'}, "
        "one at a time: events by hours from admission, and for each token its surprise, the jump of the hidden state "
        "and the risk after it, as far as earlier stages wrote them. The page names nobody and holds no dates, but it "
        "shows single people's records: keep it where the data may be."
    )
    return Section("timelines", "Timelines", text, links={"timelines.html": "Open the timelines"})


def _describe(study: Study, site: Site, stays: list[ShownStay], lanes: list[Lane]) -> dict[str, Any]:
    """Return what the page draws; `vocabulary` holds the words that occur, by their new numbers."""
    directory = Path(study.config.timelines_dir[site.name])
    used = np.unique(np.concatenate([np.empty(0, np.uint32), *[stay.tokens for stay in stays]]))
    vocabulary = artifacts.read_table("vocabulary", directory).sort("token_id")
    words = vocabulary.filter(pl.col("token_id").is_in(used.tolist()))
    bins = vocabulary.filter(pl.col("kind") == BIN_KIND)["token"].to_list()
    numbers = sorted(int(match[1]) for token in bins if (match := _BIN_NAME.fullmatch(token)))
    return {
        "stays": [_describe_stay(study, site, stay, number + 1, used) for number, stay in enumerate(stays)],
        "tokens": words["token"].to_list(),
        "kinds": words["kind"].to_list(),
        "bins": [_read_bin(token, kind) for token, kind in words.select("token", "kind").iter_rows()],
        "numBins": len(numbers),
        "ranges": _describe_ranges(words, artifacts.read_table("quantiles", directory)),
        "lanes": [{"name": lane.name, "isThere": lane.is_there} for lane in lanes],
    }


def _describe_stay(study: Study, site: Site, stay: ShownStay, number: int, used: np.ndarray) -> dict[str, Any]:
    """Return one stay without its id and dates: hours count from admission, places in `used` stand for token ids."""
    row = site.stays.row(by_predicate=pl.col("subject_id") == stay.subject_id, named=True)
    start = np.datetime64(row["start"], "us")
    hours = (stay.times.astype("datetime64[us]") - start).astype(np.int64) / MICROSECONDS_PER_HOUR
    return {
        "name": f"Stay {number}",
        "about": _describe_person(study, site, row, len(stay.tokens)),
        "tokens": np.searchsorted(used, stay.tokens).tolist(),
        "hours": np.round(hours, 4).tolist(),
        "bits": _round(stay.bits, is_first_missing=True),
        "jumps": _round(stay.jumps, is_first_missing=True),
        "risks": [_describe_risk(study, risk) for risk in stay.risks],
    }


def _describe_person(study: Study, site: Site, row: dict[str, Any], num_tokens: int) -> list[tuple[str, str]]:
    age = f"{OLDEST_SHOWN + 1}+" if row["age"] >= OLDEST_SHOWN + 1 else str(int(row["age"]))
    about = [
        ("Age", age),
        ("Sex", str(row["sex"] or "not recorded").replace("_", " ")),
        ("Length of stay", f"{row['length_of_stay_hours']:.0f} hours"),
        ("Tokens shown", f"{num_tokens:,}"),
    ]
    labels = site.outcomes.filter(pl.col("subject_id") == row["subject_id"])
    words = {True: "yes", False: "no", None: "excluded"}
    of_outcome = dict(labels.select("outcome", "label").iter_rows())
    return about + [(label_outcome(name, study.config), words[of_outcome.get(name)]) for name in study.outcomes]


def _describe_risk(study: Study, risk: Risk) -> dict[str, Any]:
    return {
        "model": risk.model.replace("_", " "),
        "outcome": label_outcome(risk.outcome, study.config),
        "values": _round(risk.probabilities),
    }


def _round(values: np.ndarray | None, is_first_missing: bool = False) -> list[float | None] | None:
    """Return numbers with five digits, which is more than anyone sees; the first token has nothing before it."""
    if values is None:
        return None
    rounded = [float(f"{value:.5g}") if np.isfinite(value) else None for value in values.tolist()]
    return [None, *rounded] if is_first_missing else rounded


def _read_bin(token: str, kind: str) -> int | None:
    """Return the number of the value bin that a token is or, fused, ends with."""
    match = re.fullmatch(r"Q(\d+)", token) if kind == BIN_KIND else re.fullmatch(r".*_Q(\d+)", token)
    return int(match[1]) if match else None


def _describe_ranges(words: pl.DataFrame, quantiles: pl.DataFrame) -> dict[str, list[str]]:
    """Return category -> words for the values of each bin, where the category has one unit; ages are left out."""
    static = words.filter(pl.col("kind") == STATIC_KIND)["token"].to_list()
    is_alone = quantiles["category"].is_duplicated().not_() & quantiles["category"].is_in(static).not_()
    ranges = {}
    for category, unit, edges in quantiles.filter(is_alone).select("category", "unit", "edges").iter_rows():
        if category not in set(words["token"]):
            continue
        ends = [f"{edge:.4g}" for edge in edges]
        between = [f"{low}\N{EN DASH}{high}" for low, high in pairwise(ends)]
        texts = [f"below {ends[0]}", *between, f"{ends[-1]} or more"]
        ranges[category] = [f"{text} {unit or ''}".strip() for text in texts]
    return ranges
