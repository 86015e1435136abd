"""Risk over time of several models on the same stays, and its mean and band by tokens and by hours.

N stays, T tokens of all of them, G points of an axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinrep import artifacts
from clinrep.analysis.checks import require_same_subjects, require_unique
from clinrep.analysis.classifier_runs import choose_first_seeds, name_runs
from clinrep.analysis.inputs import TEST_SPLIT, Site
from clinrep.analysis.metrics import Floats
from clinrep.analysis.predictions import find_prediction_runs
from clinrep.analysis.probes import FittedProbe
from clinrep.analysis.risk import name_followed
from clinrep.analysis.study import Study
from clinrep.artifacts import ArtifactError

MICROSECONDS = 3_600_000_000  # of an hour; whole numbers, so that an event at hour 2 is known at hour 2
BAND = (0.025, 0.975)
_CLASSIFIERS = {"classifier": "Fine-tuned", "classifier_urt": "Fine-tuned, URT"}


@dataclass(frozen=True)
class Followed:
    """What one model says after every token of N stays."""

    offsets: NDArray[np.int64]
    """(N + 1,) stay i has tokens offsets[i] to offsets[i + 1]."""
    times: NDArray[np.int64]
    """(T,) microseconds since hour 0 of the stay until the token is known, never falling within a stay."""
    probabilities: Floats
    """(T,)"""
    ends: NDArray[np.int64]
    """(N,) microseconds since hour 0 until the prediction's index time, where following ends."""

    def at_hours(self, hours: Floats) -> Floats:
        """Return (N, G) the probability after the last token known by each of rising hours.

        NaN where none is known yet, and beyond the end. Between tokens, and after the last, what was said stands.
        """
        points = np.round(hours * MICROSECONDS).astype(np.int64)
        num_stays, num_points = self.ends.size, points.size
        stays = np.repeat(np.arange(num_stays), np.diff(self.offsets))
        known_from = np.searchsorted(points, self.times)  # the first point at or after the token
        cells = np.bincount(stays * (num_points + 1) + known_from, minlength=num_stays * (num_points + 1))
        num_known = cells.reshape(num_stays, num_points + 1)[:, :-1].cumsum(axis=1)
        is_followed = (num_known > 0) & (points <= self.ends[:, None])
        values = self.probabilities[np.maximum(self.offsets[:-1, None] + num_known - 1, 0)]
        return np.where(is_followed, values, np.nan)

    def at_tokens(self, counts: NDArray[np.int64]) -> Floats:
        """Return (N, G) the probability after so many tokens; NaN where a stay has fewer."""
        has_it = counts <= np.diff(self.offsets)[:, None]
        return np.where(has_it, self.probabilities[np.where(has_it, self.offsets[:-1, None] + counts - 1, 0)], np.nan)

    def take(self, rows: NDArray[np.intp]) -> Followed:
        """Return some of the stays."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        tokens = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        return Followed(offsets, self.times[tokens], self.probabilities[tokens], self.ends[rows])


@dataclass(frozen=True)
class FollowedStays:
    """The N labelled test stays of one site and outcome that every model follows, in order of subject_id."""

    labels: NDArray[np.bool_]
    patients: NDArray[np.intp]
    models: dict[str, Followed]
    num_labelled: int
    """Labelled test stays, followed or not."""

    @property
    def last_hour(self) -> float:
        """Hours until the last stay's end."""
        return max((followed.ends.max(initial=0) / MICROSECONDS for followed in self.models.values()), default=0.0)

    def take(self, rows: NDArray[np.intp]) -> FollowedStays:
        """Return some of the stays."""
        models = {name: followed.take(rows) for name, followed in self.models.items()}
        return FollowedStays(self.labels[rows], self.patients[rows], models, self.num_labelled)


