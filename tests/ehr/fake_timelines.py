"""A small made-up stage-00 directory, for tests of the stages that read one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from clinrep import artifacts

OUTCOMES = ("in_hospital_death", "long_length_of_stay", "icu_admission", "imv_event")
TOKEN_KINDS = {
    "special": ("TL_START", "TL_END", "PAD", "UNK"),
    "bin": tuple(f"Q{number}" for number in range(10)),
    "static": ("SEX_female", "SEX_male", "RACE_white", "RACE_other", "AGE"),
    "discharge": ("DSCG_home", "DSCG_expired"),
    "labs": ("LAB_sodium", "LAB_lactate", "LAB_creatinine"),
    "vitals": ("VTL_heart_rate", "VTL_sbp"),
    "adt": ("ADT_icu", "ADT_ward"),
    "respiratory_support": ("RESP_imv",),
}
# what tells which tokens mean an outcome
ZERO_SHOT_SETTINGS = {
    "discharge_tokens": [
        {"token": "DSCG_{category}", "column": "discharge_category"},
        {"token": "TL_END", "column": None},
    ],
    "sources": [
        {
            "name": name,
            "table": name,
            "token": token,
            "category_column": column,
            "value_column": None,
            "categorical_value_column": None,
            "normalize_value": None,
        }
        for name, token, column in (
            ("adt", "ADT_{category}", "location_category"),
            ("respiratory_support", "RESP_{category}", "device_category"),
        )
    ],
    "normalize": "snake_case",
    "token_style": "separate",
    "gap_minutes": [],
}
START = datetime(2150, 1, 1)
NUM_STATIC = 5  # tokens before the events


@dataclass
class _Stay:
    """One made-up hospitalization: sick patients have high bins, long stays and bad outcomes."""

    number: int
    is_sick: bool
    tokens: list[str]
    times: list[datetime]
    admission: datetime
    discharge: datetime


def write_fake_tokenizer_run(directory: Path, num_subjects: int = 40, seed: int = 0, max_events: int = 60) -> Path:
    """Write every table that 00_tokenize.py writes, but the ledger, and return `directory`.

    The first stays are train (70 %), then val (10 %, at least 2), then test. Bins repeat within a stay,
    so a model can learn something, and sickness drives bins and outcomes, so a probe can too.
    """
    rng = np.random.default_rng(seed)
    tokens = [(kind, token) for kind, names in TOKEN_KINDS.items() for token in names]
    ids = {token: number for number, (_, token) in enumerate(tokens)}
    stays = [_make_stay(number, rng, max_events) for number in range(num_subjects)]
    num_val = max(2, num_subjects // 10)
    splits = {"train": stays[: num_subjects * 7 // 10]}
    splits["val"] = stays[len(splits["train"]) : len(splits["train"]) + num_val]
    splits["test"] = stays[len(splits["train"]) + num_val :]
    counts = pl.Series([token for stay in splits["train"] for token in stay.tokens]).value_counts()
    count_of = dict(counts.iter_rows())
    vocabulary = pl.DataFrame(
        {
            "token_id": range(len(tokens)),
            "token": [token for _, token in tokens],
            "kind": [kind for kind, _ in tokens],
            "train_count": [count_of.get(token, 0) for _, token in tokens],
        },
        schema_overrides={"token_id": pl.UInt32, "train_count": pl.UInt64},
    )
    artifacts.write_table("vocabulary", vocabulary, directory)
    for split, members in splits.items():
        artifacts.write_table("timelines", _timelines(members, ids), directory, split)
    _write_others(directory, splits)
    settings = {
        "output_dir": str(directory),
        "modality": "ehr",
        "seed": seed,
        "static_tokens": [{"token": f"static token {number}"} for number in range(NUM_STATIC)],
        **ZERO_SHOT_SETTINGS,
        "window": {"origin": "admission", "length_hours": 24.0, "is_end_closed": False},
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(settings))
    artifacts.write_done(directory, "00_tokenize", {"vocabulary": vocabulary.height}, {})
    return directory


def read_token_ids(directory: Path, split: str) -> list[list[int]]:
    """Return the token ids of every timeline of a split, as plain lists."""
    paths = sorted((directory / "timelines" / split).glob("*.parquet"))
    return [ids for path in paths for ids in pl.read_parquet(path)["token_ids"].to_list()]


def _make_stay(number: int, rng: np.random.Generator, max_events: int) -> _Stay:
    is_sick = bool(rng.random() < 0.4)
    admission = START + timedelta(hours=int(rng.integers(0, 5000)))
    hours = float(rng.uniform(100, 400) if is_sick else rng.uniform(30, 150))
    discharge = admission + timedelta(hours=hours)
    tokens = ["TL_START", rng.choice(["SEX_female", "SEX_male"]), rng.choice(["RACE_white", "RACE_other"])]
    tokens += ["AGE", f"Q{rng.integers(0, 10)}"]
    times = [admission] * len(tokens)
    level = int(rng.integers(5, 10) if is_sick else rng.integers(0, 5))
    for offset in np.sort(rng.uniform(0, hours, size=int(rng.integers(1, max_events)))):
        name = rng.choice(TOKEN_KINDS["labs"] + TOKEN_KINDS["vitals"])
        tokens += [name, f"Q{np.clip(level + rng.integers(-1, 2), 0, 9)}"]
        times += [admission + timedelta(hours=float(offset))] * 2
    tokens += ["DSCG_expired" if is_sick and rng.random() < 0.5 else "DSCG_home", "TL_END"]
    times += [discharge] * 2
    return _Stay(number, is_sick, [str(token) for token in tokens], times, admission, discharge)


def _timelines(stays: list[_Stay], ids: dict[str, int]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "subject_id": [f"H{stay.number:04d}" for stay in stays],
            "token_ids": [[ids[token] for token in stay.tokens] for stay in stays],
            "times": [stay.times for stay in stays],
        },
        schema={"subject_id": pl.String, "token_ids": pl.List(pl.UInt32), "times": pl.List(pl.Datetime("us"))},
    )


def _write_others(directory: Path, splits: dict[str, list[_Stay]]) -> None:
    stays = [stay for members in splits.values() for stay in members]
    subject_ids = [f"H{stay.number:04d}" for stay in stays]
    patient_ids = [f"P{stay.number:04d}" for stay in stays]
    names = [split for split, members in splits.items() for _ in members]
    frame = pl.DataFrame({"patient_id": patient_ids, "subject_id": subject_ids, "split": names})
    artifacts.write_table("splits", frame, directory)
    subjects = pl.DataFrame(
        {
            "subject_id": subject_ids,
            "patient_id": patient_ids,
            "start": [stay.admission for stay in stays],
            "end": [stay.discharge for stay in stays],
            "age": [20.0 + stay.number % 60 for stay in stays],
            "sex": [stay.tokens[1].partition("_")[2] for stay in stays],
            "race": [stay.tokens[2].partition("_")[2] for stay in stays],
            "ethnicity": pl.Series(["non_hispanic"] * len(stays), dtype=pl.String),
            "length_of_stay_hours": [(stay.discharge - stay.admission) / timedelta(hours=1) for stay in stays],
        }
    )
    artifacts.write_table("subjects", subjects, directory)
    artifacts.write_table("outcomes", _outcomes(stays), directory)
    quantiles = pl.DataFrame(
        {
            "category": list(TOKEN_KINDS["labs"] + TOKEN_KINDS["vitals"]),
            "unit": pl.Series([None] * 5, dtype=pl.String),
            "train_count": pl.Series([100] * 5, dtype=pl.UInt64),
            "edges": [[float(edge) for edge in range(9)]] * 5,
        }
    )
    artifacts.write_table("quantiles", quantiles, directory)


def _outcomes(stays: list[_Stay]) -> pl.DataFrame:
    """Every seventh stay is excluded from icu_admission; the other labels are sickness itself."""
    rows = []
    for name in OUTCOMES:
        for stay in stays:
            is_excluded = name == "icu_admission" and stay.number % 7 == 0
            rows.append(
                {
                    "subject_id": f"H{stay.number:04d}",
                    "outcome": name,
                    "index_time": stay.admission + timedelta(hours=24),
                    "label": None if is_excluded else stay.is_sick,
                    "event_time": stay.discharge if stay.is_sick and not is_excluded else None,
                    "excluded_reason": "event before index_time" if is_excluded else None,
                }
            )
    types = {"index_time": pl.Datetime("us"), "event_time": pl.Datetime("us"), "excluded_reason": pl.String}
    return pl.DataFrame(rows, schema_overrides=types)
