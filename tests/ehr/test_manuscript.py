"""configs/ehr/manuscript/00_tokenize.yaml against an independent re-implementation of the manuscript's tokenizer."""

from __future__ import annotations

import math
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.ehr.manuscript_checks import DEATH, ICU, IMV, LONG, check_equal
from tests.ehr.messy_clif import Mess, write_messy_clif
from tests.ehr.reference_tokenizer import DAY, Reference
from tests.ehr.tiny_clif import ROOT, Result, at, make_stays, read_run, run_main, write_tiny_clif

MANUSCRIPT = ROOT / "configs" / "ehr" / "manuscript" / "00_tokenize.yaml"
SAMPLE = ROOT / "sample_data" / "clif_demo"


def run(clif_dir: Path, output_dir: Path, *flags: str) -> Result:
    return read_run(run_main(MANUSCRIPT, output_dir, f"--clif_dir={clif_dir}", *flags))


# --- the sample


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(SAMPLE)


@pytest.fixture(scope="module")
def sample_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_main(MANUSCRIPT, tmp_path_factory.mktemp("manuscript") / "out", f"--clif_dir={SAMPLE}")


@pytest.fixture(scope="module")
def sample(sample_dir: Path) -> Result:
    return read_run(sample_dir)


def test_sample_is_the_same(sample: Result, reference: Reference):
    check_equal(sample, reference)
    assert len(sample.quantiles) == 94
    assert {unit for _, unit in sample.quantiles} == {None}


def test_window_is_that_of_the_manuscript(sample_dir: Path):
    window = yaml.safe_load((sample_dir / "config.yaml").read_text())["window"]
    assert (window["origin"], window["length_hours"], window["is_end_closed"]) == ("first_event", 24, True)


def test_long_stays_differ_nowhere_in_the_sample(sample: Result, reference: Reference):
    """Whole hours (D18) or exact, by events or by discharge: 91 long stays by each rule."""
    for subject, labels in reference.labels.items():
        assert labels.long_length_of_stay == labels.is_long_by_events == labels.is_long_by_discharge
        assert sample.label(LONG, subject) in (labels.long_length_of_stay, None)


# --- random messy folders

UNSURE = {"has_undated_rows", "has_empty_text"}
FOLDERS: list[tuple[int, dict[str, bool], tuple[float, float], tuple[str, str] | None]] = [
    (0, {}, (0.7, 0.1), None),
    (1, {"has_number_ids": True}, (0.5, 0.25), None),
    (2, {"has_odd_time_types": True}, (0.29, 0.57), None),
    (3, {}, (0.7, 0.1), ("2150-01-03", "2150-01-16")),
    (4, {"has_number_ids": True, "has_odd_time_types": True}, (0.35, 0.35), ("2150-01-02", "2150-01-19T12:00:00")),
    (5, {"has_empty_text": True}, (0.6, 0.2), None),
    (6, {"has_undated_rows": True}, (0.7, 0.1), None),
    (7, {}, (0.7, 0.1), None),
    (8, {}, (0.8, 0.1), None),
    (9, dict.fromkeys(UNSURE, True), (0.9, 0.1), ("2150-01-02", "2150-01-19")),
]


@pytest.mark.parametrize(("seed", "mess", "fractions", "window"), FOLDERS)
def test_messy_folder_is_the_same(tmp_path: Path, seed: int, mess: dict[str, bool], fractions: Any, window: Any):
    directory = write_messy_clif(tmp_path / "clif", seed, Mess(**mess))
    reference = Reference(directory, *fractions, window)
    assert len(reference.timelines) >= 5
    flags = [f"--train_fraction={fractions[0]}", f"--val_fraction={fractions[1]}"]
    flags += [f"--admission_window={list(window)}"] if window else []
    check_equal(run(directory, tmp_path / "out", *flags), reference)


