from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from clinrep import artifacts
from clinrep.config import InputError
from tests.ehr.fake_models import write_fake_backbone_run
from tests.ehr.fake_timelines import write_fake_tokenizer_run
from tests.scripts import ROOT, TWO_RANKS, check_program_refused, check_refused, load_main, run_script

STAGE = "02_finetune"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    timelines = write_fake_tokenizer_run(root / "00_tokenize", num_subjects=60, seed=5)
    write_fake_backbone_run(root / "01_pretrain", timelines)
    settings = {
        "modality": "ehr",
        "timelines_dir": str(timelines),
        "backbone_dir": str(root / "01_pretrain"),
        "outcome": "icu_admission",
        "max_length": 64,
        "metric_for_best": "loss",
        "global_batch_size": 8,
        "show_progress": False,
        "training": {"learning_rate": 0.01, "num_epochs": 4, "batch_size": 8, "eval_steps": 5},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(settings))
    return root


def flags(root: Path, output: str, *more: str) -> list[str]:
    return ["--config", str(root / "config.yaml"), "--output_dir", str(root / output), *more]


@pytest.fixture(scope="module")
def finished(root) -> Path:
    load_main(STAGE)(flags(root, "one"))
    return root / "one"


def test_predictions_of_every_split_carry_ids_and_labels_of_stage_00(root, finished):
    predictions = artifacts.read_table("predictions", finished)
    outcomes = pl.read_parquet(root / "00_tokenize" / "outcomes.parquet")
    at_risk = outcomes.filter((pl.col("outcome") == "icu_admission") & pl.col("label").is_not_null())
    both = predictions.join(at_risk, on="subject_id", suffix="_true")
    assert predictions.height == at_risk.height == both.height
    assert (both["label"] == both["label_true"]).all()
    splits = pl.read_parquet(root / "00_tokenize" / "splits.parquet")
    joined = predictions.join(splits, on="subject_id", suffix="_true")
    assert (joined["split"] == joined["split_true"]).all()
    assert set(predictions["split"]) == {"train", "val", "test"}
    assert predictions["probability"].is_between(0, 1).all()


def test_training_learns_what_the_fake_data_hold(finished):
    train = artifacts.read_table("predictions", finished).filter(pl.col("split") == "train")
    events, others = (train.filter(pl.col("label") == label)["probability"].mean() for label in (True, False))
    assert events > others + 0.2


def test_the_best_validation_loss_is_that_of_the_saved_predictions(finished):
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    best = min(record["value"] for record in records if record["name"] == "eval_loss")
    val = artifacts.read_table("predictions", finished).filter(pl.col("split") == "val")
    labels, probabilities = val["label"].to_numpy(), val["probability"].to_numpy().astype(np.float64)
    loss = -np.log(np.where(labels, probabilities, 1 - probabilities)).mean()
    assert loss == pytest.approx(best, abs=1e-4)


def test_the_same_seed_gives_the_same_predictions(root, finished):
    load_main(STAGE)(flags(root, "two"))
    one, two = (artifacts.read_table("predictions", path) for path in (finished, root / "two"))
    assert one.equals(two)


def test_settings_that_change_no_result_may_differ(root, finished):
    more = ["--training.save_steps", "3", "--training.keep_checkpoints", "5", "--training.peak_tflops", "1"]
    with pytest.raises(SystemExit) as caught:
        load_main(STAGE)(flags(root, "one", *more, "--training.report_to", "[tensorboard]"))
    assert caught.value.code == 0
    with pytest.raises(InputError, match=r"training\.eval_steps was 5, now 6"):
        load_main(STAGE)(flags(root, "one", "--training.eval_steps", "6"))


def test_the_speed_is_recorded(finished):
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    names = {record["name"] for record in records if record["split"] == "train"}
    assert names == {"loss", "learning_rate", "grad_norm", "tokens_per_second", "data_seconds"}


def test_a_classifier_continues(root, finished):
    more = ["--backbone_dir", "null", "--classifier_dir", str(finished), "--training.num_epochs", "1"]
    load_main(STAGE)(flags(root, "three", *more))
    assert (root / "three" / "classifier" / "model.safetensors").is_file()


