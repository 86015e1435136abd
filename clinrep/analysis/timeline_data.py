"""What the page of timelines shows of a stay: its tokens, and what was computed of each, put together by place.

T tokens of the cut sequence. Every table is checked to be of the same tokens before places are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray

from clinrep import artifacts
from clinrep.analysis.inputs import TEST_SPLIT, Site
from clinrep.analysis.predictions import find_prediction_runs
from clinrep.analysis.study import Study
from clinrep.artifacts import ArtifactError
from clinrep.config import InputError
from clinrep.distributed import derive_seed
from clinrep.modality import load_modality


@dataclass(frozen=True)
class Risk:
    """What one model said of one outcome after every token."""

    model: str
    outcome: str
    probabilities: NDArray[np.float32]
    """(T,)"""


@dataclass
class ShownStay:
    """One stay, by place in its sequence."""

    subject_id: str
    tokens: NDArray[np.uint32]
    """(T,) token ids."""
    times: NDArray[np.datetime64]
    """(T,) UTC; for checks, never shown."""
    bits: NDArray[np.float32] | None = None
    """(T - 1,) of tokens 2 to T; None where stage 03 did not write them."""
    jumps: NDArray[np.float32] | None = None
    """(T - 1,) from token t to t + 1."""
    risks: list[Risk] = field(default_factory=list)


@dataclass(frozen=True)
class Lane:
    """One thing computed of every token, and how one gets it where it is missing."""

    name: str
    is_there: bool
    command: str
    remark: str = ""
    """What else is to say, for example of rows that could not be used."""


def read_stays(study: Study, site: Site) -> tuple[list[ShownStay], list[Lane]]:
    """Return the stays the settings ask for, in no order that tells who they are, and what is known of their tokens.

    Raises:
        InputError: an id without a timeline, or a table of stage 03 that is of other tokens than the timelines cut as
            its saved settings say.
    """
    timelines, representations = (
        Path(group[site.name]) for group in (study.config.timelines_dir, study.config.representations_dir)
    )
    stays = _cut_timelines(study, timelines, representations, choose_stays(study, site))
    ids = [stay.subject_id for stay in stays]
    run_again = f"python 03_extract_reps.py --config {representations / 'config.yaml'} --output_dir NEW"
    lanes = [
        _add_bits(stays, representations, ids, f"{run_again} --information true"),
        _add_jumps(stays, representations, ids, f"{run_again} --trajectories true"),
        _add_risks(study, site, stays, ids),
    ]
    return stays, lanes


def choose_stays(study: Study, site: Site) -> list[str]:
    """Return the ids asked for, shuffled, or a random sample of test; those with a risk over time come first."""
    config = study.config.timelines
    generator = np.random.default_rng(derive_seed(study.config.seed, "timelines"))
    if config.subject_ids is not None:
        unknown = set(config.subject_ids) - set(site.stays["subject_id"])
        if unknown:
            raise InputError(
                f"timelines.subject_ids: {len(unknown)} of {len(config.subject_ids)} ids have no timeline at site "
                f"{site.name}; take ids from {study.config.timelines_dir[site.name]}/subjects.parquet"
            )
        return [str(one) for one in generator.permutation(sorted(config.subject_ids))]
    known = site.stays.filter(pl.col("split") == TEST_SPLIT)["subject_id"].sort()
    mixed = known.gather(generator.permutation(len(known)))
    followed = {one for _, _, rows in _iterate_risks(study, site, mixed.to_list()) for one in rows["subject_id"]}
    is_last = mixed.is_in(list(followed)).not_() if followed else pl.repeat(False, len(mixed), eager=True)
    order = np.argsort(is_last.to_numpy(), kind="stable")
    return mixed.gather(order[: config.num_stays]).to_list()


def _cut_timelines(study: Study, timelines: Path, representations: Path, ids: list[str]) -> list[ShownStay]:
    """Return what stage 03 saw of these stays, in their order."""
    path = representations / "config.yaml"
    try:
        saved = yaml.safe_load(path.read_text(encoding="utf-8"))
        length, truncation = int(saved["max_length"]), str(saved["truncation"])
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"{path} does not say how stage 03 cut the timelines (max_length, truncation: {error}); run "
            "03_extract_reps.py again, or leave timelines.html out with --timelines.num_stays 0"
        ) from error
    modality = load_modality(study.config.modality)
    sequences = modality.load_sequences(str(timelines), length, truncation=truncation, subject_ids=ids)
    places = {one: row for row, one in enumerate(sequences.subjects["subject_id"])}
    rows = [places[one] for one in ids if one in places]
    known = sequences.subjects["subject_id"]
    return [ShownStay(known[row], sequences.get(row), sequences.get_times(row)) for row in rows]


def _add_bits(stays: list[ShownStay], directory: Path, ids: list[str], command: str) -> Lane:
    rows = _read_rows("information", directory, ids)
    for stay in stays:
        if stay.subject_id in rows:
            row = rows[stay.subject_id]
            _check_places(stay, row, "bits", f"{directory}/information")
            if not np.array_equal(row["token_ids"].to_numpy(), stay.tokens):
                raise _explain_other(f"{directory}/information", "has other tokens")
            stay.bits = row["bits"].to_numpy()
    return Lane("Surprise", bool(rows), command)


def _add_jumps(stays: list[ShownStay], directory: Path, ids: list[str], command: str) -> Lane:
    rows = _read_rows("trajectories", directory, ids)
    for stay in stays:
        if stay.subject_id in rows:
            row = rows[stay.subject_id]
            _check_places(stay, row, "jumps", f"{directory}/trajectories.parquet")
            stay.jumps = row["jumps"].to_numpy()
    return Lane("Jump", bool(rows), command)


def _add_risks(study: Study, site: Site, stays: list[ShownStay], ids: list[str]) -> Lane:
    """Add the risks of classifiers and probes; those of a model that saw other tokens are left out, and counted."""
    num_other, of_stay = 0, {stay.subject_id: stay for stay in stays}
    for source, label, rows in _iterate_risks(study, site, ids):
        for row in rows.iter_rows(named=True):
            stay = of_stay.get(row["subject_id"])
            if stay is None:
                continue
            probabilities = np.array(row["probability"], dtype=np.float32)
            times = np.array(row["times"], dtype="datetime64[us]")
            if len(probabilities) != len(times):
                raise ArtifactError(f"{source}: a stay has {len(times)} times and {len(probabilities)} probabilities")
            if np.array_equal(times, stay.times):
                stay.risks.append(Risk(f"{row['model']}{label}", row["outcome"], probabilities))
            else:
                num_other += 1
    given = study.config.predictions_dir.get(site.name)
    directory = find_prediction_runs(Path(given))[0] if given else Path("runs/NAME/02_finetune/OUTCOME")
    command = (
        f"python 02_finetune.py --config {directory / 'config.yaml'} --risk_over_time [test] --output_dir NEW, with "
        "the max_length and truncation of stage 03; or 04_analyze.py --risk_over_time true, for the probes"
    )
    is_there = any(stay.risks for stay in stays)
    remark = f"{num_other} left out: of a model that saw other tokens (another max_length or truncation)."
    return Lane("Risk", is_there, command, remark if num_other else "")


def _iterate_risks(study: Study, site: Site, ids: list[str]) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """Yield a table's path, what tells its models from those of other runs of an outcome, and its rows of these ids."""
    wanted = pl.col("subject_id").is_in(ids)
    given = study.config.predictions_dir.get(site.name)
    tables = []
    for directory in find_prediction_runs(Path(given)) if given else []:
        if artifacts.find_parts("risk_over_time", directory):
            tables.append((directory, artifacts.read_table("risk_over_time", directory).filter(wanted)))
    outcomes = [tuple(table["outcome"].unique().sort()) for _, table in tables]
    for (directory, table), of_table in zip(tables, outcomes, strict=True):
        label = f" {directory.name}" if outcomes.count(of_table) > 1 else ""
        yield str(directory / "risk_over_time.parquet"), label, table
    own = study.directory / "risk_over_time.parquet"
    if own.is_file():
        rows = artifacts.read_table_file("risk_over_time", own).filter(wanted)
        if len(study.sites) > 1:  # the writer puts the site's name before the model's
            rows = rows.filter(pl.col("model").str.starts_with(f"{site.name} "))
        yield str(own), "", rows


