"""The training loop on a tiny model: losses against a plain torch loop, validation, best weights, early end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import LlamaForCausalLM

from clinrep.config import InputError
from clinrep.training import mean_token_loss, save_model
from clinrep.training_config import divide_step
from tests.tiny_training import CONFIG, LENGTH, Rows, make_model, make_run, read_metrics, run_training


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


@pytest.mark.parametrize(("batch_size", "items_per_step"), [(5, 5), (1, 5), (2, 6)])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_losses_are_those_of_a_plain_loop(
    tmp_path: Path, batch_size: int, items_per_step: int, gradient_checkpointing: bool
) -> None:
    """One step sees all 5 rows (6 with one filler), so the order does not matter."""
    rows = Rows(5)
    config = replace(CONFIG, batch_size=batch_size, gradient_checkpointing=gradient_checkpointing, max_steps=6)
    run_training(tmp_path, rows, config, items_per_step=items_per_step)
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
    run_training(tmp_path, rows, replace(CONFIG, max_steps=None, num_epochs=2))
    assert list(read_metrics(tmp_path, "loss")) == list(range(1, 9)), "4 steps of 2 rows an epoch"
    assert sorted(rows.visits[:7]) == sorted(rows.visits[7:]) == list(range(7))
    assert rows.visits[:7] != rows.visits[7:], "epochs should differ in order"


def test_a_step_without_targets_changes_no_loss_to_nan(tmp_path: Path) -> None:
    rows = Rows(3)
    rows.labels[0] = -100
    model, _ = run_training(tmp_path, rows, replace(CONFIG, max_steps=6), items_per_step=1)
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


@pytest.mark.parametrize("batch_size", [1, 3])
def test_validation_takes_flattened_batches_and_leaves_their_keys_to_the_model(batch_size: int) -> None:
    """Rows of a batch one after another in a single row of T tokens, with a number for the model beside them."""
    model, rows = make_model().eval(), Rows(8)
    seen: list[dict[str, Any]] = []

    def flatten(items: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
        batch = {name: torch.cat([item[name] for item in items])[None] for name in ("input_ids", "labels")}
        positions = torch.arange(LENGTH).repeat(len(items))[None]
        counts = {"num_tokens": 1, "attention_pairs": 1}
        return {**batch, "position_ids": positions, "max_length_q": LENGTH, **counts}

    def watch(module: torch.nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        seen.append(named)

    model.register_forward_pre_hook(watch, with_kwargs=True)
    total, count = sum_token_losses(model, rows)
    seen.clear()
    found = mean_token_loss(model, rows, batch_size, collate=flatten)
    assert found["eval_loss"] == pytest.approx(total / count, abs=1e-6)
    assert all(named["max_length_q"] == LENGTH for named in seen)
    assert not any({"num_tokens", "attention_pairs", "labels"} & named.keys() for named in seen)


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


# An end decided by the caller, as a hyperparameter search does


def test_the_caller_hears_of_each_validation_after_its_checkpoint_and_can_end_the_training(tmp_path: Path) -> None:
    heard: list[tuple[int, dict[str, float]]] = []

    def prune(step: int, metrics: dict[str, float]) -> bool:
        assert (tmp_path / "checkpoints" / f"checkpoint-{step}" / "COMPLETE").is_file()
        heard.append((step, metrics))
        return step == 8

    values = iter([1.0, 2.0, 3.0])
    model, run = run_training(
        tmp_path,
        Rows(4),
        replace(CONFIG, save_steps=3),
        lambda model: {"eval_loss": next(values)},
        on_validation=prune,
    )
    assert heard == [(4, {"eval_loss": 1.0}), (8, {"eval_loss": 2.0})], "not after the saves at 3 and 6"
    assert max(read_metrics(tmp_path, "loss")) == 8
    assert not run.is_stopped
    assert not (tmp_path / "STOPPED").exists()
    best = load_file(tmp_path / "checkpoints" / "checkpoint-4" / "model.safetensors")
    weight = model.state_dict()["model.embed_tokens.weight"]
    assert torch.equal(weight, best["model.embed_tokens.weight"]), "the best weights, as at a normal end"


# The recipe is the same for any memory


@pytest.mark.parametrize(
    ("items", "ranks", "batch_size", "expected"),
    [(64, 8, 8, (8, 1)), (64, 1, 8, (8, 8)), (12, 2, 5, (3, 2)), (7, 1, 4, (1, 7)), (4, 4, 100, (1, 1))],
)
def test_a_step_is_divided_into_equal_forward_passes(items, ranks, batch_size, expected) -> None:
    assert divide_step(items, ranks, batch_size) == expected


@pytest.mark.parametrize("ranks", [4, 16])
def test_a_step_that_ranks_cannot_share_is_refused(ranks: int) -> None:
    with pytest.raises(InputError, match=f"step has 10 items, which {ranks} processes .* make the global batch"):
        divide_step(10, ranks, 8)


def test_the_memory_limit_changes_no_loss(tmp_path: Path) -> None:
    losses = []
    for size in (1, 2, 6):
        run_training(tmp_path / str(size), Rows(20), replace(CONFIG, batch_size=size), items_per_step=6)
        losses.append(list(read_metrics(tmp_path / str(size), "loss").values()))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0] == pytest.approx(losses[2], abs=1e-5)


def test_the_log_says_the_resolved_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "clinrep"):
        run_training(tmp_path, Rows(20), replace(CONFIG, batch_size=4), items_per_step=6)
    assert "training: 12 steps of 6 items on 1 ranks, each 3 x 2" in caplog.text


# The saved model


def test_a_saved_model_holds_what_later_stages_load_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "vocabulary.parquet").write_text("x")
    model = make_model()
    save_model(model, make_run(tmp_path / "run"), "backbone", [tmp_path / "vocabulary.parquet"])
    folder = tmp_path / "run" / "backbone"
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "vocabulary.parquet"}
    loaded = LlamaForCausalLM.from_pretrained(folder)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["backbone"]
