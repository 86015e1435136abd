from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from clinrep import artifacts
from clinrep.ehr.sequences import load_sequences
from clinrep.ehr.zero_shot import read_questions
from clinrep.zero_shot.config import ZeroShotConfig
from tests.ehr.tiny_clif import make_stays, run_main, write_config, write_tiny_clif
from tests.ehr.tiny_tables import at

OUTCOMES = ["in_hospital_death", "icu_admission", "long_length_of_stay"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """Stays of 8 days, each admitted a day after the one before; in ICU from hour 30, but H01 from hour 5."""
    root = tmp_path_factory.mktemp("zero_shot")
    stays = [stay | {"discharge_dttm": at(24 * number + 192)} for number, stay in enumerate(make_stays(4))]
    stays[2] |= {"discharge_category": "Expired"}
    rows = [
        {"hospitalization_id": f"H{i:02d}", "in_dttm": at(24 * i + hour), "location_category": place}
        for i in range(4)
        for hour, place in ((3, "Ward"), (5 if i == 1 else 30, "ICU"))
    ]
    clif = write_tiny_clif(root / "clif", hospitalization=stays, adt=rows)
    settings = {"clif_dir": str(clif), "gap_minutes": [60, 240], "train_fraction": 1.0, "val_fraction": 0.0}
    return run_main(write_config(root / "config.yaml", **settings), root / "00_tokenize")


def ask(directory: Path, **settings: Any):
    zero_shot = ZeroShotConfig(outcomes=OUTCOMES, **settings)
    config = SimpleNamespace(timelines_dir=str(directory), zero_shot=zero_shot, seed=1)
    sequences = load_sequences(str(directory), 64)
    order = np.array([3, 0, 2, 1])  # ids, not row numbers, join the labels
    sequences = sequences.take(order)
    return sequences.subjects["subject_id"].to_list(), read_questions(config, sequences)  # type: ignore[arg-type]


def test_labels_and_times_are_those_of_the_stay(directory):
    subjects, questions = ask(directory)
    assert subjects == ["H03", "H00", "H02", "H01"]
    assert questions.outcomes == OUTCOMES
    assert questions.is_asked.tolist() == [[True] * 3, [True] * 3, [True] * 3, [True, False, True]]
    assert questions.labels.tolist() == [[False, True, True]] * 2 + [[True, True, True], [False, False, True]]
    # the last event seen is at hour 3 (H01: 5); the window ends at 24, the deadline is 168 after admission
    assert questions.index_hours.tolist() == [21, 21, 21, 19]
    assert questions.deadline_hours[:, 2].tolist() == [165, 165, 165, 163]
    assert np.isinf(questions.deadline_hours[:, :2]).all()
    assert np.isinf(questions.horizon_hours).all()
    assert questions.clock is not None


def test_a_horizon_ends_labels_and_continuations(directory):
    """The ICU is at hour 30, 6 hours after index_time, the death at hour 192, the end of day 7 at 168."""
    _, questions = ask(directory, horizon_hours=6.0)
    assert questions.labels.tolist() == [[False, True, False]] * 3 + [[False, False, False]]
    assert questions.horizon_hours.tolist() == [27, 27, 27, 25]
    assert questions.is_asked.sum() == 11
    assert not ask(directory, horizon_hours=5.9)[1].labels.any()
    assert ask(directory, horizon_hours=168.0)[1].labels[2].tolist() == [True, True, True]


def test_a_horizon_makes_no_excluded_stay_a_negative(directory, tmp_path):
    """An event after the horizon, of a stay whose label is null for another reason: unknown, and false, is unknown."""
    shutil.copytree(directory, tmp_path / "00")
    outcomes = artifacts.read_table("outcomes", tmp_path / "00")
    is_unknown = (pl.col("subject_id") == "H00") & (pl.col("outcome") == "icu_admission")
    late = outcomes.with_columns(
        label=pl.when(~is_unknown).then("label"),
        excluded_reason=pl.when(is_unknown).then(pl.lit("event without a time")).otherwise("excluded_reason"),
    )
    artifacts.write_table("outcomes", late, tmp_path / "00")
    subjects, questions = ask(tmp_path / "00", horizon_hours=5.0)
    assert not questions.is_asked[subjects.index("H00"), 1]
    assert questions.is_asked.sum() == 10
