"""The manuscript's published numbers, as a table: arXiv 2504.10422, read from its Tables 1 to 13.

Two sites: `mimic` (MIMIC-IV 3.1) and `ucmc` (University of Chicago Medicine, March 2020 to March 2022). None has an
interval there. What a term or metric means is in `published_section.QUANTITIES`.
"""

from __future__ import annotations

from itertools import product

import polars as pl

from clinrep.analysis.config import PUBLISHED_ROLES as ROLES

OUTCOMES = ("in_hospital_death", "long_length_of_stay", "icu_admission", "imv_event")
SUBGROUPS = ("inliers", "outliers", "all")
TERMS = ("path_length", "max_jump", "anomaly_score")
SCHEMA = {
    "source": pl.String,
    "role": pl.String,
    "model": pl.String,
    "split": pl.String,
    "outcome": pl.String,
    "subgroup": pl.String,
    "quantity": pl.String,
    "published": pl.Float64,
}
PROBED, FINE_TUNED, LOCAL, REGRESSION, COHORT = "probe", "fine-tuned", "fine-tuned locally", "regression", "cohort"

# Tables 3, 4 and 5: AUROC on test by outcome, in the order of OUTCOMES.
_AUROC: dict[tuple[str, str, str, str], tuple[float, float, float, float]] = {
    ("Table 3", PROBED, "mimic", "inliers"): (0.877, 0.772, 0.791, 0.837),
    ("Table 3", PROBED, "mimic", "outliers"): (0.869, 0.747, 0.884, 0.832),
    ("Table 3", PROBED, "mimic", "all"): (0.902, 0.783, 0.795, 0.853),
    ("Table 3", PROBED, "ucmc", "inliers"): (0.856, 0.652, 0.556, 0.615),
    ("Table 3", PROBED, "ucmc", "outliers"): (0.874, 0.651, 0.507, 0.610),
    ("Table 3", PROBED, "ucmc", "all"): (0.878, 0.651, 0.529, 0.610),
    ("Table 4", FINE_TUNED, "mimic", "inliers"): (0.882, 0.776, 0.792, 0.848),
    ("Table 4", FINE_TUNED, "mimic", "outliers"): (0.895, 0.785, 0.867, 0.885),
    ("Table 4", FINE_TUNED, "mimic", "all"): (0.910, 0.789, 0.795, 0.867),
    ("Table 4", FINE_TUNED, "ucmc", "inliers"): (0.905, 0.740, 0.606, 0.653),
    ("Table 4", FINE_TUNED, "ucmc", "outliers"): (0.908, 0.755, 0.623, 0.682),
    ("Table 4", FINE_TUNED, "ucmc", "all"): (0.914, 0.750, 0.615, 0.675),
    ("Table 5", LOCAL, "ucmc", "inliers"): (0.885, 0.716, 0.760, 0.793),
    ("Table 5", LOCAL, "ucmc", "outliers"): (0.883, 0.733, 0.767, 0.811),
    ("Table 5", LOCAL, "ucmc", "all"): (0.892, 0.727, 0.766, 0.808),
}

# Tables 6 to 9 (mimic) and 10 to 13 (ucmc), in the order of OUTCOMES: coefficients in the order of TERMS (of unscaled
# regressors), number of test stays, McFadden's pseudo R2.
_REGRESSIONS: dict[str, tuple[tuple[float, float, float, int, float], ...]] = {
    "mimic": (
        (4.839e-05, 0.3876, 6.9725, 90240, 0.1443),
        (1.907e-05, 0.5030, 4.5664, 90240, 0.0641),
        (-3.515e-05, 0.8211, 10.8883, 77135, 0.0480),
        (-1.432e-06, 0.5369, 13.7308, 86422, 0.0837),
    ),
    "ucmc": (
        (5.628e-05, 1.3095, 6.6050, 53991, 0.2208),
        (2.263e-05, 0.9597, 2.8881, 53991, 0.0819),
        (2.428e-05, 0.9318, 6.6612, 46219, 0.0452),
        (3.495e-05, 1.1174, 6.2521, 51350, 0.0856),
    ),
}

