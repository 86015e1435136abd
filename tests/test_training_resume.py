"""Stop, resume, crash: a run that was ended goes on as the uninterrupted one, and never silently starts over."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from clinrep.config import InputError
from clinrep.training import check_start
from clinrep.training.checkpoints import Checkpoints
from clinrep.training_config import TrainingConfig
from tests.tiny_training import (
    CONFIG,
    ChangingRows,
    Rows,
    collate_with_counts,
    make_model,
    make_run,
    read_exact,
    read_metrics,
    run_training,
)


def make_model_that_signals(at_step: int, which: signal.Signals) -> LlamaForCausalLM:
    """Return a model whose forward pass of training step `at_step` gets this process a signal."""
    model, steps = make_model(), iter(range(1, 1000))

    def before_forward(module: torch.nn.Module, inputs: Any) -> None:
        if module.training and next(steps) == at_step:
            os.kill(os.getpid(), which)

    model.register_forward_pre_hook(before_forward)
    return model


@pytest.mark.parametrize(("which", "step"), [(signal.SIGUSR1, 5), (signal.SIGTERM, 8), (signal.SIGUSR1, 12)])
def test_a_stopped_and_resumed_run_is_the_uninterrupted_one(tmp_path: Path, which: signal.Signals, step: int) -> None:
    """Stopped between validations, at one in the middle of an epoch, and in the last step."""
    whole, _ = run_training(tmp_path / "whole", Rows(5), collate=collate_with_counts)
    handlers = [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)]
    model = make_model_that_signals(step, which)
    _, run = run_training(tmp_path / "stopped", Rows(5), model=model, collate=collate_with_counts)
    stopped = json.loads((tmp_path / "stopped" / "STOPPED").read_text())
    assert run.is_stopped
    assert stopped == {"step": step, "signal": which.name}
    assert max(read_metrics(tmp_path / "stopped", "loss")) == step
    assert [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)] == handlers
    resumed, run = run_training(tmp_path / "stopped", Rows(5), collate=collate_with_counts)
    assert not run.is_stopped
    assert read_exact(tmp_path / "stopped") == read_exact(tmp_path / "whole")
    names = {name for _, split, name, _ in read_exact(tmp_path / "whole") if split == "train"}
    assert names == {"loss", "learning_rate", "grad_norm", "tokens_per_second", "data_seconds"}
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_killed_run_resumes_from_its_newest_complete_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed while saving its last checkpoint and while writing a line."""
    config = replace(CONFIG, keep_checkpoints=3)
    run_training(tmp_path / "whole", Rows(5), config)
    run_training(tmp_path / "killed", Rows(5), config)
    (tmp_path / "killed" / "checkpoints" / "checkpoint-12" / "COMPLETE").unlink()
    metrics = tmp_path / "killed" / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-20])
    rows = Rows(5)
    run_training(tmp_path / "killed", rows, config)
    assert len(rows.visits) <= 10, "rows of the 8 steps already done should not be loaded again"
    assert read_exact(tmp_path / "killed") == read_exact(tmp_path / "whole")
    assert "checkpoint-12 is incomplete" in caplog.text
    assert "goes 4 steps beyond the newest checkpoint" in caplog.text


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resume_within_a_later_epoch_is_exact_whatever_the_epoch_changes(tmp_path: Path, num_workers: int) -> None:
    """Epochs of 4 steps; stopped after step 6, in the second, where order and tokens are others."""
    run_training(tmp_path / "whole", ChangingRows(8))
    config = replace(CONFIG, num_workers=num_workers)
    model = make_model_that_signals(6, signal.SIGUSR1)
    _, run = run_training(tmp_path / "stopped", ChangingRows(8), config, model=model)
    assert run.is_stopped
    assert json.loads((tmp_path / "stopped" / "STOPPED").read_text())["step"] == 6
    run_training(tmp_path / "stopped", ChangingRows(8), config)
    assert read_exact(tmp_path / "stopped") == read_exact(tmp_path / "whole")


def test_the_order_is_that_of_seed_and_epoch_also_after_a_resume(tmp_path: Path) -> None:
    rows = ChangingRows(8)
    run_training(tmp_path / "whole", rows)
    orders = [rows.visits[8 * epoch : 8 * epoch + 8] for epoch in range(3)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    run_training(tmp_path / "stopped", ChangingRows(8), model=make_model_that_signals(6, signal.SIGUSR1))
    resumed = ChangingRows(8)
    run_training(tmp_path / "stopped", resumed)
    assert resumed.visits == orders[1][4:] + orders[2]
    assert resumed.epoch == 2


def test_a_dataset_that_changes_its_length_is_our_own_mistake(tmp_path: Path) -> None:
    rows = ChangingRows(8)
    rows.length_changes = 1
    with pytest.raises(AssertionError, match="an epoch changed the number of items"):
        run_training(tmp_path, rows)


def test_checkpoints_can_be_saved_between_validations_without_changing_anything(tmp_path: Path) -> None:
    run_training(tmp_path / "whole", Rows(5))
    steps: list[int] = []
    complete = Checkpoints.complete
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "complete", lambda *words: (steps.append(words[1]), complete(*words))[1])
        run_training(tmp_path / "often", Rows(5), replace(CONFIG, save_steps=3))
    assert steps == [3, 4, 6, 8, 9, 12]
    assert read_exact(tmp_path / "often") == read_exact(tmp_path / "whole")


