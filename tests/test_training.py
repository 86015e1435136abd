"""The training loop on a tiny model: losses against a plain torch loop, stop, resume, best weights."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from clinrep.config import InputError, StageConfig
from clinrep.run import Run
from clinrep.training import StopSignal, mean_token_loss, save_model, train
from clinrep.training_config import TrainingConfig

VOCABULARY, LENGTH = 11, 6
CONFIG = TrainingConfig(learning_rate=0.01, batch_size=2, max_steps=12, eval_steps=4, scheduler="constant_with_warmup")


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Random rows whose number of targets differs much from row to row."""

    def __init__(self, num_rows: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(1, VOCABULARY, (num_rows, LENGTH), generator=generator)
        self.labels = self.ids.clone()
        for row in range(num_rows):
            self.labels[row, : 1 + row % (LENGTH - 1)] = -100
        self.visits: list[int] = []

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.visits.append(index)
        return {"input_ids": self.ids[index], "labels": self.labels[index]}


FILLER = {"input_ids": torch.zeros(LENGTH, dtype=torch.int64), "labels": torch.full((LENGTH,), -100)}


def make_model(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, pad_token_id=0, tie_word_embeddings=True, **sizes))


def make_run(directory: Path) -> Run:
    directory.mkdir(parents=True, exist_ok=True)
    return Run("01_pretrain", StageConfig(output_dir=str(directory), show_progress=False), directory, {})


def run_training(
    directory: Path,
    rows: Rows,
    config: TrainingConfig = CONFIG,
    evaluate: Any = None,
    model: LlamaForCausalLM | None = None,
    **named: Any,
) -> tuple[LlamaForCausalLM, Run]:
    run = make_run(directory)
    if evaluate is None:
        evaluate = partial(mean_token_loss, dataset=Rows(7, seed=5), batch_size=3)
    with StopSignal() as stop:
        return train(model or make_model(), rows, FILLER, evaluate, config, run, stop, **named), run


def read_metrics(directory: Path, name: str) -> dict[int, float]:
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    steps = [record["step"] for record in records if record["name"] == name]
    assert len(steps) == len(set(steps)), "a step appears twice"
    return {record["step"]: record["value"] for record in records if record["name"] == name}


def sum_token_losses(model: torch.nn.Module, rows: Rows) -> tuple[float, int]:
    """Return summed cross-entropy and number of targets, token by token, in numpy."""
    total, count = 0.0, 0
    for ids, labels in zip(rows.ids, rows.labels, strict=True):
        with torch.no_grad():
            logits = model(input_ids=ids[None], use_cache=False).logits[0].double().numpy()
        for place in range(1, LENGTH):
            if labels[place] != -100:
                scores = logits[place - 1]
                total += np.log(np.exp(scores).sum()) - scores[labels[place]]
                count += 1
    return total, count


# The training step


@pytest.mark.parametrize(("batch_size", "accumulation"), [(5, 1), (1, 5), (2, 3)])
def test_losses_are_those_of_a_plain_loop(tmp_path: Path, batch_size: int, accumulation: int) -> None:
    """One step sees all 5 rows (2 x 3 with one filler), so the order does not matter."""
    rows = Rows(5)
    config = replace(CONFIG, batch_size=batch_size, gradient_accumulation_steps=accumulation, max_steps=6)
    run_training(tmp_path, rows, config)
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    expected, norms = [], []
    for _ in range(6):
        logits = model(input_ids=rows.ids, use_cache=False).logits[:, :-1]
        losses = functional.cross_entropy(logits.flatten(0, 1), rows.labels[:, 1:].flatten(), reduction="none")
        is_target = rows.labels[:, 1:].flatten() != -100
        loss = losses[is_target].sum() / is_target.sum()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    assert list(read_metrics(tmp_path, "loss").values()) == pytest.approx(expected, abs=1e-5)
    assert list(read_metrics(tmp_path, "grad_norm").values()) == pytest.approx(norms, abs=1e-4)


def test_every_row_counts_once_an_epoch(tmp_path: Path) -> None:
    rows = Rows(7)
    run_training(tmp_path, rows, replace(CONFIG, batch_size=2, max_steps=None, num_epochs=2))
    assert list(read_metrics(tmp_path, "loss")) == list(range(1, 9)), "4 steps of 2 rows an epoch"
    assert sorted(rows.visits[:7]) == sorted(rows.visits[7:]) == list(range(7))
    assert rows.visits[:7] != rows.visits[7:], "epochs should differ in order"


def test_a_step_without_targets_changes_no_loss_to_nan(tmp_path: Path) -> None:
    rows = Rows(3)
    rows.labels[0] = -100
    model, _ = run_training(tmp_path, rows, replace(CONFIG, batch_size=1, max_steps=6))
    losses = list(read_metrics(tmp_path, "loss").values())
    assert losses.count(0.0) == 2
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"the training loss is (nan|inf) at step"):
        run_training(tmp_path, Rows(4), replace(CONFIG, learning_rate=1e30, max_grad_norm=1e30))


