"""Training with fsdp on two ranks: the numbers, files and models of DDP, from half the memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.ehr.models import load_language_model
from clinrep.training import check_start
from clinrep.training.arguments import check_settings
from tests.ehr.fake_models import write_fake_backbone_run
from tests.ehr.fake_timelines import write_fake_tokenizer_run
from tests.jobs import MEASURED, TORCHRUN, Job, read_metrics
from tests.scripts import check_refused, load_main
from tests.tiny_training import CONFIG, make_run

STEPS = 30
TRAINING = {"learning_rate": 0.003, "batch_size": 1, "max_steps": STEPS, "eval_steps": 10, "warmup_fraction": 0.1}
SHAPE = {"hidden_size": 32, "intermediate_size": 32, "num_layers": 2, "num_heads": 2, "num_key_value_heads": 1}
PRETRAIN = {"block_size": 32, "global_batch_tokens": 128, "model": {**SHAPE, "max_positions": 64}, "training": TRAINING}
FINETUNE = {
    "outcome": "icu_admission",
    "max_length": 64,
    "metric_for_best": "loss",
    "global_batch_size": 8,
    "training": {"learning_rate": 0.01, "batch_size": 2, "max_steps": 4, "eval_steps": 2},
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config of stage 01 and one of stage 02, and what tests/sharding_worker.py made of them."""
    folder = tmp_path_factory.mktemp("sharding")
    timelines = write_fake_tokenizer_run(folder / "00", num_subjects=40, seed=2)
    backbone = write_fake_backbone_run(folder / "01", timelines)
    for name, more in (("pretrain", PRETRAIN), ("finetune", {**FINETUNE, "backbone_dir": str(backbone)})):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**more, "timelines_dir": str(timelines)}))
    job = Job([*TORCHRUN, "-m", "tests.sharding_worker", str(folder)], folder / "worker")
    try:
        assert job.process.wait(timeout=300) == 0, job.log_path.read_text()
    except subprocess.TimeoutExpired:  # ranks that wait for each other
        job.kill()
        raise
    return folder


@pytest.fixture(scope="module")
def facts(workshop: Path) -> list[dict[str, Any]]:
    """What each of the two ranks found."""
    return [json.loads((workshop / f"facts-{rank}.json").read_text()) for rank in (0, 1)]


def give_flags(workshop: Path, output: str, *more: str) -> list[str]:
    return ["--config", str(workshop / "pretrain.yaml"), "--output_dir", str(workshop / output), *more]


# Stage 01


@pytest.mark.slow
def test_losses_and_gradient_norms_are_those_of_ddp(workshop: Path) -> None:
    """With an odd number of validation blocks, so that the ranks have unequal numbers of forward passes."""
    assert json.loads((workshop / "pretrain-true" / "DONE").read_text())["rows"]["blocks/val"] % 2 == 1
    ddp, fsdp = (read_metrics(workshop / f"pretrain-{choice}") for choice in ("false", "true"))
    assert ddp.keys() == fsdp.keys()
    assert {name for _, name in fsdp} == {"loss", "learning_rate", "grad_norm", "eval_loss", *MEASURED[:2]}
    assert len([step for step, name in fsdp if name == "grad_norm"]) == STEPS
    far = {key: (ddp[key], fsdp[key]) for key in ddp if abs(ddp[key] - fsdp[key]) > 1e-5}
    assert not far
    assert fsdp[STEPS, "eval_loss"] < fsdp[1, "loss"] - 0.3, "it should learn"


@pytest.mark.slow
def test_the_backbone_and_the_checkpoints_are_files_as_without_sharding(workshop: Path) -> None:
    ddp, fsdp = (workshop / f"pretrain-{choice}" for choice in ("false", "true"))
    for folder in ("backbone", f"checkpoints/checkpoint-{STEPS}"):
        assert {path.name for path in (ddp / folder).iterdir()} == {path.name for path in (fsdp / folder).iterdir()}
        assert (ddp / folder / "config.json").read_text() == (fsdp / folder / "config.json").read_text()
        one, two = (load_file(run / folder / "model.safetensors") for run in (ddp, fsdp))
        assert {name: (value.shape, value.dtype) for name, value in one.items()} == {
            name: (value.shape, value.dtype) for name, value in two.items()
        }
        assert max(float((value - two[name]).abs().max()) for name, value in one.items()) < 1e-4
    model = load_language_model(fsdp / "backbone")
    assert type(model).__name__ == "LlamaForCausalLM"
    assert all(torch.equal(model.state_dict()[name], value) for name, value in two.items())


