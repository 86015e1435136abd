"""What stage 04 refuses: tables and settings that do not fit together."""

from pathlib import Path

import polars as pl
import pytest

from clinrep import artifacts
from clinrep.config import InputError
from tests.analysis.fake_runs import FakeSite, finish_again, run_main


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """One site; a test that changes tables makes its own."""
    return FakeSite(tmp_path_factory.mktemp("site")).write()


def refuse(match: str, output: Path, *flags: str) -> None:
    with pytest.raises(InputError, match=match):
        run_main(output, *flags)
    assert not output.exists()


def test_a_missing_subject_is_refused(tmp_path):
    site = FakeSite(tmp_path / "site").write()
    lost = site.stays.filter(split="test")[0]
    site.write_representations(vectors_of=site.stays.join(lost, on="subject_id", how="anti"))
    refuse("1 of 48 stays .* are missing", tmp_path / "out", *site.flags("demo"))


def test_an_extra_subject_is_refused(tmp_path):
    site = FakeSite(tmp_path / "site").write()
    lost = site.stays.filter(split="test")[0]
    site.outcomes = site.outcomes.join(lost, on="subject_id", how="anti")
    site.stays = site.stays.join(lost, on="subject_id", how="anti")
    site.write_timelines()
    refuse("1 stays are not among them", tmp_path / "out", *site.flags("demo"))


@pytest.mark.parametrize("name", ["splits", "subjects", "outcomes"])
def test_a_repeated_subject_is_refused(name, tmp_path):
    site = FakeSite(tmp_path / "site").write()
    table = artifacts.read_table(name, site.timelines)
    artifacts.write_table(name, pl.concat([table, table[:1]]), site.timelines)
    refuse("1 rows repeat", tmp_path / "out", *site.flags("demo"))


def test_a_patient_in_two_splits_is_refused(tmp_path):
    site = FakeSite(tmp_path / "site").write()
    table = artifacts.read_table("splits", site.timelines)
    extra = table.filter(split="train")[:1].with_columns(subject_id=pl.lit("new"), split=pl.lit("test"))
    artifacts.write_table("splits", pl.concat([table, extra]), site.timelines)
    finish_again(site.timelines)
    refuse("1 patients are in more than one split", tmp_path / "out", *site.flags("demo"))


def test_predictions_of_other_labels_are_refused(tmp_path):
    site = FakeSite(tmp_path / "site").write()
    directory = site.predictions / "icu_admission"
    table = artifacts.read_table("predictions", directory)
    artifacts.write_table("predictions", table.with_columns(~pl.col("label")), directory)
    finish_again(directory)
    refuse(f"{table.height} labels differ", tmp_path / "out", *site.flags("demo"))


def test_runs_made_from_other_timelines_are_refused(tmp_path):
    site = FakeSite(tmp_path / "site").write()
    artifacts.write_done(site.representations, "03_extract_reps", {}, {"timelines_dir": "another digest"})
    refuse("made from other timelines", tmp_path / "out", *site.flags("demo"))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"width": 9}, "different width, 8 and 9"), ({"layers": (0, 2, 3)}, "different layers"), ({}, None)],
    ids=["width", "layer", "same"],
)
def test_sites_must_have_comparable_vectors(site, tmp_path, change, words):
    other = FakeSite(tmp_path / "other", seed=3, prefix="t", **change).write()
    flags = [*site.flags("demo"), *other.flags("away"), "--layers=null", "--outcomes=[in_hospital_death]"]
    if words:
        refuse(words, tmp_path / "out", *flags)
    else:
        run_main(tmp_path / "out", *flags)


def test_sites_of_different_models_are_refused(site, tmp_path):
    other = FakeSite(tmp_path / "other", seed=3, prefix="t").write()
    table = artifacts.read_table("token_embeddings", other.representations)
    artifacts.write_table("token_embeddings", table.with_columns(pl.col("embedding").reverse()), other.representations)
    finish_again(other.representations)
    refuse("different models", tmp_path / "out", *site.flags("demo"), *other.flags("away"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--outcomes=[in_hospital_deth]"], "Did you mean 'in_hospital_death'"),
        (["--layers=[7]"], "unknown layer .* known: 0, 2"),
        (["--poolings=[max]"], "unknown pooling .* known: last_token, mean"),
        (["--probes=[forest]"], "unknown probe 'forest'; known: k_nearest_neighbors, light_gbm, logistic_regression"),
        (["--train_site=nowhere"], "train_site is 'nowhere'"),
        (["--representations_dir.away=docs"], "site of representations_dir is 'away'"),
        (["--timelines_dir.away=docs"], "have representations"),
        (["--num_bootstraps=1"], "num_bootstraps is 1 but must be 20 or more"),
        (["--confidence_level=95"], "confidence_level is 95"),
        (["--logistic_regression.c=0"], "logistic_regression.c is 0"),
    ],
)
def test_wrong_settings_are_refused(site, tmp_path, flags, words):
    refuse(words, tmp_path / "out", *site.flags("demo"), *flags)