def test_a_classifier_applied_as_it_is_must_be_named_as_it_was_trained(root, finished):
    more = ["--backbone_dir", "null", "--classifier_dir", str(finished), "--training_fraction", "0"]
    with pytest.raises(InputError, match="give --random_truncation false"):
        load_main(STAGE)(flags(root, "misnamed", *more, "--random_truncation", "true"))


def test_a_classifier_that_learns_nothing_predicts_as_it_is_at_another_site(root, finished):
    """Fraction 0: the same weights, on stays it has not seen, and no step of training."""
    other = write_fake_tokenizer_run(root / "other_00", num_subjects=40, seed=6)
    assert artifacts.read_table("vocabulary", other)["token"].equals(
        artifacts.read_table("vocabulary", root / "00_tokenize")["token"]
    ), "one tokenizer, or the model does not fit"
    more = ["--backbone_dir", "null", "--classifier_dir", str(finished), "--training_fraction", "0"]
    load_main(STAGE)(flags(root, "same", *more))
    one, same = (artifacts.read_table("predictions", path) for path in (finished, root / "same"))
    assert one.equals(same)
    load_main(STAGE)(flags(root, "applied", *more, "--timelines_dir", str(other)))
    before, after = (load_file(path / "classifier" / "model.safetensors") for path in (finished, root / "applied"))
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)
    predictions = artifacts.read_table("predictions", root / "applied")
    labelled = artifacts.read_table("outcomes", other).filter(outcome="icu_admission").drop_nulls("label")
    assert set(predictions["subject_id"]) == set(labelled["subject_id"])
    assert not (root / "applied" / "checkpoints").exists()
    with pytest.raises(SystemExit) as caught:  # finished: the same again says so
        load_main(STAGE)(flags(root, "applied", *more, "--timelines_dir", str(other)))
    assert caught.value.code == 0


def test_from_scratch_takes_the_shape_and_no_weight_of_the_backbone(root):
    """One step of 1e-9 leaves the weights that were drawn."""
    more = ["--training.max_steps", "1", "--training.eval_steps", "1", "--training.learning_rate", "1e-9"]
    weights = {}
    for name, extra in {"pretrained": [], "new": ["--from_scratch", "true"]}.items():
        load_main(STAGE)(flags(root, f"start_{name}", *more, *extra))
        weights[name] = load_file(root / f"start_{name}" / "classifier" / "model.safetensors")
    load_main(STAGE)(flags(root, "start_seed", *more, "--from_scratch", "true", "--seed", "7"))
    other = load_file(root / "start_seed" / "classifier" / "model.safetensors")
    backbone = load_file(root / "01_pretrain" / "backbone" / "model.safetensors")
    matrices = [name for name in weights["new"] if weights["new"][name].dim() > 1]
    assert {name: weights["new"][name].shape for name in matrices} == {
        name: weights["pretrained"][name].shape for name in matrices
    }
    for name in matrices:
        spread = weights["new"][name].std().item()
        assert spread == pytest.approx(0.02, rel=0.25), f"{name}: Llama's initial weights"
        assert (weights["new"][name] - other[name]).abs().max() > 0.01, f"{name}: another seed draws others"
        if name in backbone:
            assert (weights["pretrained"][name] - backbone[name]).abs().max() < 1e-6
            assert (weights["new"][name] - backbone[name]).abs().max() > 0.01


def test_risk_over_time_ends_with_the_prediction(root):
    more = ["--risk_over_time", "[test]", "--random_truncation", "true", "--training.max_steps", "4"]
    load_main(STAGE)(flags(root, "over_time", *more, "--training.eval_steps", "2"))
    risks = artifacts.read_table("risk_over_time", root / "over_time")
    predictions = artifacts.read_table("predictions", root / "over_time").filter(pl.col("split") == "test")
    both = risks.join(predictions, on="subject_id", suffix="_end")
    assert both.height == risks.height == predictions.height
    assert set(risks["model"]) == {"classifier_urt"}
    last = both["probability"].list.last() - both["probability_end"]
    assert last.abs().max() < 1e-5
    assert (both["probability"].list.len() == both["times"].list.len()).all()
    assert artifacts.read_done(root / "over_time", STAGE)["rows"]["risk_over_time"] == risks.height