def test_learning_rate_warms_up_and_falls(tmp_path: Path) -> None:
    config = replace(CONFIG, scheduler="linear", warmup_fraction=0.25, max_steps=8)
    run_training(tmp_path, Rows(4), config)
    found = list(read_metrics(tmp_path, "learning_rate").values())
    expected = [0.0, 0.005, 0.01] + [0.01 * left / 6 for left in (5, 4, 3, 2, 1)]
    assert found == pytest.approx(expected)


# Validation


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_validation_loss_is_the_mean_over_all_targets(batch_size: int) -> None:
    model, rows = make_model().eval(), Rows(8)
    total, count = sum_token_losses(model, rows)
    found = mean_token_loss(model, rows, batch_size)
    assert found["eval_loss"] == pytest.approx(total / count, abs=1e-6)


def test_validation_is_every_eval_steps_and_last_with_the_weights_of_that_step(tmp_path: Path) -> None:
    seen: list[float] = []

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append(mean_token_loss(model, Rows(7, seed=5), 2)["eval_loss"])
        return {"eval_loss": seen[-1], "eval_other": 2.0}

    run_training(tmp_path, Rows(4), replace(CONFIG, max_steps=10), evaluate)
    assert read_metrics(tmp_path, "eval_loss") == dict(zip((4, 8, 10), seen, strict=True))
    assert set(read_metrics(tmp_path, "eval_other")) == {4, 8, 10}
    assert len(set(seen)) == 3


@pytest.mark.parametrize(("is_greater", "best"), [(False, 2), (True, 3)])
def test_the_best_weights_are_returned(tmp_path: Path, is_greater: bool, best: int) -> None:
    values, weights = iter([3.0, 1.0, 9.0, 2.0, 3.0]), []

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"eval_score": next(values)}

    config = replace(CONFIG, max_steps=10, eval_steps=2, keep_checkpoints=1)
    model, _ = run_training(
        tmp_path, Rows(4), config, evaluate, metric_for_best="eval_score", greater_is_better=is_greater
    )
    assert all(torch.equal(value, weights[best - 1][name]) for name, value in model.state_dict().items())
    assert not torch.equal(weights[best - 1]["lm_head.weight"], weights[-1]["lm_head.weight"])
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {f"checkpoint-{2 * best}", "checkpoint-10"}, "the best and the newest always stay"


def test_early_stopping_and_a_resume_after_it(tmp_path: Path) -> None:
    values = iter([3.0, 1.0, 2.0, 1.5, 0.5])
    config = replace(CONFIG, max_steps=20, eval_steps=2, early_stopping_patience=2)
    rows = Rows(4)
    run_training(tmp_path, rows, config, lambda model: {"eval_loss": next(values)})
    assert max(read_metrics(tmp_path, "loss")) == 8
    rows.visits.clear()
    run_training(tmp_path, rows, config, lambda model: {"eval_loss": next(values)})
    assert not rows.visits, "killed between its last checkpoint and DONE, a run should train no further"
    assert list(read_metrics(tmp_path, "eval_loss").values()) == [3.0, 1.0, 2.0, 1.5]


# Stop and resume


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
    whole, _ = run_training(tmp_path / "whole", Rows(5))
    handlers = [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)]
    _, run = run_training(tmp_path / "stopped", Rows(5), model=make_model_that_signals(step, which))
    stopped = json.loads((tmp_path / "stopped" / "STOPPED").read_text())
    assert run.is_stopped
    assert stopped == {"step": step, "signal": which.name}
    assert max(read_metrics(tmp_path / "stopped", "loss")) == step
    assert [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)] == handlers
    resumed, run = run_training(tmp_path / "stopped", Rows(5))
    assert not run.is_stopped
    texts = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "stopped")]
    assert texts[0] == texts[1]
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_killed_run_resumes_from_its_newest_complete_checkpoint(tmp_path: Path) -> None:
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
    assert metrics.read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()


def test_without_a_checkpoint_a_run_starts_anew(tmp_path: Path) -> None:
    run_training(tmp_path / "whole", Rows(5))
    (tmp_path / "other" / "checkpoints" / "checkpoint-4").mkdir(parents=True)
    (tmp_path / "other" / "metrics.jsonl").write_text('{"step": 1, "split": "train", "name": "loss", "value": 9}\n')
    run_training(tmp_path / "other", Rows(5))
    assert (tmp_path / "other" / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()


def test_a_checkpoint_of_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    run_training(tmp_path, Rows(5))
    marker = tmp_path / "checkpoints" / "checkpoint-12" / "COMPLETE"
    marker.write_text(marker.read_text().replace('"world_size": 1', '"world_size": 4'))
    with pytest.raises(InputError, match="saved by 4 processes and this run has 1"):
        run_training(tmp_path, Rows(5))


def test_a_saved_model_holds_what_later_stages_load_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "vocabulary.parquet").write_text("x")
    model = make_model()
    save_model(model, make_run(tmp_path / "run"), "backbone", [tmp_path / "vocabulary.parquet"])
    folder = tmp_path / "run" / "backbone"
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "vocabulary.parquet"}
    loaded = LlamaForCausalLM.from_pretrained(folder)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["backbone"]