def test_messy_folders_hold_what_they_should(tmp_path: Path):
    """The generator is worth something: each oddity occurs in a timeline or keeps a stay from one."""
    found: Counter[str] = Counter()
    for seed, mess, fractions, window in FOLDERS:
        reference = Reference(write_messy_clif(tmp_path / str(seed), seed, Mess(**mess)), *fractions, window)
        spans, tokens = reference.spans, {s: {w for w, _ in t} for s, t in reference.timelines.items()}
        found["null word"] += any(None in words for words in tokens.values())
        found["no decile"] += any("nan" in words for words in tokens.values())
        found["prone"] += any("prone" in words for words in tokens.values())
        found["case kept"] += any({"Yes", "yes"} <= words for words in tokens.values())
        found["no patient row"] += any(s.patient not in reference.patients for s in reference.stays.values())
        found["no event"] += any(s not in {e.subject for e in reference.rows} for s in reference.stays)
        found["exactly a day"] += any(end - start == DAY for start, end in spans.values())
        found["no span"] += len(spans) < len(reference.stays)
        found["dropped by the cut"] += None in reference.num_first_day.values()
        found["death"] += any("expired" in words for words in tokens.values())
        found["late icu"] += any(row.icu_admission and not row.icu_admission_24h for row in reference.labels.values())
        found["168 to 169 h"] += any(x.long_length_of_stay != x.is_long_by_events for x in reference.labels.values())
        found["unseen decile key"] += any(e.is_numeric and e.words[0] not in reference.aux for e in reference.rows)
        found["infinite value"] += any(math.inf in values for values in reference.train_values.values())
        assert np.isfinite(list(reference.aux.values())).all(), seed
    assert len(+found) == 14


# --- one question at a time


def compare(directory: Path, fraction: float = 1.0, **tables: Any) -> tuple[Result, Reference]:
    """Write a tiny folder, check that both make the same of it, and return both."""
    clif = write_tiny_clif(directory / "clif", **tables)
    reference = Reference(clif, fraction, 0.0)
    result = run(clif, directory / "out", f"--train_fraction={fraction}", "--val_fraction=0")
    check_equal(result, reference)
    return result, reference


def make_labs(*values: float | None, subject: str = "H1", category: str = "sodium") -> list[dict[str, Any]]:
    row = {"hospitalization_id": subject, "lab_category": category, "lab_result_dttm": at(1)}
    return [{**row, "lab_value_numeric": value} for value in values]


def test_static_tokens_stand_at_the_first_vital_and_labs_may_come_before(tmp_path: Path):
    labs = [{"lab_result_dttm": at(-5)}]
    vitals = [{"recorded_dttm": at(-2)}, {"recorded_dttm": at(90)}, {"recorded_dttm": at(4)}]
    adt = [{"in_dttm": at(100), "location_category": None}]
    result, _ = compare(tmp_path, labs=labs, vitals=vitals, adt=adt)
    words, times = result.timelines["H1"]
    assert words[:6] == ["TL_START", "white", "non-hispanic", "female", "Q9", "ew emer."]
    assert times[:9] == [at(-2)] * 6 + [at(-5)] * 2 + [at(-2)]
    assert words[-3:] == ["None", "home", "TL_END"]
    assert times[-3:] == [at(100), at(90), at(90)]


def test_length_of_stay_counts_from_first_to_last_vital(tmp_path: Path):
    stays = make_stays(3)
    for stay in stays:
        stay["discharge_dttm"] = stay["admission_dttm"] + timedelta(hours=23)
    vitals = [{"hospitalization_id": "H00", "recorded_dttm": at(hour)} for hour in (0, 24)]
    labs = [{"hospitalization_id": "H01", "lab_result_dttm": at(hour)} for hour in (20, 90)]
    vitals += [{"hospitalization_id": "H02", "recorded_dttm": at(hour)} for hour in (46, 70)]
    result, _ = compare(tmp_path, hospitalization=stays, vitals=vitals, labs=labs)
    assert sorted(result.timelines) == ["H00", "H02"]
    assert {result.label(outcome, "H00") for outcome in (DEATH, LONG, ICU, IMV)} == {None}  # it was over by then


def test_discharge_of_a_stay_of_one_day_is_no_label(tmp_path: Path):
    stay = {"discharge_dttm": at(24), "discharge_category": "Expired"}
    result, reference = compare(tmp_path, hospitalization=[stay], labs=make_labs(1.0))
    assert reference.num_first_day == {"H1": len(result.tokens())}  # the reference shows `expired` (D7)
    assert result.label(DEATH) is None


def test_long_stay_is_exact(tmp_path: Path):
    result, reference = compare(tmp_path, hospitalization=[{"discharge_dttm": at(168.5)}], labs=make_labs(1.0))
    assert (result.label(LONG), reference.labels["H1"].long_length_of_stay) == (True, False)


def test_the_first_patient_row_counts_nulls_included(tmp_path: Path):
    patient = [{"sex_category": None}, {"race_category": "Black"}, {"patient_id": "P9"}]
    result, _ = compare(tmp_path, patient=patient, labs=make_labs(1.0))
    assert result.tokens()[1:4] == ["white", "non-hispanic", "None"]
    assert "black" not in {token for token, _, _ in result.vocabulary}


