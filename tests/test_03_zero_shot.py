"""Stage 03 with what it does when asked: zero-shot answers and information of timelines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.zero_shot.sampling import Sampler
from tests.ehr.fake_models import write_fake_backbone_run
from tests.ehr.fake_timelines import write_fake_tokenizer_run
from tests.scripts import ROOT, TWO_RANKS, check_refused, load_main, run_script
from tests.test_03_extract_reps import ALL_TABLES, list_tables

STAGE = "03_extract_reps"
ASKED = ["--zero_shot.outcomes", "[in_hospital_death, icu_admission]", "--zero_shot.num_samples", "6"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    timelines = write_fake_tokenizer_run(root / "00_tokenize", num_subjects=60, seed=5)
    write_fake_backbone_run(root / "01_pretrain", timelines)
    return root


def flags(root: Path, output: str, *more: str) -> list[str]:
    inputs = ["--timelines_dir", str(root / "00_tokenize"), "--backbone_dir", str(root / "01_pretrain")]
    settings = ["--max_length", "64", "--zero_shot.max_new_tokens", "60", "--information", "true"]
    return [*inputs, *settings, *ASKED, "--output_dir", str(root / output), *more]


@pytest.fixture(scope="module")
def finished(root) -> Path:
    load_main(STAGE)(flags(root, "one"))
    return root / "one"


def test_every_labelled_test_stay_has_an_answer_with_its_label(root, finished):
    table = artifacts.read_table("zero_shot", finished)
    labels = artifacts.read_table("outcomes", root / "00_tokenize").drop_nulls("label")
    labels = labels.filter(pl.col("outcome").is_in(["in_hospital_death", "icu_admission"]))
    splits = artifacts.read_table("splits", root / "00_tokenize").filter(pl.col("split") == "test")
    expected = labels.join(splits, on="subject_id").select("subject_id", "split", "outcome", "label")
    assert set(table.select(expected.columns).iter_rows()) == set(expected.iter_rows())
    assert table.height == expected.height == artifacts.read_done(finished, STAGE)["rows"]["zero_shot/test"]
    assert expected.filter(outcome="icu_admission").height < splits.height  # some are excluded
    p, error = (table[name].to_numpy() for name in ("probability", "standard_error"))
    assert np.allclose(p * 6, np.round(p * 6), atol=1e-5)
    assert np.allclose(error, np.sqrt(p * (1 - p) / 6), atol=1e-6)
    assert np.unique(p).size > 2


def test_information_is_of_every_stay_and_its_sequence(root, finished):
    table = artifacts.read_table("information", finished)
    splits = artifacts.read_table("splits", root / "00_tokenize")
    assert set(table.select("subject_id", "split").iter_rows()) == set(splits.select("subject_id", "split").iter_rows())
    assert (table["bits"].list.len() == table["token_ids"].list.len() - 1).all()
    assert (table["times"].list.len() == table["token_ids"].list.len()).all()
    assert table["total_bits"].to_numpy() == pytest.approx(table["bits"].list.sum().to_numpy(), abs=1e-2)


def test_continuations_end_where_the_backbone_was_trained_to_and_the_whole_run_says_so(root, tmp_path, caplog):
    """66 positions leave the longest prompts few tokens more, however many are allowed."""
    backbone = tmp_path / "01"
    shutil.copytree(root / "01_pretrain", backbone)
    path = backbone / "backbone" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trained_positions": 66}))
    shares = {}
    for name, more in (("short", []), ("beyond", ["--zero_shot.beyond_trained_positions", "true"])):
        argv = flags(root, "unused", *more, "--backbone_dir", str(backbone), "--zero_shot.subjects_per_part", "4")
        argv[argv.index("--output_dir") + 1] = str(tmp_path / name)
        load_main(STAGE)(argv)
        shares[name] = artifacts.read_table("zero_shot", tmp_path / name)["unfinished"].mean()
    assert shares["beyond"] == 0
    assert shares["short"] > 0.01
    # a run that only has its last part to do reports on all of them
    for left in sorted((tmp_path / "short" / "zero_shot" / "test").iterdir())[-1:]:
        left.unlink()
    (tmp_path / "short" / "DONE").unlink()
    caplog.clear()
    argv[argv.index("--output_dir") + 1] = str(tmp_path / "short")
    position = argv.index("--zero_shot.beyond_trained_positions")
    argv = argv[:position] + argv[position + 2 :]
    with caplog.at_level("INFO", logger="clinrep"):
        load_main(STAGE)(argv)
    number = artifacts.read_done(tmp_path / "short", STAGE)["rows"]["zero_shot/test"]
    deaths = artifacts.read_table("zero_shot", tmp_path / "short").filter(outcome="in_hospital_death").height
    assert deaths < number
    assert f"zero-shot in_hospital_death: {deaths} stays" in caplog.text
    assert "the probabilities are too low" in caplog.text


def test_prompts_longer_than_what_the_backbone_was_trained_on_are_refused(root, tmp_path):
    backbone = tmp_path / "01"
    shutil.copytree(root / "01_pretrain", backbone)
    path = backbone / "backbone" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trained_positions": 64}))
    with pytest.raises(InputError, match="max_length is 64 but the backbone was trained on 64 positions"):
        load_main(STAGE)(flags(root, "refused", "--backbone_dir", str(backbone)))
    assert not (root / "refused").exists()


def test_smaller_parts_and_batches_give_the_same_answers(root, finished):
    small = ["--zero_shot.subjects_per_part", "3", "--zero_shot.batch_size", "8", "--batch_tokens", "70"]
    load_main(STAGE)(flags(root, "small", *small))
    assert len(artifacts.find_parts("zero_shot", root / "small")) > 3
    compare(finished, root / "small")


def compare(one: Path, other: Path) -> None:
    keys = ["subject_id", "outcome"]
    left, right = (artifacts.read_table("zero_shot", path).sort(keys) for path in (one, other))
    assert left.equals(right)
    left, right = (artifacts.read_table("information", path).sort("subject_id") for path in (one, other))
    assert left.drop("bits", "total_bits").equals(right.drop("bits", "total_bits"))
    assert np.abs(left["bits"].explode().to_numpy() - right["bits"].explode().to_numpy()).max() < 1e-3


def test_a_run_that_was_cut_off_keeps_its_parts_and_makes_the_others(root, finished, monkeypatch):
    sample, sampled = Sampler.sample, []

    def fail_at_third(self, sequences, *others):
        sampled.append(sequences.subjects["subject_id"].to_list())
        if len(sampled) == 3:
            raise RuntimeError("power cut")
        return sample(self, sequences, *others)

    monkeypatch.setattr(Sampler, "sample", fail_at_third)
    more = ["--zero_shot.subjects_per_part", "3"]
    with pytest.raises(RuntimeError, match="power cut"):
        load_main(STAGE)(flags(root, "cut", *more))
    load_main(STAGE)(flags(root, "cut", *more))
    assert sampled[2] == sampled[3]
    assert len({tuple(stays) for stays in sampled}) == len(sampled) - 1
    compare(finished, root / "cut")


def test_fewer_stays_are_some_of_them_with_the_same_answers(root, finished):
    more = ["--zero_shot.max_subjects", "4", "--zero_shot.splits", "[val, test]", "--information", "false"]
    load_main(STAGE)(flags(root, "few", *more))
    whole, few = (artifacts.read_table("zero_shot", path, "test") for path in (finished, root / "few"))
    assert few["subject_id"].n_unique() == 4
    assert few.equals(whole.join(few.select("subject_id").unique(), on="subject_id", how="semi"))
    assert artifacts.read_table("zero_shot", root / "few", "val")["subject_id"].n_unique() == 4
    assert not (root / "few" / "information").exists()


def test_without_being_asked_nothing_is_sampled(root):
    load_main(STAGE)(flags(root, "none", "--zero_shot.outcomes", "[]", "--information", "false"))
    assert not (root / "none" / "zero_shot").exists()
    assert not (root / "none" / "information").exists()


def test_many_unfinished_continuations_are_warned_of(root, caplog):
    load_main(STAGE)(flags(root, "short", "--zero_shot.max_new_tokens", "1"))
    assert "zero-shot in_hospital_death" in caplog.text
    assert "reached zero_shot.max_new_tokens" in caplog.text
    assert artifacts.read_table("zero_shot", root / "short")["unfinished"].max() > 0.5


@pytest.mark.slow
def test_two_ranks_share_the_stays_write_the_same_files_and_reach_nobody_else(root, tmp_path, monkeypatch):
    """All tables of the stage in one run: to start torch three times takes longer than everything it does."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # sums are added up in the order of the threads
    (tmp_path / "sitecustomize.py").write_text(  # what every process of Python begins with
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom tests.privacy.chain import cut_network\ncut_network()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    asked = [*ALL_TABLES, "--zero_shot.subjects_per_part", "3"]
    load_main(STAGE)(flags(root, "alone", *asked))
    done = run_script(STAGE, *flags(root, "ranks", *asked), launcher=TWO_RANKS)
    assert done.returncode == 0, done.stderr
    assert "NETWORK" not in done.stderr
    assert not [path for path in (root / "ranks").rglob("*") if path.lstat().st_mode & 0o007]
    compare(root / "alone", root / "ranks")
    assert list_tables(root / "ranks") == list_tables(root / "alone")
    tables = {"representations", "trajectories", "hidden_states", "zero_shot", "information", "token_embeddings"}
    assert {Path(name).parts[0].removesuffix(".parquet") for name in list_tables(root / "ranks")} == tables
    rows = [artifacts.read_done(root / name, STAGE)["rows"] for name in ("ranks", "alone")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--zero_shot.outcomes", "[imv_evnt]"], "Did you mean 'imv_event'?"),
        (["--zero_shot.outcomes", "[long_length_of_stay]"], "run 00_tokenize.py and 01_pretrain.py with gap_minutes"),
        (["--zero_shot.horizon_hours", "48"], "zero_shot.horizon_hours needs to know how time passes"),
        (["--zero_shot.num_samples", "0"], "zero_shot.num_samples is 0 but must be 1 or more"),
        (["--zero_shot.outcomes", "[imv_event, imv_event]"], "must name each once"),
    ],
)
def test_bad_input_is_one_message_and_no_directory(root, more, words):
    check_refused(STAGE, flags(root, "bad", *more), words)
    assert not (root / "bad").exists()


@pytest.mark.parametrize("asked", [ASKED, ["--information", "true"]])
def test_a_classifier_has_no_head_to_ask(root, asked):
    from clinrep.config import InputError

    argv = ["--timelines_dir", "x", "--classifier_dir", "y", "--output_dir", str(root / "bad"), *asked]
    with pytest.raises(InputError, match="a classifier has no such head"):
        load_main(STAGE)(argv)