def read_risk(study: Study, site: Site) -> dict[str, dict[str, pl.DataFrame]]:
    """Return the test stays' rows of `risk_over_time` by outcome and by model in words: fine-tuned ones, then probes.

    Of runs that differ in their seed alone there is that of the lowest: curves are of one model each.

    Raises:
        InputError: a classifier's table lacks labelled test stays or has others.
    """
    found: dict[tuple[str, str], list[tuple[Path, pl.DataFrame]]] = {}
    given = study.config.predictions_dir.get(site.name)
    for directory in find_prediction_runs(Path(given)) if given else []:
        if artifacts.find_parts("risk_over_time", directory):
            table = artifacts.read_table("risk_over_time", directory).filter(pl.col("split") == TEST_SPLIT)
            for (outcome, model), rows in table.partition_by("outcome", "model", as_dict=True).items():
                expected = site.select_labelled(str(outcome), TEST_SPLIT).subject_ids
                what = f"{directory / 'risk_over_time.parquet'}, outcome {outcome}"
                require_same_subjects(rows["subject_id"], expected, what, "the labelled test stays of outcomes")
                found.setdefault((str(outcome), str(model)), []).append((directory, rows))
    tables: dict[str, dict[str, pl.DataFrame]] = {outcome: {} for outcome in study.outcomes}
    for (outcome, model), runs in sorted(found.items()):
        chosen = choose_first_seeds([directory for directory, _ in runs])
        for name, rows in zip(name_runs(chosen), (dict(runs)[directory] for directory in chosen), strict=True):
            words = name.partition(" ")[2]
            label = _CLASSIFIERS.get(model, model) + (f" ({words})" if words else "")
            tables.setdefault(outcome, {})[label] = rows
    for label, probe, rows in _read_probes(study, site):
        tables[probe.outcome][label] = rows
    return {outcome: tables[outcome] for outcome in study.outcomes}


def _read_probes(study: Study, site: Site) -> list[tuple[str, FittedProbe, pl.DataFrame]]:
    """Return label, probe and rows of each probe on the poolings of the settings that this run has followed."""
    path = study.directory / "risk_over_time.parquet"
    if not path.is_file():
        return []
    table = artifacts.read_table_file("risk_over_time", path)
    poolings = study.config.risk_figure.poolings
    chosen = [one for one in study.probes if one.representation[1] in poolings and one.probe is not None]
    has_layers = len({one.representation[0] for one in chosen}) > 1
    rows = []
    for probe in chosen:
        model = name_followed(site, probe, len(study.sites) > 1)
        of_probe = table.filter((pl.col("model") == model) & (pl.col("outcome") == probe.outcome))
        layer, pooling = probe.representation
        kind = "URT" if pooling == "random_token" else pooling.replace("_", " ")
        label = f"{probe.name.replace('_', ' ').capitalize()}, {kind}" + (f", layer {layer}" if has_layers else "")
        if of_probe.height:
            rows.append((label, probe, of_probe))
    return rows


def follow_stays(site: Site, outcome: str, tables: dict[str, pl.DataFrame], origin: str) -> FollowedStays:
    """Return the stays that all of these tables have, joined by id.

    Args:
        site: its stays and outcomes.
        outcome: whose labels and index times.
        tables: model -> rows of `risk_over_time`.
        origin: hour 0: `admission`, or `first_event`, the earliest token.

    Raises:
        ArtifactError: a stay twice in a table, or not as many times as probabilities.
    """
    stays = site.select_labelled(outcome, TEST_SPLIT)
    indexed = site.outcomes.filter(pl.col("outcome") == outcome).select("subject_id", "index_time")
    rows = pl.DataFrame({"subject_id": stays.subject_ids, "label": stays.labels, "patient": stays.patients})
    rows = rows.join(indexed, on="subject_id").join(site.stays.select("subject_id", "start"), on="subject_id")
    for model, table in tables.items():
        _check_risk(table, f"risk_over_time of {model} at {site.name}, outcome {outcome}")
        rows = rows.join(table.select("subject_id"), on="subject_id", how="semi")
    rows = rows.sort("subject_id")
    models = {
        model: _flatten(
            rows.join(table.select("subject_id", "times", "probability"), on="subject_id", maintain_order="left"),
            origin,
        )
        for model, table in tables.items()
    }
    return FollowedStays(
        rows["label"].to_numpy().astype(bool),
        rows["patient"].to_numpy().astype(np.intp),
        models,
        stays.labels.size,
    )