@pytest.mark.parametrize(
    "more",
    [
        ["--loss", "balanced", "--layer_learning_rate_decay", "0.5"],
        ["--loss", "focal", "--lora.rank", "4", "--lora.dropout", "0.1", "--random_truncation", "true"],
    ],
    ids=["layer_rates", "lora"],
)
def test_a_stopped_run_with_its_own_rates_or_adapters_goes_on_exactly(root, more, monkeypatch):
    """The optimizer's groups, the adapters and the cuts are those of the run never stopped."""
    more = [*more, "--training.num_epochs", "2", "--training.eval_steps", "3"]
    name = more[1]
    load_main(STAGE)(flags(root, f"{name}_whole", *more))
    asked = {"times": 0}

    def stop_at_7(self):
        asked["times"] += 1
        self.name = "SIGUSR1" if asked["times"] >= 7 else None
        return self.name is not None

    with monkeypatch.context() as patched:
        patched.setattr("clinrep.stop_signal.StopSignal.agree", stop_at_7)
        with pytest.raises(SystemExit) as caught:
            load_main(STAGE)(flags(root, f"{name}_parts", *more))
        assert caught.value.code == 75
    assert not (root / f"{name}_parts" / "classifier").exists()
    load_main(STAGE)(flags(root, f"{name}_parts", *more))
    whole, parts = (read_losses(root / f"{name}_{part}") for part in ("whole", "parts"))
    assert len(whole) > 8
    assert whole == parts
    one, two = (artifacts.read_table("predictions", root / f"{name}_{part}") for part in ("whole", "parts"))
    assert one.equals(two)


def test_lower_layers_learn_more_slowly(root):
    """Adam's first step moves a weight by its learning rate whatever the gradient."""
    more = ["--layer_learning_rate_decay", "0.5", "--training.max_steps", "1", "--training.eval_steps", "1"]
    load_main(STAGE)(flags(root, "rates", *more))
    before = load_file(root / "01_pretrain" / "backbone" / "model.safetensors")
    after = load_file(root / "rates" / "classifier" / "model.safetensors")
    moved = {name: (after[name] - before[name]).abs().max().item() / 0.01 for name in before if name in after}
    for part, factor in (("layers.1.mlp", 0.5), ("layers.0.mlp", 0.25), ("embed_tokens", 0.125)):
        found = max(value for name, value in moved.items() if part in name)
        assert found == pytest.approx(factor, rel=0.02), part


def read_losses(directory: Path) -> list[tuple[int, float, float]]:
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    values = {(record["step"], record["name"]): record["value"] for record in records}
    steps = sorted({step for step, name in values if name == "loss"})
    return [(step, values[step, "loss"], values[step, "learning_rate"]) for step in steps]


def test_a_search_for_auroc_goes_upwards_and_its_best_trial_is_the_result(root):
    space = {"training.learning_rate": {"choices": [1e-7, 0.01]}, "lora.rank": {"choices": [0, 2]}}
    more = ["--metric_for_best", "auroc", "--search.num_trials", "4", "--search.space", json.dumps(space)]
    load_main(STAGE)(flags(root, "searched", *more, "--search.pruner", "none", "--training.num_epochs", "2"))
    directory = root / "searched"
    trials = pl.read_csv(directory / "search" / "trials.csv")
    assert trials["eval_auroc"].n_unique() > 1
    best = trials.filter(pl.col("eval_auroc") == trials["eval_auroc"].max())["number"][0]
    folder = directory / "trials" / f"trial-{best:04d}"
    predictions = artifacts.read_table("predictions", directory)
    assert predictions.equals(pl.read_parquet(folder / "predictions.parquet"))
    for number in set(trials["number"]) - {best}:
        kept = {path.name for path in (directory / "trials" / f"trial-{number:04d}").iterdir()}
        assert not kept & {"classifier", "predictions.parquet", "checkpoints"}
    val = predictions.filter(pl.col("split") == "val")
    found = roc_auc_score(val["label"].to_numpy(), val["probability"].to_numpy())
    assert found == pytest.approx(trials["eval_auroc"].max(), abs=1e-9)


def list_train_losses(directory: Path) -> list[float]:
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [record["value"] for record in records if record["name"] == "loss"]


