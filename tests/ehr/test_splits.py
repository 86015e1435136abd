"""Patients, not stays, are split, in order of first admission."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import polars as pl
import pytest

from clinrep.config import InputError
from tests.ehr.tiny_clif import at, make_config, make_stays, tokenize_in_memory, tokenize_tiny, write_tiny_clif

SEVENTY = {"train_fraction": 0.7, "val_fraction": 0.1}


def group(splits: dict[str, tuple[str, str]]) -> dict[str, set[str]]:
    """Return split -> its patients."""
    patients = defaultdict(set)
    for patient, split in splits.values():
        patients[split].add(patient)
    return dict(patients)


def write_splits(path: Path, rows: list[tuple[str, str, str]]) -> str:
    pl.DataFrame(rows, schema=["patient_id", "subject_id", "split"], orient="row").write_parquet(path)
    return str(path)


def test_patients_are_split_by_their_first_admission(tmp_path: Path):
    # Reversed rows; and P09, first by a stay long before, is train though its other stay is the last.
    rows = make_stays(10)[::-1]
    rows.append({**rows[0], "hospitalization_id": "EARLY", "admission_dttm": at(-500)})
    result = tokenize_tiny(tmp_path / "a", SEVENTY, hospitalization=rows)
    assert group(result.splits) == {
        "train": {"P09", "P00", "P01", "P02", "P03", "P04", "P05"},
        "val": {"P06"},
        "test": {"P07", "P08"},
    }
    assert result.splits["H09"] == result.splits["EARLY"] == ("P09", "train")
    assert result.timeline_splits["train"] == ["EARLY", "H00", "H01", "H02", "H03", "H04", "H05", "H09"]


def test_ties_are_broken_by_patient_id(tmp_path: Path):
    rows = [{**row, "admission_dttm": at(0)} for row in make_stays(4)]
    result = tokenize_tiny(
        tmp_path / "a", {"train_fraction": 0.5, "val_fraction": 0.25}, hospitalization=[rows[i] for i in (2, 0, 3, 1)]
    )
    assert [result.splits[f"H0{i}"][1] for i in range(4)] == ["train", "train", "val", "test"]


@pytest.mark.parametrize(("num", "sizes"), [(90, (62, 9, 19)), (10, (7, 1, 2)), (3, (2, 0, 1)), (29, (20, 2, 7))])
def test_sizes_are_cut_in_floating_point(tmp_path: Path, num: int, sizes: tuple[int, int, int]):
    assert int(0.7 * 90) == 62  # not 63: the manuscript's own arithmetic
    patients = group(tokenize_tiny(tmp_path / "a", SEVENTY, hospitalization=make_stays(num)).splits)
    assert tuple(len(patients.get(split, ())) for split in ("train", "val", "test")) == sizes


def test_stays_outside_the_window_do_not_make_a_patient_early(tmp_path: Path):
    rows = make_stays(4)
    rows.append({**rows[3], "hospitalization_id": "OLD", "admission_dttm": at(-24 * 400)})
    settings = {"train_fraction": 0.5, "val_fraction": 0.25, "admission_window": ["2150-01-01", "2151-01-01"]}
    result = tokenize_tiny(tmp_path / "a", settings, hospitalization=rows)
    assert group(result.splits) == {"train": {"P00", "P01"}, "val": {"P02"}, "test": {"P03"}}


def test_existing_split_is_honoured_by_patient(tmp_path: Path):
    # Made elsewhere: other subjects of the same patients, and a patient this site does not have.
    path = write_splits(
        tmp_path / "s.parquet",
        [
            ("P00", "other1", "test"),
            ("P01", "other2", "train"),
            ("P02", "x", "val"),
            ("P02", "y", "val"),
            ("P77", "z", "test"),
        ],
    )
    result = tokenize_tiny(tmp_path / "a", {**SEVENTY, "splits_path": path}, hospitalization=make_stays(3))
    assert result.splits == {"H00": ("P00", "test"), "H01": ("P01", "train"), "H02": ("P02", "val")}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("P00", "H00", "train")], "lacks 1 of the 2 patients with an adult stay"),
        (
            [("P00", "H00", "train"), ("P01", "H01", "val"), ("P01", "H02", "test")],
            "1 patients are in more than one split",
        ),
        (
            [("P00", "H00", "train"), ("P01", "H01", "dev")],
            "column 'split' holds 1 words other than train, val, test",
        ),
    ],
)
def test_split_that_does_not_fit_is_refused(tmp_path: Path, rows: list, message: str):
    path = write_splits(tmp_path / "s.parquet", rows)
    clif = write_tiny_clif(tmp_path / "a", hospitalization=make_stays(2))
    with pytest.raises(InputError, match=message):
        tokenize_in_memory(make_config(clif, splits_path=path))


def test_split_file_without_its_column_is_refused(tmp_path: Path):
    path = tmp_path / "s.parquet"
    pl.DataFrame({"patient_id": ["P00"], "split": ["train"]}).write_parquet(path)
    clif = write_tiny_clif(tmp_path / "a", hospitalization=make_stays(1))
    with pytest.raises(InputError, match=r"s\.parquet: column 'subject_id' of table splits"):
        tokenize_in_memory(make_config(clif, splits_path=str(path)))


def test_nothing_to_learn_from_is_refused(tmp_path: Path):
    settings = {"train_fraction": 0.1, "val_fraction": 0.1}
    with pytest.raises(InputError, match="no train stay among 3"):
        tokenize_tiny(tmp_path / "a", settings, hospitalization=make_stays(3))
