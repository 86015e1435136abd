"""What stage 00 hands to the site report, made up: counts of a train site and of a new one."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from clinrep.ehr.quantiles import get_bin_words
from clinrep.ehr.site_report import compare_sites

SCHEMA = {
    "source": pl.String,
    "category": pl.String,
    "unit": pl.String,
    "value": pl.String,
    "num_events": pl.UInt64,
    "bin_counts": pl.List(pl.UInt64),
    "num_missing": pl.UInt64,
    "median": pl.Float64,
}
QUANTILES = {"category": pl.String, "unit": pl.String, "train_count": pl.UInt64, "edges": pl.List(pl.Float64)}
ZEROS = (0,) * 10


def make_row(
    category: str,
    *,
    bins: tuple[int, ...] | list[int] = ZEROS,
    num_events: int | None = None,
    source: str = "labs",
    unit: str | None = None,
    value: str | None = None,
    num_missing: int = 0,
    median: float | None = None,
) -> tuple[Any, ...]:
    """Return one row; without num_events there are as many as in the bins and missing."""
    count = sum(bins) + num_missing if num_events is None else num_events
    return source, category, unit, value, count, list(bins), num_missing, median


def make_categories(*rows: tuple[Any, ...]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SCHEMA, orient="row")


def make_vocabulary(*tokens: str) -> pl.DataFrame:
    words = ["PAD", "UNK", "TL_START", "TL_END", *get_bin_words(10), "MISSING_VALUE", *tokens]
    table = pl.DataFrame({"token": words, "kind": "labs", "train_count": pl.Series([0] * len(words), dtype=pl.UInt64)})
    return table.with_row_index("token_id")


def make_quantiles(*keys: tuple[str, str | None]) -> pl.DataFrame:
    rows = [(category, unit, 100, [float(i) for i in range(1, 10)]) for category, unit in keys]
    return pl.DataFrame(rows, schema=QUANTILES, orient="row")


def compare(
    train: list[Any],
    site: list[Any],
    known: tuple[str, ...] = ("LAB_x",),
    keys: tuple[tuple[str, str | None], ...] = (("LAB_x", None),),
    num_train_stays: int = 100,
    num_site_stays: int = 100,
    **more: Any,
) -> pl.DataFrame:
    return compare_sites(
        make_categories(*train),
        make_categories(*site),
        make_vocabulary(*known),
        make_quantiles(*keys),
        num_train_stays,
        num_site_stays,
        **more,
    )


def compare_one(train: list[Any], site: list[Any], **more: Any) -> dict[str, Any]:
    report = compare(train, site, **more)
    assert report.height == 1
    return report.row(0, named=True)


BEYOND = {
    "source": pl.String,
    "category": pl.String,
    "unit": pl.String,
    "num_beyond": pl.UInt64,
    "median_beyond": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "action": pl.String,
}


def make_beyond(
    category: str,
    num_beyond: int,
    median: float | None,
    bounds: tuple[float, float],
    *,
    action: str = "drop",
    source: str = "labs",
    unit: str | None = None,
) -> pl.DataFrame:
    """Return the one row of values beyond a range."""
    row = (source, category, unit, num_beyond, median, *bounds, action)
    return pl.DataFrame([row], schema=BEYOND, orient="row")


def make_names(*rows: tuple[str, str, str | None]) -> pl.DataFrame:
    """Return (source, token, category as the tables call it)."""
    return pl.DataFrame(list(rows), schema=["source", "category", "name"], orient="row").cast(pl.String)


class FakeSites:
    """Two sites whose values are drawn, binned with edges learned on the first, and counted."""

    def __init__(self, num_train_stays: int = 7000, num_site_stays: int = 2500, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.num_train_stays, self.num_site_stays = num_train_stays, num_site_stays
        self.train: list[tuple[Any, ...]] = []
        self.site: list[tuple[Any, ...]] = []
        self.tokens: list[str] = []
        self.quantiles: list[pl.DataFrame] = []

    def add_numeric(
        self,
        category: str,
        train: np.ndarray,
        site: np.ndarray,
        *,
        source: str = "labs",
        unit: str | None = None,
        site_unit: str | None = None,
        missing: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        edges = np.quantile(train, np.arange(1, 10) / 10)
        row = (category, unit, len(train), edges.tolist())
        quantiles = pl.DataFrame([row], schema=QUANTILES, orient="row")
        self.quantiles.append(quantiles)
        self.tokens.append(category)
        site_unit = site_unit or unit
        for rows, numbers, its_unit, share in (
            (self.train, train, unit, missing[0]),
            (self.site, site, site_unit, missing[1]),
        ):
            if not len(numbers):
                continue
            bins = np.bincount(np.digitize(numbers, edges), minlength=10) if its_unit == unit else np.zeros(10, int)
            num_missing = int(len(numbers) * share / (1 - share))
            rows.append(
                make_row(
                    category,
                    source=source,
                    unit=its_unit,
                    bins=bins.tolist(),
                    num_events=len(numbers) + num_missing,
                    num_missing=num_missing,
                    median=float(np.median(numbers)),
                )
            )

    def add_words(self, source: str, category: str, train: dict[str, int], site: dict[str, int]) -> None:
        """Add a categorical event with its values; the tokens are those of train."""
        self.tokens += [category, *train]
        for rows, counts in ((self.train, train), (self.site, site)):
            rows += [make_row(category, source=source, value=word, num_events=n) for word, n in counts.items()]

    def add_tokens(self, source: str, train: dict[str, int], site: dict[str, int]) -> None:
        """Add events that are one token and no value."""
        self.tokens += train
        for rows, counts in ((self.train, train), (self.site, site)):
            rows += [make_row(token, source=source, num_events=count) for token, count in counts.items()]

    def get_arguments(self) -> dict[str, Any]:
        """Return the arguments of compare_sites."""
        return {
            "train": make_categories(*self.train),
            "site": make_categories(*self.site),
            "vocabulary": make_vocabulary(*dict.fromkeys(self.tokens)),
            "quantiles": pl.concat(self.quantiles),
            "num_train_stays": self.num_train_stays,
            "num_site_stays": self.num_site_stays,
        }


def make_plausible_sites() -> FakeSites:
    """Return two sites of an ICU: units, spelling, charting and patients differ in known places."""
    sites = FakeSites()
    draw = sites.rng
    same = {
        "LAB_sodium": (139, 0.03, "mmol/l"),
        "LAB_potassium": (4.1, 0.13, "mmol/l"),
        "LAB_chloride": (104, 0.04, "mmol/l"),
        "LAB_hemoglobin": (10.2, 0.2, "g/dl"),
        "LAB_platelet_count": (190, 0.5, "10*3/ul"),
    }
    for category, (middle, spread, unit) in same.items():
        train, site = (middle * np.exp(draw.normal(0, spread, n)) for n in (41_000, 15_500))
        sites.add_numeric(category, train, site, unit=unit, missing=(0.004, 0.006))
    lognormal = lambda middle, spread, n: middle * np.exp(draw.normal(0, spread, n))  # noqa: E731
    sites.add_numeric(
        "LAB_glucose_serum", lognormal(128, 0.35, 38_000), lognormal(7.4, 0.3, 14_000), unit="mg/dl", site_unit="mmol/l"
    )
    sites.add_numeric("LAB_creatinine", lognormal(1.0, 0.6, 37_000), lognormal(92, 0.6, 13_000), unit="mg/dl")
    sites.add_numeric("LAB_lactate", lognormal(1.6, 0.6, 11_000), lognormal(2.1, 0.75, 5_200), unit="mmol/l")
    sites.add_numeric(
        "LAB_magnesium", lognormal(2.0, 0.15, 22_000), lognormal(2.02, 0.15, 9_000), unit="mg/dl", site_unit="mg/dl."
    )
    sites.add_numeric("LAB_troponin_i", lognormal(0.4, 1.5, 2_000), lognormal(0.6, 1.5, 14), unit="ng/ml")
    sites.add_numeric("LAB_ferritin", lognormal(300, 1, 1_900), np.array([]), unit="ng/ml")
    sites.add_numeric(
        "LAB_ph_arterial", draw.normal(7.37, 0.08, 9_000), draw.normal(7.35, 0.09, 3_900), missing=(0.01, 0.38)
    )
    vitals = {"VITAL_heart_rate": (86, 18, 260_000, 101_000), "VITAL_sbp": (122, 21, 250_000, 99_000)}
    for category, (middle, spread, n, m) in vitals.items():
        sites.add_numeric(
            category,
            draw.normal(middle, spread, n).round(),
            draw.normal(middle + 3, spread, m).round(),
            source="vitals",
        )
    sites.add_numeric(
        "VITAL_temp_c",
        draw.normal(36.9, 0.6, 90_000).round(1),
        (draw.normal(36.9, 0.6, 34_000) * 1.8 + 32).round(1),
        source="vitals",
    )
    sites.add_numeric(
        "VITAL_spo2",
        np.minimum(draw.normal(97, 2.5, 240_000).round(), 100),
        np.minimum(draw.normal(96, 2.5, 15_000).round(), 100),
        source="vitals",
    )
    sites.add_numeric(
        "MED_norepinephrine",
        lognormal(0.08, 0.8, 30_000),
        lognormal(6.5, 0.8, 8_000),
        source="medications",
        unit="mcg/kg/min",
    )
    sites.add_numeric(
        "MED_propofol", lognormal(25, 0.5, 24_000), lognormal(34, 0.6, 9_100), source="medications", unit="mcg/kg/min"
    )
    sites.add_words(
        "assessments_categorical",
        "ASSESSMENT_cam",
        {"ASSESSMENT_cam=no": 21_000, "ASSESSMENT_cam=yes": 6_000, "ASSESSMENT_cam=unable": 900},
        {"ASSESSMENT_cam=no": 4_100, "ASSESSMENT_cam=yes": 2_900, "ASSESSMENT_cam=not_done": 1_200},
    )
    sites.add_numeric(
        "ASSESSMENT_gcs_total",
        draw.choice([3, 7, 10, 14, 15], 60_000, p=[0.05, 0.1, 0.1, 0.15, 0.6]).astype(float),
        draw.choice([3, 7, 10, 14, 15], 22_000, p=[0.08, 0.12, 0.12, 0.16, 0.52]).astype(float),
        source="assessments_numeric",
    )
    sites.add_tokens(
        "adt",
        {"ADT_icu": 8_200, "ADT_ward": 9_900, "ADT_ed": 5_000, "ADT_procedural": 2_100},
        {"ADT_icu": 3_100, "ADT_ward": 3_300, "ADT_ed": 1_900, "ADT_stepdown": 1_450},
    )
    sites.add_tokens("position", {"POSITION_prone": 1_800}, {})
    sites.add_tokens(
        "static",
        {
            "TL_START": 7_000,
            "SEX_female": 3_200,
            "SEX_male": 3_800,
            "RACE_white": 3_000,
            "RACE_black": 3_300,
            "RACE_other": 695,
            "RACE_<unknown & declined>": 5,
        },
        {
            "TL_START": 2_500,
            "SEX_female": 1_090,
            "SEX_male": 1_410,
            "RACE_white": 2_100,
            "RACE_black": 210,
            "RACE_other": 190,
        },
    )
    return sites
