"""What may be in a bundle: names of files, columns, numbers and words."""

import polars as pl
import pytest

from clinrep import artifacts
from clinrep.export.bundle import ALLOWED, Bundle, is_allowed
from clinrep.export.private import PATIENT_COLUMNS, strip_settings
from clinrep.export.results import find_problem, hide_scores


@pytest.mark.parametrize(
    "name",
    [
        *(
            "predictions.parquet",
            "backbone/predictions.parquet",
            "tokenizer/splits.parquet",
            "tokenizer/subjects.parquet",
        ),
        *("timelines/train/part-00000.parquet", "run.log", "config.yaml", "provenance.json", "environment.txt"),
        *(
            "report.html",
            "figures/roc.png",
            "tables/../../x.csv",
            "tables/a/b.csv",
            "tables/x.parquet",
            "metrics.jsonl",
        ),
        *("representations/test/part-00000.parquet", "backbone/optimizer.pt", "classifiers/x/predictions.parquet"),
        *("scores/scores.parquet", "settings/run.log", "README.md/x", "backbone/model.safetensors.index.json"),
    ],
)
def test_nothing_else_gets_in(name, tmp_path):
    assert not is_allowed(name)
    bundle = Bundle(tmp_path / "bundle")
    with pytest.raises(AssertionError, match="no place in a bundle"):
        bundle.write_text(name, "x")
    path = bundle.directory / name
    if ".." not in name:  # and a file that came in by another way stops the bundle
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        with pytest.raises(AssertionError, match="no place in a bundle"):
            bundle.close({})


def test_tables_of_the_contract_are_allowed_only_without_rows_of_patients():
    for name, table in artifacts.TABLES.items():
        path = table.path.format(split="train", part=0)
        is_in = any(is_allowed(f"{folder}{path}") for folder in ("", "backbone/", "tokenizer/", "classifiers/x/"))
        assert is_in == (name in ("vocabulary", "quantiles", "categories"))
        if "subject_id" in table.columns:
            assert PATIENT_COLUMNS & table.columns.keys()
    assert len(ALLOWED) == 7


def test_a_frame_with_ids_is_refused(tmp_path):
    bundle = Bundle(tmp_path / "bundle")
    with pytest.raises(AssertionError, match="subject_id"):
        bundle.write_frame("tokenizer/vocabulary.parquet", pl.DataFrame({"subject_id": ["a"]}))


def test_few_patients_hide_scores_on_either_side():
    groups = ["all", "few with", "few without", "edge", "15 stays of 6", "not counted"]
    frame = pl.DataFrame({"site": "s", "model": "m", "probe": "p", "outcome": "o", "subgroup": groups,
                          "metric": "auroc", "estimate": 0.5, "low": 0.4, "high": 0.6, "num_subjects": 100,
                          "num_events": [50, 3, 97, 11, 15, 50]})  # fmt: skip
    patients = pl.DataFrame({"site": "s", "outcome": "o", "subgroup": groups[:5],
                             "num_event_patients": [50, 3, 97, 11, 6],
                             "num_other_patients": [50, 97, 3, 11, 85]})  # fmt: skip
    assert hide_scores(frame, patients, 11)["estimate"].to_list() == [0.5, None, None, 0.5, None, None]
    assert hide_scores(frame, patients, 11)["high"].null_count() == 4


def test_scores_have_too_few_digits_to_tell_the_counts_behind_them():
    """An AUROC is a whole number of halves of the pairs of stays with and without the event."""
    aurocs = [(2 * 1000 + 1) / (2 * 43 * 97), (2 * 1771) / (2 * 43 * 97)]
    frame = pl.DataFrame({"site": "s", "model": ["m", "n"], "probe": "p", "outcome": "o", "subgroup": "all",
                          "metric": "auroc", "estimate": aurocs, "low": 1 / 3, "high": 2 / 3})  # fmt: skip
    patients = pl.DataFrame({"site": "s", "outcome": "o", "subgroup": "all", "num_event_patients": 43,
                             "num_other_patients": 97})  # fmt: skip
    pairs = {43 * 97: True, 44 * 96: False}
    for num_pairs, is_it in pairs.items():
        found = [abs(2 * num_pairs * auroc - round(2 * num_pairs * auroc)) < 1e-7 for auroc in aurocs]
        assert all(found) == is_it
    shown = hide_scores(frame, patients, 11)
    assert shown.select("estimate", "low", "high").row(0) == (0.24, 0.333, 0.667)
    assert shown["estimate"].equals(shown["estimate"].round(3))
    assert hide_scores(frame, patients, 0)["estimate"].to_list() == aurocs  # public data


@pytest.mark.parametrize(
    ("text", "is_fine"),
    [
        ("num_stays,auroc\n12,0.1\n", True),
        ("num_stays\n10\n", False),
        ("num_stays\n0\n", True),
        ("num_bootstraps\n5\n", True),
        ("coefficient,p\n3,0.01\n", True),
        ('characteristic,all\n"Age, mean (SD)",61.2 (4.0)\n', True),
        ("characteristic,all\nSex,7 (3.0)\n", False),
        ("left_out\n4\n", False),
        ("estimate,num_events\n0.7,40\n,\n", True),
        ("estimate,num_events\n0.7,40\n0.9,\n", False),
    ],
)
def test_small_counts_are_found_in_tables(text, is_fine, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    assert (find_problem(tmp_path / "t.csv", 11) == "") == is_fine


def test_settings_lose_paths():
    given = {
        "clif_dir": "/a/b",
        "timelines_dir": {"s": "runs/x"},
        "splits_path": None,
        "note": "see ~/x/y",
        "unit": "mg/dL",
        "timelines": {"num_stays": 3, "subject_ids": ["s1", "s2"]},
    }
    assert strip_settings({**given, "list": [{"x_path": 1, "y": 2}]}) == {
        "note": "[removed]",
        "unit": "mg/dL",
        "timelines": {"num_stays": 3},
        "list": [{"y": 2}],
    }
