"""A hand-made CLIF folder: rows as dicts over sensible defaults, its settings, and what a run wrote."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from clinrep.ehr import tokenize
from clinrep.ehr.configs.sources import Condition, EdgeToken, EventSource
from clinrep.ehr.configs.tokenize import TokenizeConfig, WindowConfig
from clinrep.modality import resolve
from tests.ehr.tiny_tables import COLUMNS, OPTIONAL, Row, at, make_frame
from tests.ehr.tiny_tables import T0 as T0  # other tests take it from here

ROOT = Path(__file__).parents[2]
RECOMMENDED = ROOT / "configs" / "ehr" / "00_tokenize.yaml"


def write_tiny_clif(
    directory: Path,
    *,
    types: Mapping[str, Mapping[str, Any]] | None = None,
    leave_out: Sequence[str] = (),
    **tables: Sequence[Row],
) -> Path:
    """Write clif_<table>.parquet for every table of COLUMNS but those left out, and those of OPTIONAL that are given.

    Without rows, `hospitalization` is one stay H1 of P1, `patient` one row for each patient that has a
    stay, and any other table is empty. `types` overrides column types: {table: {column: type}}.
    """
    rows: dict[str, Sequence[Row]] = {"hospitalization": [{}], **tables}
    patients = dict.fromkeys(row.get("patient_id", "P1") for row in rows["hospitalization"])
    rows.setdefault("patient", [{"patient_id": patient} for patient in patients])
    directory.mkdir(parents=True, exist_ok=True)
    for table in [*COLUMNS, *OPTIONAL]:
        if table not in leave_out and (table in COLUMNS or table in tables):
            frame = make_frame(table, rows.get(table, []), (types or {}).get(table))
            frame.write_parquet(directory / f"clif_{table}.parquet")
    return directory


def make_stays(num: int, **settings: Any) -> list[dict[str, Any]]:
    """Return stays H00, H01, ... of patients P00, P01, ..., admitted a day after each other."""
    return [
        {
            "hospitalization_id": f"H{i:02d}",
            "patient_id": f"P{i:02d}",
            "admission_dttm": at(24 * i),
            "discharge_dttm": at(24 * i + 72),
            **settings,
        }
        for i in range(num)
    ]


LABS = EventSource(
    name="labs",
    table="labs",
    time_column="lab_result_dttm",
    category_column="lab_category",
    value_column="lab_value_numeric",
    unit_column="reference_unit",
    token="LAB_{category}",
)
ADT = EventSource(
    name="adt", table="adt", time_column="in_dttm", category_column="location_category", token="ADT_{category}"
)
PRONE = EventSource(
    name="position",
    table="position",
    time_column="recorded_dttm",
    token="POSITION_prone",
    keep_if=[Condition(column="position_category", one_of=["prone"])],
)


def make_config(clif_dir: Path, **settings: Any) -> TokenizeConfig:
    """Return minimal settings: ADT and labs, TL_START and sex before, discharge and TL_END after."""
    defaults: dict[str, Any] = {
        "clif_dir": str(clif_dir),
        "output_dir": "unused",
        "sources": [ADT, LABS],
        "static_tokens": [
            EdgeToken(token="TL_START"),
            EdgeToken(token="SEX_{category}", table="patient", column="sex_category"),
        ],
        "discharge_tokens": [
            EdgeToken(token="DISCHARGE_{category}", table="hospitalization", column="discharge_category"),
            EdgeToken(token="TL_END"),
        ],
        "train_fraction": 1.0,
        "val_fraction": 0.0,
    }
    return TokenizeConfig(**{**defaults, **settings})


def make_window(**settings: Any) -> WindowConfig:
    return WindowConfig(**settings)


@dataclass(frozen=True)
class Result:
    """What stage 00 made, decoded to plain Python."""

    splits: dict[str, tuple[str, str]]  # subject -> (patient, split)
    quantiles: dict[tuple[str, str | None], tuple[int, list[float]]]
    vocabulary: list[tuple[str, str, int]]  # (token, kind, train_count) in id order
    timelines: dict[str, tuple[list[str], list[datetime]]]  # subject -> (tokens, times)
    timeline_splits: dict[str, list[str]]  # split -> subjects in file order
    outcomes: dict[tuple[str, str], tuple[datetime, bool | None, datetime | None, str | None]]
    subjects: dict[str, dict[str, Any]]
    ledger: list[tuple[str, str, int, int, str]]
    categories: list[tuple[Any, ...]]

    def tokens(self, subject: str = "H1") -> list[str]:
        return self.timelines[subject][0]

    def times(self, subject: str = "H1") -> list[datetime]:
        return self.timelines[subject][1]

    def events(self, subject: str = "H1") -> list[str]:
        """Return the tokens between the edges of `make_config`."""
        return self.timelines[subject][0][2:-2]

    def label(self, outcome: str, subject: str = "H1") -> bool | None:
        return self.outcomes[subject, outcome][1]

    def reason(self, outcome: str, subject: str = "H1") -> str | None:
        return self.outcomes[subject, outcome][3]

    def dropped(self, table: str, step: str) -> tuple[int, int]:
        """Return (rows_in, rows_out) of one ledger step."""
        (row,) = [row for row in self.ledger if row[:2] == (table, step)]
        return row[2], row[3]


def decode(tables: Mapping[str, pl.DataFrame], timelines: Mapping[str, pl.DataFrame]) -> Result:
    """Return the tables of a stage-00 directory as plain Python."""
    words = tables["vocabulary"]["token"].to_list()
    return Result(
        splits={subject: (patient, split) for patient, subject, split in tables["splits"].iter_rows()},
        quantiles={(category, unit): (n, edges) for category, unit, n, edges in tables["quantiles"].iter_rows()},
        vocabulary=list(tables["vocabulary"].drop("token_id").iter_rows()),
        timelines={
            subject: ([words[i] for i in ids], times)
            for frame in timelines.values()
            for subject, ids, times in frame.select("subject_id", "token_ids", "times").iter_rows()
        },
        timeline_splits={split: frame["subject_id"].to_list() for split, frame in timelines.items()},
        outcomes={(row[0], row[1]): row[2:] for row in tables["outcomes"].iter_rows()},
        subjects={row["subject_id"]: row for row in tables["subjects"].iter_rows(named=True)},
        ledger=list(tables["ledger"].iter_rows()),
        categories=list(tables["categories"].iter_rows()),
    )


def read_run(directory: Path) -> Result:
    """Return what a finished 00_tokenize.py wrote, read without clinrep's readers."""
    names = ("splits", "quantiles", "vocabulary", "outcomes", "subjects", "ledger", "categories")
    timelines = {
        split: pl.concat([pl.read_parquet(p) for p in sorted((directory / "timelines" / split).glob("part-*.parquet"))])
        for split in ("train", "val", "test")
    }
    assert json.loads((directory / "DONE").read_text())["stage"] == "00_tokenize"
    return decode({name: pl.read_parquet(directory / f"{name}.parquet") for name in names}, timelines)