@pytest.mark.slow
def test_stopped_by_sigterm_and_resumed_is_the_uninterrupted_run(workshop: Path, facts: list[dict[str, Any]]) -> None:
    """A signal to the launcher of two ranks: tests/test_01_pretrain.py."""
    assert [found["code"] for found in facts] == [75, 75]
    whole, again = workshop / "pretrain-true", workshop / "stopped"
    assert json.loads((workshop / "stopped.json").read_text()) == {"step": 3, "signal": "SIGTERM"}
    marker = json.loads((workshop / "stopped-checkpoints/checkpoint-3/COMPLETE").read_text())
    assert marker["world_size"] == 2
    assert {"model.safetensors", "optimizer.pt", "rng_state_0.pth", "rng_state_1.pth"} <= marker["files"].keys()
    assert "resuming after step 3" in (again / "run.log").read_text()
    assert (again / "DONE").is_file()
    assert read_metrics(again) == read_metrics(whole)
    weights = [(path / "backbone" / "model.safetensors").read_bytes() for path in (whole, again)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_run_cannot_change_to_or_from_sharding(workshop: Path) -> None:
    with pytest.raises(InputError, match=r"training\.fsdp was True, now False"):
        load_main("01_pretrain")(give_flags(workshop, "pretrain-true", "--training.fsdp", "false"))


@pytest.mark.slow  # as `workshop` is
def test_one_process_is_refused_and_leaves_nothing(workshop: Path) -> None:
    flags = give_flags(workshop, "alone", "--training.fsdp", "true")
    check_refused("01_pretrain", flags, "training.fsdp is true but there is only one process")
    assert not (workshop / "alone").exists()


# Stage 02


@pytest.mark.slow
def test_a_classifier_predicts_as_one_trained_without_sharding_and_by_one_process(workshop: Path) -> None:
    ddp, fsdp = (artifacts.read_table("predictions", workshop / f"finetune-{choice}") for choice in ("false", "true"))
    load_main("02_finetune")(["--config", str(workshop / "finetune.yaml"), "--output_dir", str(workshop / "one")])
    one = artifacts.read_table("predictions", workshop / "one")
    assert one.drop("probability").equals(ddp.drop("probability"))
    assert ddp.drop("probability").equals(fsdp.drop("probability"))
    assert np.abs(ddp["probability"].to_numpy() - fsdp["probability"].to_numpy()).max() < 1e-5
    assert np.abs(ddp["probability"].to_numpy() - one["probability"].to_numpy()).max() < 1e-3
    untrained = load_file(workshop / "01/backbone/model.safetensors")["model.norm.weight"]
    trained = load_file(workshop / "finetune-true/classifier/model.safetensors")
    assert "score.weight" in trained
    assert not torch.equal(untrained, trained["model.norm.weight"])


# What the ranks hold


@pytest.mark.slow
@pytest.mark.parametrize("what", ["weights", "gradients", "moments"])
def test_each_rank_holds_half_of_the_training_state(facts: list[dict[str, Any]], what: str) -> None:
    """At an optimizer step after a validation. The vocabulary of 11 is shared out as 6 and 5."""
    held = [found["shares"][what][0] for found in facts]
    whole = facts[0]["shares"]["weights"][1] * (2 if what == "moments" else 1)
    assert [found["shares"][what][1] for found in facts] == [whole, whole]
    assert sum(held) == whole
    assert max(held) < 0.51 * whole


@pytest.mark.slow
def test_layers_are_shared_out_again_between_forward_and_backward(facts: list[dict[str, Any]]) -> None:
    """Also in the steps after a validation, which held them whole."""
    for found in facts:
        held, whole = found["shares"]["layers_after_forward"]
        assert held == whole / 2


@pytest.mark.slow
def test_validation_needs_no_other_rank_and_has_the_weights_of_its_step(facts: list[dict[str, Any]]) -> None:
    assert [found["shares"]["passes"] for found in facts] == [4, 2], "of two validations"
    for found in facts:
        held, whole = found["shares"]["validation"]
        assert held == whole
        recorded, again = found["shares"]["eval_loss"]
        assert recorded == pytest.approx(again, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpointing", "bf16"])
def test_options_compute_what_they_compute_without_sharding(facts: list[dict[str, Any]], name: str) -> None:
    """Tied embeddings, two forward passes a step, and a rank 1 whose weights were others at the start."""
    found = facts[0]["losses"][name]
    for metric in ("loss", "grad_norm", "eval_loss"):
        ddp, fsdp = found[metric]
        assert fsdp == pytest.approx(ddp, abs=1e-5), metric
    ddp, fsdp = found["flops"]  # a token, from mfu: those of the whole model
    assert fsdp == pytest.approx(ddp, rel=1e-6)


# Ends, resumes, refusals


@pytest.mark.slow
def test_every_rank_gets_a_plain_model(facts: list[dict[str, Any]]) -> None:
    expected = {"class": "LlamaForCausalLM", "types": ["Parameter torch.float32"], "attention": "sdpa"}
    for found in facts:
        assert found["shares"]["model"] == expected, "after the last step"
        assert found["stop"]["model"] == expected, "after a stop"


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_both_and_gives_the_weights_of_that_step(facts: list[dict[str, Any]]) -> None:
    for found in facts:
        assert found["stop"]["is_stopped"]
        assert found["stop"]["is_of_step_6"]
        assert found["stop"]["is_exact"]
        assert found["stop"]["resumed_is_whole"]


@pytest.mark.slow
def test_a_run_killed_after_its_last_checkpoint_gives_its_weights(facts: list[dict[str, Any]]) -> None:
    for found in facts:
        assert found["stop"]["visits_after_the_end"] == 0
        assert found["stop"]["ended_is_whole"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["early", "pruned"])
def test_a_validation_can_end_the_run_with_the_best_weights(facts: list[dict[str, Any]], name: str) -> None:
    assert [found["ends"][name] for found in facts] == [[8, True], [8, True]]
    assert [found["ends"]["heard"] for found in facts] == [[4, 8], [4, 8]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "optimizer",
            r"checkpoint-8 cannot be loaded \(.*weights_only.*; remove that folder to go on from checkpoint-4",
        ),
        (
            "weights",
            r"checkpoint-8 cannot be loaded \(SafetensorError: .*; remove that folder to go on from checkpoint-4",
        ),
        (
            "lacking",
            r"checkpoint-8 cannot be loaded \(.*model.safetensors lacks model.norm.weight, or has it in another",
        ),
        ("best", r"checkpoint-4 cannot be loaded \(model.safetensors lacks model.norm.weight\); remove that folder"),
    ],
)
def test_a_damaged_checkpoint_is_explained_on_every_rank(facts: list[dict[str, Any]], name: str, words: str) -> None:
    for found in facts:
        assert re.search(words, found["refusals"][name], re.DOTALL), found["refusals"][name]


