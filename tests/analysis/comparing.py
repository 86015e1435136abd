"""Models of invented stays, for the tests of comparisons, alarms and decision curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import Site
from clinrep.analysis.people import People
from clinrep.analysis.probes import NO_PROBE, Predicted
from clinrep.analysis.study import Study


def make_config(**settings) -> AnalyzeConfig:
    """Return settings of stage 04 for site `here`, without files, showing every cell."""
    folders = {"here": "x"}
    given = {"num_bootstraps": 200, "min_cell_count": 0} | settings
    return AnalyzeConfig(output_dir="x", timelines_dir=folders, representations_dir=folders, **given)


def make_predicted(labels, columns, patients=None, site="here", outcome="died", probe=NO_PROBE) -> list[Predicted]:
    """Return one model for each entry of `columns` (name: probabilities, or None for one that could not be fitted)."""
    labels = np.asarray(labels, bool)
    patients = np.arange(labels.size) if patients is None else np.asarray(patients)
    ids = pl.Series("subject_id", [f"{site}{number}" for number in range(labels.size)])
    return [
        Predicted(
            *(site, model, probe, outcome, ids, labels, patients),
            None if probabilities is None else np.asarray(probabilities, float),
            "" if probabilities is not None else "not fitted: no stay with the event in train",
        )
        for model, probabilities in columns.items()
    ]


def make_study(predicted, config, directory=Path("x")) -> Study:
    """Return a study of one site that holds these predictions and nothing else."""
    site = Site("here", "backbone", *[pl.DataFrame()] * 4, {}, {})
    outcomes = list(dict.fromkeys(item.outcome for item in predicted))
    study = Study(config, directory, [site], outcomes, [], predicted, pl.DataFrame(), pl.DataFrame())
    study.__dict__["people"] = People(frozenset(), config.min_cell_count)
    return study
