"""The numbers at the head of the report: how many stays, how many events, how good the best model is."""

from __future__ import annotations

from typing import Any

import polars as pl

from clinrep.analysis.inputs import TEST_SPLIT, Site
from clinrep.analysis.predictions import ZERO_SHOT
from clinrep.analysis.scores import ALL
from clinrep.analysis.study import Study
from clinrep.analysis.tables import format_score, label_model, label_outcome


def summarize_sites(study: Study) -> list[dict[str, Any]]:
    """Return what was analyzed at each site: counts and sources as words, and `best`, a row an outcome."""
    people = study.people
    return [
        {
            "name": site.name,
            "num_stays": people.format(site.stays.height, "stays", site.name, ALL),
            "num_patients": people.format(site.stays["patient_id"].n_unique(), "patients", site.name, ALL),
            "num_test": people.format(
                site.stays.filter(pl.col("split") == TEST_SPLIT).height, "stays", site.name, TEST_SPLIT
            ),
            "is_fitted": site.name == study.config.fitted_site,
            "classified": [
                label_outcome(outcome, study.config)
                for outcome in study.outcomes
                if site.predictions.get(outcome, {}).keys() - {ZERO_SHOT}
            ],
            "best": [row for outcome in study.outcomes if (row := _find_best(study, site, outcome))],
        }
        for site in study.sites
    ]


def _find_best(study: Study, site: Site, outcome: str) -> dict[str, str] | None:
    """Return the model with the highest AUROC of all test stays, or why no model has one; None without models."""
    scores = study.scores.filter(site=site.name, outcome=outcome, metric="auroc", subgroup=ALL)
    if scores.is_empty():
        return None
    people, where = study.people, (site.name, outcome, TEST_SPLIT)
    best = scores.sort("estimate", descending=True, nulls_last=True, maintain_order=True).row(0, named=True)
    return {
        "outcome": label_outcome(outcome, study.config),
        "num_subjects": people.format(best["num_subjects"], "labelled", *where),
        "num_events": people.format(best["num_events"], "events", *where),
        "score": format_score(best),
        "model": label_model(best["model"], best["probe"]) if best["estimate"] is not None else "",
    }