# Tables 1 and 2 by (role, split): stays, mean tokens of 24 h (cut at 1,024 tokens; ours are not), then share of
# them with the event, each of inliers, outliers and all.
_COHORTS: dict[tuple[str, str], dict[str, tuple[float, float, float]]] = {
    ("mimic", "train"): {
        "num_subjects": (261736, 27941, 289677),
        "num_tokens": (62.9, 465.2, 101.7),
        "in_hospital_death": (0.016, 0.105, 0.024),
        "long_length_of_stay": (0.208, 0.434, 0.230),
    },
    ("mimic", "test"): {
        "num_subjects": (82429, 7811, 90240),
        "num_tokens": (61.8, 467.1, 96.9),
        "in_hospital_death": (0.014, 0.107, 0.022),
        "long_length_of_stay": (0.198, 0.449, 0.220),
    },
    ("ucmc", "test"): {
        "num_subjects": (27917, 26074, 53991),
        "num_tokens": (352.0, 462.7, 405.4),
        "in_hospital_death": (0.015, 0.040, 0.027),
        "long_length_of_stay": (0.226, 0.283, 0.254),
    },
}
# The same tables, all stays of a split: mean age, share of women, and of stays in which the event is within the 24 h.
_ALL_STAYS = {
    ("mimic", "train"): {"age": 60.4, "female": 0.526, "icu_admission": 0.156, "imv_event": 0.048},
    ("mimic", "test"): {"age": 61.3, "female": 0.534, "icu_admission": 0.145, "imv_event": 0.042},
    ("ucmc", "test"): {"age": 54.9, "female": 0.561, "icu_admission": 0.144, "imv_event": 0.049},
}
# The same tables, all stays of a split: validation and the second site's train.
_SPLIT_SIZES = {("mimic", "val"): 42857, ("ucmc", "train"): 6997, ("ucmc", "val"): 4570}


def list_published() -> pl.DataFrame:
    """Return a row a published number: source, role, model, split, outcome, subgroup, quantity, published.

    Outcome is '' where the number is of stays alone.
    """
    rows = [*_list_cohorts(), *_list_scores(), *_list_regressions()]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _list_cohorts() -> list[tuple[str, str, str, str, str, str, str, float]]:
    rows = []
    source = {"mimic": "Table 1", "ucmc": "Table 2"}
    for (role, split), quantities in _COHORTS.items():
        for name, values in quantities.items():
            outcome, quantity = ("", name) if name.startswith("num_") else (name, "prevalence")
            rows += [
                (source[role], role, COHORT, split, outcome, subgroup, quantity, float(value))
                for subgroup, value in zip(SUBGROUPS, values, strict=True)
            ]
    for (role, split), numbers in _ALL_STAYS.items():
        for name, value in numbers.items():
            outcome, quantity = (name, "seen_before") if name in OUTCOMES else ("", name)
            rows.append((source[role], role, COHORT, split, outcome, "all", quantity, value))
    for (role, split), size in _SPLIT_SIZES.items():
        rows.append((source[role], role, COHORT, split, "", "all", "num_subjects", float(size)))
    return rows


def _list_scores() -> list[tuple[str, str, str, str, str, str, str, float]]:
    return [
        (source, role, model, "test", outcome, subgroup, "auroc", value)
        for (source, model, role, subgroup), values in _AUROC.items()
        for outcome, value in zip(OUTCOMES, values, strict=True)
    ]


def _list_regressions() -> list[tuple[str, str, str, str, str, str, str, float]]:
    rows = []
    for number, (role, outcome) in enumerate(product(ROLES, OUTCOMES), start=6):
        values = _REGRESSIONS[role][OUTCOMES.index(outcome)]
        for name, value in zip((*TERMS, "num_subjects", "pseudo_r2"), values, strict=True):
            rows.append((f"Table {number}", role, REGRESSION, "test", outcome, "all", name, float(value)))
    return rows