def tokenize_in_memory(config: TokenizeConfig) -> Result:
    """Run the functions of stage 00 in its script's order, writing nothing."""
    source = tokenize.open_source(config)
    cohort = tokenize.read_cohort(source)
    splits = tokenize.split_patients(source, cohort)
    with tempfile.TemporaryDirectory() as spill, tokenize.read_events(source, cohort, Path(spill)) as events:
        made = tokenize.tokenize(source, cohort, splits, events)
        parts = list(tokenize.iterate_parts(made, config))
    tables = {
        "splits": splits.select("patient_id", "subject_id", "split"),
        "quantiles": made.tokenizer.quantiles,
        "vocabulary": made.tokenizer.vocabulary,
        "outcomes": made.outcomes,
        "subjects": made.subjects,
        "ledger": source.ledger.to_frame(),
        "categories": made.tokenizer.categories,
    }
    timelines = {
        split: pl.concat([rows for name, _, rows in parts if name == split]) for split in ("train", "val", "test")
    }
    return decode(tables, timelines)


def tokenize_tiny(directory: Path, settings: Mapping[str, Any] | None = None, **clif: Any) -> Result:
    """Write a tiny folder (arguments of `write_tiny_clif`) and tokenize it with `make_config` settings."""
    return tokenize_in_memory(make_config(write_tiny_clif(directory, **clif), **(settings or {})))


def write_config(path: Path, base: Path = RECOMMENDED, **settings: Any) -> Path:
    """Write the recommended settings with top-level overrides as a YAML file."""
    path.write_text(yaml.safe_dump({**yaml.safe_load(base.read_text()), **settings}, sort_keys=False))
    return path


def run_main(config_path: Path, output_dir: Path, *flags: str) -> Path:
    """Run the script's `main` in this process."""
    main = resolve("00_tokenize:main")
    main([f"--config={config_path}", f"--output_dir={output_dir}", "--log_level=WARNING", *flags])
    return output_dir


def run_script(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script as people do."""
    return subprocess.run(
        ["/usr/bin/env", *[f"{k}={v}" for k, v in environment.items()], sys.executable, "00_tokenize.py", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def places(**categories: str) -> list[dict[str, Any]]:
    return [{"hospitalization_id": subject, "location_category": word} for subject, word in categories.items()]


def unknown(result: Result) -> dict[str, tuple[int, int]]:
    """Return the reasons of the ledger's notes of unknown words, with their counts."""
    return {row[4]: (row[2], row[3]) for row in result.ledger if "is not in train" in row[4]}