@pytest.mark.slow
def test_another_number_of_ranks_is_refused(facts: list[dict[str, Any]]) -> None:
    for found in facts:
        assert "checkpoint-12 was saved by 4 processes and this run has 2" in found["other_ranks"]


@pytest.mark.slow
def test_layers_are_compiled_before_they_are_sharded(facts: list[dict[str, Any]]) -> None:
    assert facts[0]["compiled"] == ["LlamaDecoderLayer"]


# Settings refused before the data are read


def test_sharding_needs_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, fsdp=True)
    with pytest.raises(InputError, match=r"there is only one process.*torchrun.*--training\.fsdp false"):
        check_start(make_run(tmp_path), config, items_per_step=2)
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    check_settings(config)
    monkeypatch.delattr("transformers.Trainer._defer_fsdp_gradient_reduction")
    with pytest.raises(InputError, match=r"transformers [\d.]+ is too old for it"):
        check_settings(config)


def test_compiled_checkpointed_layers_need_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, compile=True, gradient_checkpointing=True)
    monkeypatch.setattr("clinrep.distributed.choose_device", lambda: torch.device("cpu"))
    with pytest.raises(InputError, match=r"on a CPU nothing would be compiled then; use --training\.compile false"):
        check_start(make_run(tmp_path), config, items_per_step=2)
    check_settings(replace(config, compile=False))
    monkeypatch.setattr("clinrep.distributed.choose_device", lambda: torch.device("cuda"))
    check_settings(config)