def test_stays_without_patient_or_event_vanish_but_teach(tmp_path: Path):
    stays = make_stays(3, discharge_category="Hospice")
    stays[1]["discharge_category"] = "Rehab"
    rows = [*make_labs(1.0, subject="H00"), *make_labs(2.0, subject="H01", category="bun")]
    patients = [{"patient_id": "P00"}, {"patient_id": "P02"}]
    result, _ = compare(tmp_path, hospitalization=stays, patient=patients, labs=rows)
    assert list(result.timelines) == ["H00"]
    assert len(result.splits) == 3
    assert {"rehab", "LAB_bun"} <= {token for token, _, _ in result.vocabulary}


def test_rows_without_a_time_teach(tmp_path: Path):
    """Words and deciles of all train rows; a stay that has no other row is kept, with its edges alone."""
    labs = [*make_labs(1.0, 2.0, 3.0, subject="H00"), *make_labs(5.0, subject="H01")]
    labs += make_labs(1.0, subject="H00", category="bun")
    for row in labs[1:]:
        row["lab_result_dttm"] = None
    result, _ = compare(tmp_path, hospitalization=make_stays(2), labs=labs)
    assert result.quantiles["LAB_sodium", None][1][-1] == pytest.approx(4.4)
    assert len(result.tokens("H01")) == 8


def test_unknown_admission_or_discharge_gives_no_timeline(tmp_path: Path):
    """The one difference we keep: the reference takes the first or last vital instead, and loses the length of stay."""
    stays = [*make_stays(2, admission_dttm=None), *make_stays(4, discharge_dttm=None)[2:], *make_stays(5)[4:]]
    vitals = [
        {"hospitalization_id": f"H0{i}", "recorded_dttm": at(24 * i + hour)} for i in range(5) for hour in (2, 60)
    ]
    write_tiny_clif(tmp_path / "clif", hospitalization=stays, vitals=vitals)
    ours, theirs = run(tmp_path / "clif", tmp_path / "out"), Reference(tmp_path / "clif", 0.7, 0.1)
    assert sorted(theirs.timelines) == ["H00", "H01", "H02", "H03", "H04"]
    assert sorted(ours.timelines) == ["H04"]
    assert sorted(ours.splits) == ["H02", "H03", "H04"]


def test_empty_text_is_a_word(tmp_path: Path):
    tables: dict[str, Any] = {
        "patient": [{"race_category": ""}],
        "adt": [{"location_category": ""}],
        "labs": make_labs(1.0, category=""),
        "patient_assessments": [{"assessment_category": "", "categorical_value": ""}],
    }
    result, _ = compare(tmp_path, **tables)
    assert Counter(result.tokens())[""] == 4
    assert ("LAB_", None) in result.quantiles


def test_category_without_values_in_train(tmp_path: Path):
    """Its nine edges are NaN, and numpy sorts every number above them: Q9. A key train lacks is None None."""
    labs = [*make_labs(None, subject="H00"), *make_labs(1.0, subject="H01")]
    labs += make_labs(1.0, subject="H01", category="bun")
    result, _ = compare(tmp_path, 0.5, hospitalization=make_stays(2), labs=labs)
    assert Counter(result.tokens("H01")[6:-2]) == {"LAB_sodium": 1, "Q9": 1, "None": 2}


@pytest.mark.parametrize("values", [[math.inf, 1.0], [1.0, 2.0, math.inf], [1.0] * 20 + [math.inf] * 5])
def test_infinite_deciles(tmp_path: Path, values: list[float]):
    """Beside an infinity numpy's interpolation gives NaN, where others give the infinity.

    The edges are the same; the words need not be, because np.digitize has no meaning on edges with NaN (it takes
    [1, ..., 1, NaN] for falling ones, and refuses some).
    """
    labs = [*make_labs(*values, 0.0, 0.0, subject="H00"), *make_labs(1.0, 3.0, -1e300, 1e300, subject="H01")]
    labs += make_labs(*values, subject="H00", category="bun")
    directory = write_tiny_clif(tmp_path / "clif", hospitalization=make_stays(2), labs=labs)
    result = run(directory, tmp_path / "out", "--train_fraction=0.5", "--val_fraction=0.5")
    reference = Reference(directory, 0.5, 0.5)
    for key in ("LAB_sodium", "LAB_bun"):
        np.testing.assert_array_equal(result.quantiles[key, None][1], reference.aux[key])
    assert np.isnan(reference.aux["LAB_bun"]).any()
