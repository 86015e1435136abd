"""Models of one site and outcome side by side, and any statistic of them in the same bootstrap replicates.

Shapes: R replicates, N stays, M models, K values of a statistic, G groups of tied probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clinrep.analysis.bootstrap import CHUNK_WEIGHTS, draw_patient_counts, find_patients_with_event
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.metrics import Floats, Ranking, rank
from clinrep.analysis.probes import Predicted
from clinrep.analysis.scores import explain_no_interval, explain_too_few, group_predicted
from clinrep.config import InputError
from clinrep.distributed import derive_seed

# what a statistic is: a ranking, and weights (R, N) whose columns are in its order -> (K, R)
Statistic = Callable[[Ranking, Floats], Floats]


@dataclass(frozen=True)
class ModelGroup:
    """The models of one site and outcome, judged on the same stays."""

    site: str
    outcome: str
    items: list[Predicted]
    rankings: list[Ranking | None]
    """One for each item; None where it has no probabilities, or the group too few events for an estimate."""
    no_estimate: str
    """Why there are no numbers; '' where there are."""
    no_interval: str
    """Why there are no intervals; '' where there are."""

    @property
    def patients(self) -> NDArray[np.intp]:
        """(N,) number of each stay's patient."""
        return self.items[0].patients

    @property
    def labels(self) -> NDArray[np.bool_]:
        """(N,) whether each stay has the event."""
        return self.items[0].labels

    @property
    def num_subjects(self) -> int:
        """Labelled test stays."""
        return self.labels.size

    @property
    def num_events(self) -> int:
        """Those with the event."""
        return int(self.labels.sum())

    def explain(self, index: int) -> str:
        """Return why model `index` has no numbers, or ''."""
        return self.no_estimate or self.items[index].reason


def group_models(predicted: list[Predicted], config: AnalyzeConfig) -> list[ModelGroup]:
    """Return the models by site and outcome, in the order of `predicted`; of runs of stage 02 the main ones.

    Raises:
        InputError: models of one group were judged on different stays, or lack a probability.
    """
    main = [item for item in predicted if item.run is None or item.run.is_main]
    return [_build_group(items, config) for items in group_predicted(main)]


def _build_group(items: list[Predicted], config: AnalyzeConfig) -> ModelGroup:
    first = items[0]
    for item in items:
        where = f"{item.site}, {item.outcome}, {item.probe} {item.model}"
        if not item.subject_ids.equals(first.subject_ids):
            raise InputError(
                f"{where}: predicted {item.subject_ids.len()} stays, {first.model} {first.subject_ids.len()} or "
                "others; models are compared on the same stays: predict the same test split with each"
            )
        num_missing = 0 if item.probabilities is None else int((~np.isfinite(item.probabilities)).sum())
        if num_missing:
            raise InputError(
                f"{where}: {num_missing} of {first.labels.size} stays have no probability; predict them all again"
            )
    counts = first.labels.size, int(first.labels.sum())
    no_estimate = explain_too_few(*counts, config.min_events_for_estimate, config.min_cell_count)
    rankings = [
        None if no_estimate or item.probabilities is None else rank(item.labels, item.probabilities) for item in items
    ]
    no_interval = no_estimate or explain_no_interval(
        first.labels, first.patients, config.min_events_for_interval, config.min_cell_count
    )
    return ModelGroup(first.site, first.outcome, items, rankings, no_estimate, no_interval)


def estimate_statistic(group: ModelGroup, compute: Statistic) -> Floats:
    """Return (M, K) a statistic of every model on the stays as they are; NaN for a model without a ranking."""
    weights = np.ones((1, group.num_subjects))
    values = [None if ranking is None else compute(ranking, weights)[:, 0] for ranking in group.rankings]
    width = next((value.size for value in values if value is not None), 0)
    return np.array([np.full(width, np.nan) if value is None else value for value in values]).reshape(
        len(values), width
    )


def replicate_statistic(group: ModelGroup, compute: Statistic, config: AnalyzeConfig) -> Floats | None:
    """Return (M, K, R) a statistic of every model in every replicate, or None where there are no intervals.

    The replicates are those of `scores.parquet`: drawn by patient, the same for all models of the group, other
    ones for each site, so that differences of models are paired and those of sites independent. NaN where
    undefined and for a model without a ranking.
    """
    ranked = [index for index, ranking in enumerate(group.rankings) if ranking is not None]
    if group.no_interval or not ranked:
        return None
    seed = derive_seed(config.seed, f"bootstrap/{group.site}/{group.outcome}")
    num_replicates = config.num_bootstraps
    chunk_rows = max(1, CHUNK_WEIGHTS // group.num_subjects)
    values: Floats | None = None
    first = 0
    has_event = find_patients_with_event(group.labels, group.patients)
    for counts in draw_patient_counts(has_event, num_replicates, seed, chunk_rows):
        last = first + len(counts)
        for index in ranked:
            ranking = group.rankings[index]
            assert ranking is not None
            computed = compute(ranking, np.take(counts, group.patients[ranking.order], axis=1))
            if values is None:
                values = np.full((len(group.items), len(computed), num_replicates), np.nan)
            values[index, :, first:last] = computed
        first = last
    return values