def test_how_a_step_is_divided_into_passes_changes_no_loss(root, finished):
    load_main(STAGE)(flags(root, "passes", "--pass_tokens", "100"))
    assert list_train_losses(root / "passes") == pytest.approx(list_train_losses(finished), abs=2e-5)


@pytest.fixture(scope="module")
def of_two_ranks(root) -> Path:
    """The run `finished`, by two processes with unequal numbers of passes."""
    done = run_script(STAGE, *flags(root, "rank_passes", "--pass_tokens", "70"), launcher=TWO_RANKS)
    assert done.returncode == 0, done.stderr
    return root / "rank_passes"


@pytest.mark.slow
def test_two_ranks_with_unequal_numbers_of_passes_learn_and_predict_what_one_rank_does(finished, of_two_ranks):
    """Two ranks with equal passes: tests/test_training_sharding.py."""
    assert list_train_losses(of_two_ranks) == pytest.approx(list_train_losses(finished), abs=2e-5)
    alone, ranks = (artifacts.read_table("predictions", path) for path in (finished, of_two_ranks))
    assert alone.drop("probability").equals(ranks.drop("probability"))
    assert np.abs(alone["probability"].to_numpy() - ranks["probability"].to_numpy()).max() < 1e-3


def test_passes_by_tokens_and_sharded_weights_are_refused(root):
    with pytest.raises(InputError, match="equally many passes"):
        load_main(STAGE)(flags(root, "x", "--pass_tokens", "70", "--training.fsdp", "true"))


@pytest.mark.slow
def test_a_signal_while_torch_is_loaded_is_saved_and_the_same_command_continues(root, finished):
    """The log is there as soon as the run is open, and torch takes seconds from there on."""
    directory = root / "early"
    with (root / "early.log").open("w") as log:
        command = [sys.executable, f"{STAGE}.py", *flags(root, "early")]
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not (directory / "run.log").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 75, (root / "early.log").read_text()
    assert json.loads((directory / "STOPPED").read_text()) == {"step": 1, "signal": "SIGTERM"}
    load_main(STAGE)(flags(root, "early"))
    predictions = [artifacts.read_table("predictions", path) for path in (finished, directory)]
    assert predictions[0].equals(predictions[1])


@pytest.mark.slow
def test_another_number_of_processes_is_refused_and_nothing_is_lost(root, of_two_ranks, caplog):
    directory = root / "other_size"
    shutil.copytree(of_two_ranks, directory)
    (directory / "DONE").unlink()
    files = set(directory.rglob("checkpoint-*/*"))
    with caplog.at_level("INFO", logger="clinrep"):
        check_refused(
            STAGE,
            flags(root, "other_size", "--pass_tokens", "70"),
            "was saved by 2 processes and this run has 1; start 2",
        )
    assert " sequences" not in caplog.text, "said before the data are read"
    assert files == set(directory.rglob("checkpoint-*/*"))


def test_compiling_ever_other_lengths_is_refused(root):
    with pytest.raises(InputError, match=r"training\.compile is True but must be false"):
        load_main(STAGE)(flags(root, "compiled", "--training.compile", "true"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--outcome", "icu"], "unknown outcome"),
        (["--timelines_dir", "nowhere"], "--timelines_dir nowhere does not exist"),
        (["--training.learning_rat", "1"], "learning_rat"),
        (["--lora.rank", "2", "--lora.targets", "[query]"], "lora.targets holds 'query'"),
        (["--risk_over_time", "[tset]"], "unknown split in risk_over_time 'tset'"),
        (["--training_fraction", "-1"], "training_fraction is -1.0 but must be in [0, 1]"),
        (["--training_fraction", "0"], "training_fraction is 0.0 but must be above 0 without classifier_dir"),
        (["--from_scratch", "true", "--lora.rank", "2"], "lora.rank is 2 but must be 0 with from_scratch"),
    ],
)
def test_bad_input_is_one_message_and_no_directory(root, more, words):
    check_refused(STAGE, flags(root, "bad", *more), words)
    assert not (root / "bad").exists()


@pytest.mark.slow
def test_bad_input_found_with_torch_loaded_ends_with_code_2(root):
    wrong = flags(root, "bad", "--lora.rank", "2", "--lora.targets", "[query]")
    check_program_refused([f"{STAGE}.py", *wrong], ("holds 'query'",))
    assert not (root / "bad").exists()
