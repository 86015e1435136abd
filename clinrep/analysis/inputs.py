"""What stage 04 reads: each site's tables, checked and joined by id, never by row order."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinrep import artifacts
from clinrep.analysis.checks import check_made_from, require_same_subjects, require_unique
from clinrep.analysis.classifier_runs import ClassifierRun
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.predictions import ZERO_SHOT, read_predictions, read_zero_shot
from clinrep.artifacts import ArtifactError
from clinrep.config import InputError, lookup
from clinrep.run import show_progress

logger = logging.getLogger("clinrep")

FIT_SPLIT, TEST_SPLIT = "train", "test"
Representation = tuple[int, str]  # layer, pooling


@dataclass(frozen=True)
class Labelled:
    """The stays of one site, split and outcome whose label is not null, N in order of subject_id."""

    subject_ids: pl.Series
    labels: NDArray[np.bool_]
    patients: NDArray[np.intp]
    """(N,) 0..P-1, one number a patient."""


@dataclass(frozen=True)
class Vectors:
    """The representations of one layer and pooling: row i belongs to subject_ids[i]."""

    subject_ids: pl.Series
    values: NDArray[np.float32]

    def select(self, subject_ids: pl.Series) -> NDArray[np.float64]:
        """Return (N, width) the vectors of these stays, in their order."""
        rows = self.subject_ids.to_frame().with_row_index("row")
        wanted = subject_ids.to_frame().join(rows, on="subject_id", how="left", maintain_order="left")
        return self.values[wanted["row"].to_numpy()].astype(np.float64)


@dataclass(frozen=True)
class Site:
    """One site's checked tables."""

    name: str
    source: str
    """What made the representations: backbone or classifier."""
    stays: pl.DataFrame
    """subjects.parquet with `split`, in order of subject_id."""
    outcomes: pl.DataFrame
    """outcomes.parquet with `split` and `patient_id`."""
    ledger: pl.DataFrame
    token_embeddings: pl.DataFrame
    representations: dict[str, dict[Representation, Vectors]]
    """By split: at least test, at the fitted site train too, and whatever else stage 03 extracted."""
    predictions: dict[str, dict[str, pl.DataFrame]]
    """What classifiers, or the backbone zero-shot, predicted, by outcome and model."""
    classifier_runs: dict[str, dict[str, ClassifierRun]] = field(default_factory=dict)
    """What the classifiers started from and learned from, by outcome and model, as in `predictions`."""

    def select_labelled(self, outcome: str, split: str) -> Labelled:
        """Return the labelled stays of a split; null labels are excluded, never false."""
        rows = self.outcomes.filter(
            (pl.col("outcome") == outcome) & (pl.col("split") == split) & pl.col("label").is_not_null()
        ).sort("subject_id")
        patients = np.unique(rows["patient_id"].to_numpy(), return_inverse=True)[1]
        return Labelled(rows["subject_id"], rows["label"].to_numpy().astype(bool), patients)


def read_sites(config: AnalyzeConfig) -> list[Site]:
    """Read every site, in the order of `timelines_dir`, and check that their vectors are comparable.

    Raises:
        InputError: an unfinished directory, ids that do not match or occur twice, vectors of
            different models, an unknown layer or pooling, no hidden states where they are needed.
    """
    if config.risk_over_time:
        _check_states(config)
    sites = [_read_site(name, config) for name in show_progress(config.timelines_dir, config, "read")]
    for site in sites[1:]:
        _check_comparable(sites[0], site)
    return sites


def _check_states(config: AnalyzeConfig) -> None:
    """Refuse to follow the risk of stays where no site has hidden states of any."""
    directories = [Path(directory) for directory in config.representations_dir.values()]
    if not any(artifacts.find_parts("hidden_states", directory, TEST_SPLIT) for directory in directories):
        found = ", ".join(f"{directory}/hidden_states/{TEST_SPLIT}" for directory in directories)
        raise InputError(
            f"risk_over_time is true but no site has hidden states of its test split: there is no {found}; "
            "run 03_extract_reps.py --hidden_states true into a new directory, or leave risk_over_time out"
        )


def choose_outcomes(sites: list[Site], config: AnalyzeConfig) -> list[str]:
    """Return the outcomes to analyze: those asked for, or all, by name; an unknown one is an InputError."""
    known = {site.name: dict.fromkeys(site.outcomes["outcome"].unique()) for site in sites}
    outcomes = config.outcomes or sorted(known[sites[0].name])
    for site, outcome in ((site, outcome) for site in known for outcome in outcomes):
        lookup(known[site], outcome, f"outcome at site {site}")
        artifacts.check_file_word(outcome, f"outcome at site {site}:")
    return outcomes


