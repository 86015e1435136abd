"""Risk over time: what the probes say after every token, from the hidden states that stage 03 stored.

T tokens of a stay, D width. A causal transformer's state at a token is that of the sequence cut there, so
one pass gives what running the model on every prefix would.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinrep import artifacts
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import TEST_SPLIT, Site, describe_representation
from clinrep.analysis.probes import FittedProbe
from clinrep.artifacts import ArtifactError
from clinrep.config import InputError
from clinrep.run import Run

logger = logging.getLogger("clinrep")


def keep_states(states: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the states (T, D): the last one of every prefix."""
    return states


def average_so_far(states: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean (T, D) of the states (T, D) up to and with each."""
    return np.cumsum(states, axis=0) / np.arange(1, len(states) + 1)[:, None]


# pooling -> its vectors of every prefix of a stay, from the stay's states; a position_N has none before token N
PREFIX_POOLINGS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "last_token": keep_states,
    "random_token": keep_states,
    "mean": average_so_far,
}


def compute_risk(probe: Any, pooling: str, states: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the probability (T,) after every token of one stay.

    Args:
        probe: fitted scikit-learn classifier.
        pooling: of the vectors it was fitted on, a name in `PREFIX_POOLINGS`.
        states: hidden states (T, D) of the layer it was fitted on. From fp32 states the result equals the
            prefixes' to 1e-5; rounding them to float16 changes the logit by at most 2^-11 sum |w x / s| (w the
            weight of the standardized feature, s its standard deviation, x its value), the probability by a
            quarter of that.
    """
    probabilities: NDArray[np.float64] = probe.predict_proba(PREFIX_POOLINGS[pooling](states.astype(np.float64)))[:, 1]
    return probabilities


def name_followed(site: Site, probe: FittedProbe, is_several: bool) -> str:
    """Return `model` of a probe in the table, after the site's name where there are several sites."""
    prefix = f"{site.name} " if is_several else ""
    return f"{prefix}{describe_representation(site.source, probe.representation)} {probe.name}"


def write_risk_over_time(run: Run, sites: list[Site], probes: list[FittedProbe], config: AnalyzeConfig) -> None:
    """Write risk_over_time.parquet, part by part, in order of sites, then of parts, then of probes.

    Its rows are the labelled test stays that have hidden states. `model` is the representation and the probe,
    for example `backbone layer 4 random_token logistic_regression`, after the site's name where there are several.

    Raises:
        InputError: no probe can be applied to single prefixes, or states of a layer are not there.
    """
    usable = [one for one in probes if one.representation[1] in PREFIX_POOLINGS and one.probe is not None]
    if not usable:
        raise InputError(
            f"risk_over_time is true but no probe was fitted on one of the poolings {', '.join(PREFIX_POOLINGS)}; "
            "extract one of these in stage 03 and name it in poolings"
        )
    artifacts.write_frames("risk_over_time", _iterate_risk(sites, usable, config), run.directory)
    run.rows["risk_over_time"] = artifacts.count_rows("risk_over_time", run.directory)


def _iterate_risk(sites: list[Site], probes: list[FittedProbe], config: AnalyzeConfig) -> Iterator[pl.DataFrame]:
    for site in sites:
        directory = Path(config.representations_dir[site.name])
        if not artifacts.find_parts("hidden_states", directory, TEST_SPLIT):
            logger.info("%s: no hidden states, so no risk over time", site.name)
            continue
        for part in artifacts.iterate_table("hidden_states", directory, TEST_SPLIT):
            yield from _follow_part(part, site, probes, len(sites) > 1, directory)


def _follow_part(
    part: pl.DataFrame, site: Site, probes: list[FittedProbe], is_several: bool, directory: Path
) -> Iterator[pl.DataFrame]:
    """Yield the rows of one part of the hidden states, one frame for each layer."""
    for layer in sorted({probe.representation[0] for probe in probes}):
        states = part.filter(pl.col("layer") == layer).sort("subject_id", "position")
        of_layer = [probe for probe in probes if probe.representation[0] == layer]
        stays = _find_stays(states, site, f"{directory}/hidden_states/{TEST_SPLIT}, layer {layer}")
        if part.height and not states.height:
            raise InputError(
                f"{directory}/hidden_states/{TEST_SPLIT} has layers {sorted(part['layer'].unique())}, not the probes' "
                f"layer {layer}; name others in layers"
            )
        vectors = states["hidden_state"].to_numpy()
        yield pl.concat([_follow(states["time"], vectors, stays, site, probe, is_several) for probe in of_layer])


def _find_stays(states: pl.DataFrame, site: Site, what: str) -> pl.DataFrame:
    """Return subject_id, start (row of its first state) and length of every stay, checked to be whole."""
    stays = states.group_by("subject_id", maintain_order=True).agg(length=pl.len().cast(pl.Int64))
    stays = stays.with_columns(start=pl.col("length").cum_sum() - pl.col("length"))
    expected = np.arange(states.height) - np.repeat(stays["start"].to_numpy(), stays["length"].to_numpy())
    if not np.array_equal(states["position"].to_numpy(), expected):
        raise ArtifactError(f"{what}: the positions of a stay are not 0, 1, 2, ...; run 03_extract_reps.py again")
    num_unknown = stays.join(site.stays.filter(pl.col("split") == TEST_SPLIT), on="subject_id", how="anti").height
    if num_unknown:
        raise InputError(
            f"{what}: {num_unknown} of {stays.height} stays are not of the test split of the timelines; "
            "both must come from one run of 00_tokenize.py"
        )
    return stays


def _follow(
    all_times: pl.Series,
    vectors: NDArray[np.float16],
    stays: pl.DataFrame,
    site: Site,
    probe: FittedProbe,
    is_several: bool,
) -> pl.DataFrame:
    """Return the rows of one probe for the labelled ones of these stays."""
    labelled = site.select_labelled(probe.outcome, TEST_SPLIT).subject_ids
    kept = stays.filter(pl.col("subject_id").is_in(labelled.implode()))
    pooling = probe.representation[1]
    slices = [slice(start, start + length) for start, length in kept.select("start", "length").iter_rows()]
    risks = [compute_risk(probe.probe, pooling, vectors[one]) for one in slices]
    times = [all_times[one] for one in slices]
    lengths = kept["length"].to_numpy()
    return kept.select(
        "subject_id",
        split=pl.lit(TEST_SPLIT),
        model=pl.lit(name_followed(site, probe, is_several)),
        outcome=pl.lit(probe.outcome),
        times=artifacts.make_lists(pl.concat([all_times[:0], *times]), lengths),
        probability=artifacts.make_lists(pl.Series(np.concatenate([[], *risks]).astype(np.float32)), lengths),
    )