def test_without_a_checkpoint_a_run_starts_anew_and_says_what_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_training(tmp_path / "whole", Rows(5))
    assert "starts anew" not in caplog.text
    (tmp_path / "other" / "checkpoints" / "checkpoint-4").mkdir(parents=True)
    (tmp_path / "other" / "metrics.jsonl").write_text('{"step": 9, "split": "train", "name": "loss", "value": 9}\n')
    run_training(tmp_path / "other", Rows(5))
    assert read_exact(tmp_path / "other") == read_exact(tmp_path / "whole")
    assert "checkpoint-4 is incomplete" in caplog.text
    assert "holds 9 steps but no complete checkpoint is left: the training starts anew" in caplog.text


# Checkpoints that cannot be gone on from


def start(directory: Path, config: TrainingConfig = CONFIG) -> None:
    """Do what a stage does before it loads data and model."""
    check_start(make_run(directory), config, items_per_step=2)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """Return the directory of a run with checkpoint-8 and checkpoint-12; the best is in 8."""
    values = iter([3.0, 1.0, 2.0])
    run_training(tmp_path, Rows(5), evaluate=lambda model: {"eval_loss": next(values)})
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"checkpoint-8", "checkpoint-12"}
    start(tmp_path)
    return tmp_path


def list_files(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_checkpoint_of_another_number_of_processes_is_refused_before_the_data_are_read(finished: Path) -> None:
    marker = finished / "checkpoints" / "checkpoint-12" / "COMPLETE"
    marker.write_text(marker.read_text().replace('"world_size": 1', '"world_size": 4'))
    with pytest.raises(InputError, match="saved by 4 processes and this run has 1"):
        start(finished)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json", "rng_state.pth"])
def test_a_truncated_checkpoint_is_refused_and_kept_and_the_remedy_works(finished: Path, name: str) -> None:
    folder = finished / "checkpoints" / "checkpoint-12"
    size = (folder / name).stat().st_size
    with (folder / name).open("r+b") as file:
        file.truncate(size // 2)
    before = list_files(finished)
    words = (
        rf"checkpoint-12 is damaged \({name} has \d+ of {size} bytes\); remove that folder to go on from checkpoint-8"
    )
    for refused in (lambda: start(finished), lambda: run_training(finished, Rows(5))):
        with pytest.raises(InputError, match=words):
            refused()
    assert list_files(finished) == before
    shutil.rmtree(folder)
    rows = Rows(5)
    run_training(finished, rows, evaluate=lambda model: {"eval_loss": 9.0})
    assert len(rows.visits) <= 10, "only steps 9 to 12"


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth"])
def test_a_checkpoint_with_wrong_content_is_refused_and_kept(finished: Path, name: str) -> None:
    (finished / "STOPPED").touch()
    shutil.rmtree(finished / "checkpoints" / "checkpoint-12")
    path = finished / "checkpoints" / "checkpoint-8" / name
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(InputError, match=r"checkpoint-8 cannot be loaded .*; remove that folder to start anew"):
        run_training(finished, Rows(5))
    assert path.is_file()


@pytest.mark.parametrize("is_gone", [True, False])
def test_without_the_best_weights_there_is_nothing_to_go_on_to(finished: Path, is_gone: bool) -> None:
    folder = finished / "checkpoints" / "checkpoint-8"
    if is_gone:
        shutil.rmtree(folder)
    else:
        (folder / "model.safetensors").unlink()
    words = r"checkpoint-8, which holds the best weights, is damaged .* remove it and all newer ones to start anew"
    with pytest.raises(InputError, match=words):
        start(finished)


def test_a_kill_while_an_old_checkpoint_is_deleted_leaves_none_that_looks_complete(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if killed with a first file gone: the marker must not be among those still there."""

    def die(folder: Path) -> None:
        (folder / "optimizer.pt").unlink()
        raise KeyboardInterrupt

    checkpoints = Checkpoints(finished / "checkpoints", 1)
    checkpoints.path(16).mkdir()
    monkeypatch.setattr(shutil, "rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.complete(16, best_step=12)
    monkeypatch.undo()
    assert checkpoints.path(8).is_dir()
    assert checkpoints.find_newest() == 16
    assert not checkpoints.path(8).exists()


def test_a_tracker_that_is_not_installed_is_refused_before_the_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="report_to names wandb, which is not installed: pip install wandb"):
        start(tmp_path, replace(CONFIG, report_to=["wandb"]))


def test_an_unknown_tracker_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"unknown tracker in report_to 'wandbb'; known: tensorboard, trackio, wandb"):
        replace(CONFIG, report_to=["wandbb"])