def _read_site(name: str, config: AnalyzeConfig) -> Site:
    timelines, representations = Path(config.timelines_dir[name]), Path(config.representations_dir[name])
    stays, outcomes = _read_stays(timelines)
    made_from = check_made_from("03_extract_reps", representations, timelines)
    predictions, classifier_runs = read_predictions(config.predictions_dir.get(name), timelines, outcomes)
    for outcome, answers in read_zero_shot(representations, outcomes).items():
        predictions.setdefault(outcome, {})[ZERO_SHOT] = answers
    needed = [FIT_SPLIT, TEST_SPLIT] if name == config.fitted_site else [TEST_SPLIT]
    found = [split for split in artifacts.SPLITS if artifacts.find_parts("representations", representations, split)]
    splits = [split for split in artifacts.SPLITS if split in {*needed, *found}]
    vectors = {split: _read_vectors(representations, split, stays, config) for split in splits}
    site = Site(
        name=name,
        source="classifier" if "classifier_dir" in made_from else "backbone",
        stays=stays,
        outcomes=outcomes,
        ledger=artifacts.read_table("ledger", timelines),
        token_embeddings=artifacts.read_table("token_embeddings", representations).sort("token_id"),
        representations=vectors,
        predictions=predictions,
        classifier_runs=classifier_runs,
    )
    logger.info(
        "%s: %d stays, representations %s, predictions of %s",
        name,
        stays.height,
        ", ".join(describe_representation(site.source, key) for key in vectors[TEST_SPLIT]),
        ", ".join(site.predictions) or "no outcome",
    )
    return site


def describe_representation(source: str, key: Representation) -> str:
    """Return the name of a representation in scores.parquet, for example `backbone layer 4 mean`."""
    return f"{source} layer {key[0]} {key[1]}"


def _read_stays(directory: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the stays that have a timeline with their split, and their outcomes."""
    splits = artifacts.read_table("splits", directory)
    require_unique(splits, ["subject_id"], directory / "splits.parquet")
    num_split = splits.unique(["patient_id", "split"]).height - splits["patient_id"].n_unique()
    if num_split:
        raise ArtifactError(f"{directory / 'splits.parquet'}: {num_split} patients are in more than one split")

    subjects = artifacts.read_table("subjects", directory)
    require_unique(subjects, ["subject_id"], directory / "subjects.parquet")
    stays = subjects.join(splits, on=["subject_id", "patient_id"], how="left").sort("subject_id")
    num_lost = stays["split"].null_count()
    if num_lost:
        raise ArtifactError(
            f"{directory / 'subjects.parquet'}: {num_lost} of {stays.height} stays are not in splits.parquet "
            "with the same patient; run 00_tokenize.py again"
        )

    outcomes = artifacts.read_table("outcomes", directory)
    require_unique(outcomes, ["subject_id", "outcome"], directory / "outcomes.parquet")
    for (outcome,), rows in outcomes.partition_by("outcome", as_dict=True).items():
        what = f"{directory / 'outcomes.parquet'}, outcome {outcome}"
        require_same_subjects(rows["subject_id"], stays["subject_id"], what, "subjects.parquet")
    return stays, outcomes.join(stays.select("subject_id", "patient_id", "split"), on="subject_id")


def _read_vectors(
    directory: Path, split: str, stays: pl.DataFrame, config: AnalyzeConfig
) -> dict[Representation, Vectors]:
    """Return the representations of one split, each with a row for every stay of the split."""
    table = artifacts.read_table("representations", directory, split)
    if table.is_empty() and split not in (FIT_SPLIT, TEST_SPLIT):
        return {}
    where = f"{directory}/representations/{split}"
    require_unique(table, ["subject_id", "layer", "pooling"], where)
    for column, wanted in (("layer", config.layers), ("pooling", config.poolings)):
        known = {str(value): value for value in table[column].unique()}
        chosen = [lookup(known, str(value), f"{column} in {where}") for value in wanted or known.values()]
        table = table.filter(pl.col(column).is_in(chosen))
    vectors = {}
    for layer, pooling in sorted(table.select("layer", "pooling").unique().iter_rows()):
        rows = table.filter((pl.col("layer") == layer) & (pl.col("pooling") == pooling))
        what = f"{where}, layer {layer}, pooling {pooling}"
        expected = stays.filter(pl.col("split") == split)["subject_id"]
        remedy = "a stay without that token has none: name other poolings" if pooling.startswith("position_") else ""
        require_same_subjects(rows["subject_id"], expected, what, f"the {split} split of the timelines", remedy)
        values = rows["representation"].to_numpy()
        if not np.isfinite(values).all():
            raise ArtifactError(f"{what}: vectors hold NaN or infinity; run 03_extract_reps.py again")
        vectors[int(layer), str(pooling)] = Vectors(rows["subject_id"], values)
    return vectors


def _check_comparable(first: Site, other: Site) -> None:
    """Refuse two sites whose vectors do not come from one model: a probe cannot go from one to the other."""
    ours, theirs = (site.representations[TEST_SPLIT] for site in (first, other))
    names = f"sites {first.name} and {other.name}"
    if ours.keys() != theirs.keys():
        raise InputError(f"{names} have different layers or poolings: {list(ours)} and {list(theirs)}")
    for key, vectors in ours.items():
        widths = vectors.values.shape[1], theirs[key].values.shape[1]
        if widths[0] != widths[1]:
            raise InputError(f"{names} have vectors of different width, {widths[0]} and {widths[1]}, at {key}")
    if not first.token_embeddings.equals(other.token_embeddings):
        raise InputError(
            f"{names} have representations of different models (their token_embeddings.parquet differ); "
            "extract both with one backbone"
        )