def _read_rows(name: str, directory: Path, ids: list[str]) -> dict[str, dict[str, pl.Series]]:
    """Return the rows of these stays by id, lists as series; {} where stage 03 was not asked for the table."""
    if not artifacts.find_parts(name, directory):
        return {}
    found: dict[str, dict[str, pl.Series]] = {}
    for part in artifacts.iterate_table(name, directory):
        for row in part.filter(pl.col("subject_id").is_in(ids)).iter_slices(1):
            if row["subject_id"][0] in found:
                raise ArtifactError(f"{directory}, table {name}: a stay occurs twice; run 03_extract_reps.py again")
            found[row["subject_id"][0]] = {
                column: row[column][0] for column, kind in row.schema.items() if isinstance(kind, pl.List)
            }
    return found


def _check_places(stay: ShownStay, row: dict[str, pl.Series], column: str, where: str) -> None:
    """Refuse a row whose times are not those of the tokens, or whose values are not one fewer."""
    num_times, num_values = len(row["times"]), len(row[column])
    if num_times != len(stay.times) or num_values != max(0, num_times - 1):
        raise _explain_other(
            where,
            f"has {num_times} times and {num_values} {column} of a stay with {len(stay.times)} tokens before the cut",
        )
    if not np.array_equal(row["times"].to_numpy(), stay.times):
        raise _explain_other(where, "has other times than the timelines")


def _explain_other(where: str, what: str) -> InputError:
    return InputError(
        f"{where} {what}: it was not made from these timelines with the max_length and truncation in its config.yaml; "
        "run 03_extract_reps.py again, or leave timelines.html out with --timelines.num_stays 0"
    )