def _check_risk(table: pl.DataFrame, what: str) -> None:
    require_unique(table, ["subject_id"], what)
    lengths = table.select(times=pl.col("times").list.len(), risks=pl.col("probability").list.len())
    num_wrong = lengths.filter((pl.col("times") != pl.col("risks")) | (pl.col("times") == 0)).height
    if num_wrong:
        raise ArtifactError(f"{what}: {num_wrong} stays have no token, or not as many times as probabilities")


def _flatten(rows: pl.DataFrame, origin: str) -> Followed:
    """Return the lists end to end, with times from hour 0."""
    offsets = np.concatenate([[0], rows["times"].list.len().to_numpy().astype(np.int64).cumsum()])
    # where times step back (the manuscript's discharge tokens), a token is known no sooner than those before it
    tokens = rows.select(pl.int_range(pl.len()).alias("stay"), "times").explode("times")
    known = tokens.select(pl.col("times").cum_max().over("stay")).to_series().to_physical().to_numpy()
    earliest = rows["start"] if origin == "admission" else rows["times"].list.min()
    starts = earliest.to_physical().to_numpy()
    return Followed(
        offsets,
        known - np.repeat(starts, np.diff(offsets)),
        rows["probability"].explode().to_numpy().astype(np.float64),
        rows["index_time"].to_physical().to_numpy() - starts,
    )


def summarize_groups(
    points: NDArray[np.generic], labels: NDArray[np.bool_], patients: NDArray[np.intp], values: Floats
) -> pl.DataFrame:
    """Return label, at, mean, low, high (`BAND`, linear interpolation), num_stays and num_patients by group and point.

    Args:
        points: (M,) where on the axis each value lies.
        labels: (M,) of its stay.
        patients: (M,) number of its stay's patient.
        values: (M,) without NaN.
    """
    people = pl.DataFrame({"label": labels, "at": points, "patient": patients}).group_by("label", "at")
    num_patients = people.agg(num_patients=pl.col("patient").n_unique()).sort("label", "at")["num_patients"]
    order = np.lexsort((values, points, labels))
    points, labels, values = points[order], labels[order], values[order]
    is_first = np.ones(values.size, dtype=bool)
    is_first[1:] = (points[1:] != points[:-1]) | (labels[1:] != labels[:-1])
    starts = np.flatnonzero(is_first)
    counts = np.diff(np.append(starts, values.size))
    quantiles = []
    for share in BAND:
        position = share * (counts - 1)
        below = np.floor(position).astype(np.int64)
        above = np.minimum(below + 1, counts - 1)
        low, high = values[starts + below], values[starts + above]
        quantiles.append(low + (position - below) * (high - low))
    means = np.add.reduceat(values, starts) / counts if starts.size else values
    columns = {"label": labels[starts], "at": points[starts], "mean": means}
    columns |= {"low": quantiles[0], "high": quantiles[1], "num_stays": counts}
    return pl.DataFrame({**columns, "num_patients": num_patients})


def summarize_by_tokens(followed: Followed, labels: NDArray[np.bool_], patients: NDArray[np.intp]) -> pl.DataFrame:
    """Return what `summarize_groups` does after each number of tokens, of the stays that have as many."""
    lengths = np.diff(followed.offsets)
    counts = np.arange(followed.probabilities.size) - np.repeat(followed.offsets[:-1], lengths) + 1
    return summarize_groups(counts, np.repeat(labels, lengths), np.repeat(patients, lengths), followed.probabilities)


def summarize_by_hours(
    followed: Followed, labels: NDArray[np.bool_], patients: NDArray[np.intp], hours: Floats
) -> pl.DataFrame:
    """Return what `summarize_groups` does at rising hours, of the stays that have a token by then."""
    values = followed.at_hours(hours)
    rows, columns = np.nonzero(np.isfinite(values))
    return summarize_groups(hours[columns], labels[rows], patients[rows], values[rows, columns])
