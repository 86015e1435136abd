"""Runs stages on damaged input in this process: cases, what must come of each, and ways to damage a folder."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from clinrep import artifacts, modality
from clinrep.config import InputError
from clinrep.modality import resolve
from tests.ehr.tiny_clif import RECOMMENDED, at, make_stays, write_tiny_clif

NUM_STAYS = 12
PRIVATE = re.compile(r"ZQ\d|\b(H00|P00)\d\d\b|\bs00\d\d\b")  # ids in the tables here: no message may tell one


@dataclass(frozen=True)
class Case:
    """One kind of bad input, what is to become of it, and how docs/errors.md tells of it."""

    name: str
    """Of the test; unique in its table."""
    what: str
    """In docs/errors.md: what is wrong."""
    damage: Callable[[Path], object]
    """Does it to a folder of copies."""
    words: tuple[str, ...] = ()
    """The message holds each; the first and the last are shown in docs/errors.md: what is wrong, and the remedy."""
    flags: tuple[str, ...] = ()
    counted: tuple[str, str, int] | None = None
    """Not refused: table and step of the ledger, and how many rows it counts (those left out, or those noted)."""
    check: Callable[[Path], None] | None = None
    """Not refused: what must be true of the output directory."""

    @property
    def is_refused(self) -> bool:
        return self.counted is None and self.check is None


def parametrize(cases: list[Case]) -> pytest.MarkDecorator:
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    return pytest.mark.parametrize("case", cases, ids=names)


@functools.cache
def _load(stage: str) -> Any:
    """Return the module of a stage, as `tests.scripts.load_main` but once: its functions are what is tested."""
    return resolve(f"{stage}:main")


@functools.cache
def _parse(stage: str, flags: tuple[str, ...]) -> tuple[Any, Any]:
    """Return modality and config of a stage, parsed once for each set of flags: that takes longest."""
    return modality.load_stage(stage, "", list(flags))


def run_main(stage: str, paths: Mapping[str, Any], settings: tuple[str, ...]) -> None:
    """Run the `main` of a stage, its settings parsed as ever but for the paths, which are of the case alone."""
    main = _load(stage)
    kind, config = _parse(stage, settings)
    config = dataclasses.replace(config, **paths)
    known = main.__globals__["load_stage"]
    main.__globals__["load_stage"] = lambda *_: (kind, config)
    try:
        main([])
    finally:
        main.__globals__["load_stage"] = known


def check(case: Case, run: Callable[[], None], output: Path) -> str:
    """Run a stage and assert what the case says of it; return the message of a refusal."""
    if not case.is_refused:
        run()
        if case.counted is not None:
            table, step, count = case.counted
            rows = [row for row in pl.read_parquet(output / "ledger.parquet").iter_rows() if row[:2] == (table, step)]
            assert rows, f"no step {step} of {table}"
            assert sum(row[2] - row[3] or row[3] for row in rows) == count
        if case.check is not None:
            case.check(output)
        return ""
    with pytest.raises(InputError) as refusal:
        run()
    message = str(refusal.value)
    assert "\n" not in message
    assert not [word for word in case.words if word not in message], message
    assert not PRIVATE.search(message), message
    assert len(message) < 1200, message
    assert not output.exists(), "a refused run leaves nothing"
    return message


# CLIF folders and stage 00


def write_clif(directory: Path) -> Path:
    """Write twelve adult stays with a few events each, whose ids are easily found in a message."""
    stays = [
        {**stay, "hospitalization_id": f"ZQ{i:02d}", "patient_id": f"ZQ9{i:02d}"}
        for i, stay in enumerate(make_stays(NUM_STAYS, discharge_category="Home"))
    ]
    ids = [stay["hospitalization_id"] for stay in stays]
    events = [(one, 24 * i + hour) for i, one in enumerate(ids) for hour in (1, 5, 30)]
    tables: dict[str, Any] = {
        "hospitalization": stays,
        "labs": [
            {"hospitalization_id": one, "lab_result_dttm": at(hour), "lab_value_numeric": 130.0 + hour % 17}
            for one, hour in events
        ],
        "vitals": [
            {"hospitalization_id": one, "recorded_dttm": at(hour), "vital_value": 60.0 + hour % 31}
            for one, hour in events
        ],
        "adt": [{"hospitalization_id": one, "in_dttm": at(24 * i)} for i, one in enumerate(ids)],
    }
    return write_tiny_clif(directory, **tables)


def write_tokenize_settings(path: Path) -> Path:
    """Write the recommended settings with three sources and few tokens: the rest only takes time."""
    content = yaml.safe_load(RECOMMENDED.read_text())
    few = [source for source in content["sources"] if source["name"] in ("adt", "labs", "vitals")]
    settings = {
        "clif_dir": "unused",
        "output_dir": "unused",
        "sources": few,
        "static_tokens": [
            {"token": "TL_START"},
            {"token": "SEX_{category}", "table": "patient", "column": "sex_category"},
        ],
        "discharge_tokens": [{"token": "TL_END"}],
        "outcomes": ["in_hospital_death", "icu_admission"],
        "num_bins": 4,
        "show_progress": False,
    }
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


# tables and directories


def change(path: str, *changes: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Path], None]:
    """Return what reads a table, changes it and writes it back."""

    def damage(folder: Path) -> None:
        frame = pl.read_parquet(folder / path)
        for one in changes:
            frame = one(frame)
        frame.write_parquet(folder / path)

    return damage


def set_rows(column: str, value: Any, num: int = 1, dtype: Any = None) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Return what sets a column of the first rows."""

    def apply(frame: pl.DataFrame) -> pl.DataFrame:
        kind = dtype or frame.schema[column]
        new = pl.Series(column, [value] * num, dtype=kind)
        return frame.with_columns(pl.concat([new, frame[column][num:].cast(kind)]))

    return apply


def write_bytes(path: str, content: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / path).write_bytes(content)

    return damage


def cut_off(path: str, share: float = 0.5) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / path).read_bytes()
        (folder / path).write_bytes(content[: int(len(content) * share)])

    return damage


def remove(path: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        target = folder / path
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink()

    return damage


def finish_again(directory: str) -> Callable[[Path], None]:
    """Return what writes DONE anew, so that damage looks like what the stage wrote."""

    def damage(folder: Path) -> None:
        done = json.loads((folder / directory / "DONE").read_text())
        artifacts.write_done(folder / directory, done["stage"], done["rows"], done["inputs"])

    return damage


def both(*damages: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for one in damages:
            one(folder)

    return damage
