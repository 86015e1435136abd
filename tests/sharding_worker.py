"""What two ranks that train with fsdp find: FOLDER/facts-RANK.json, for tests/test_training_sharding.py.

python -m torch.distributed.run --standalone --nproc_per_node=2 -m tests.sharding_worker FOLDER

One program for all of it, because to start torch twice takes longer than everything it does. FOLDER holds
pretrain.yaml and finetune.yaml.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from clinrep import distributed
from clinrep.config import InputError
from clinrep.training import check_start, mean_token_loss
from tests.scripts import load_main
from tests.tiny_training import (
    CONFIG,
    Rows,
    collate_with_counts,
    make_model,
    make_run,
    read_exact,
    read_metrics,
    run_training,
)

SHARDED = replace(CONFIG, fsdp=True)
Facts = dict[str, Any]


def count(tensors: Iterator[torch.Tensor]) -> list[int]:
    """Return the numbers this rank holds of `tensors`, and all of them."""
    tensors = list(tensors)
    held = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return [sum(tensor.numel() for tensor in held), sum(tensor.numel() for tensor in tensors)]


@contextmanager
def watched_optimizer(sizes: Facts) -> Iterator[None]:
    """Record, at each optimizer step, what the optimizer holds."""

    def look(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        sizes["weights"] = count(iter(weights))
        sizes["gradients"] = count(weight.grad for weight in weights)
        sizes["moments"] = count(
            optimizer.state[weight][name] for weight in weights for name in ("exp_avg_sq", "exp_avg")
        )

    handle = register_optimizer_step_post_hook(look)
    yield
    handle.remove()


def is_equal(model: torch.nn.Module, path: Path) -> bool:
    """Return whether `model` holds the weights of a file, no more and no fewer."""
    saved, state = load_file(path), model.state_dict()
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return saved.keys() == state.keys() and all(torch.equal(value, saved[name]) for name, value in state.items())


def describe(model: torch.nn.Module) -> Facts:
    return {
        "class": type(model).__name__,
        "types": sorted({f"{type(weight).__name__} {weight.dtype}" for weight in model.parameters()}),
        "attention": model.config._attn_implementation,
    }


def find_shares(folder: Path) -> Facts:
    """Sizes in training and in validation, where the ranks have two forward passes and one."""
    sizes: Facts = {}
    passes = 0

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        def add(*unused: Any) -> None:
            nonlocal passes
            passes += 1

        sizes["validation"] = count(model.parameters())
        handle = model.register_forward_hook(add)
        metrics = mean_token_loss(model, Rows(7, seed=5), 3)
        handle.remove()
        return metrics

    def after_forward(module: Any, *unused: Any) -> None:
        if module.training:
            sizes["layers_after_forward"] = count(module.model.layers.parameters())

    model = make_model(tie_word_embeddings=False, num_hidden_layers=2)
    model.register_forward_hook(after_forward)
    config = replace(SHARDED, max_steps=4, eval_steps=2)
    with watched_optimizer(sizes):
        model, _ = run_training(folder, Rows(5), config, evaluate, model=model)
    best = min(read_metrics(folder, "eval_loss").values())
    again = mean_token_loss(model.eval(), Rows(7, seed=5), 3)["eval_loss"] if passes else 0.0
    return {**sizes, "passes": passes, "eval_loss": [best, again], "model": describe(model)}


def find_losses(folder: Path) -> Facts:
    """Numbers of DDP and of FSDP; rank 1 begins with other weights, two passes a step."""
    found: Facts = {}
    for name, changes in (("checkpointing", {"gradient_checkpointing": True}), ("bf16", {"precision": "bf16"})):
        for fsdp in (False, True):
            config = replace(CONFIG, batch_size=1, max_steps=6, fsdp=fsdp, peak_tflops=1e-3, **changes)
            path = folder / f"{name}-{fsdp}"
            model = make_model(seed=distributed.get_rank())
            run_training(path, Rows(6), config, model=model, items_per_step=4, collate=collate_with_counts)
        if distributed.get_rank() == 0:
            pair = [folder / f"{name}-{fsdp}" for fsdp in (False, True)]
            found[name] = {
                metric: [list(read_metrics(path, metric).values()) for path in pair]
                for metric in ("loss", "grad_norm", "eval_loss")
            }
            found[name]["flops"] = [
                read_metrics(path, "mfu")[5] / read_metrics(path, "tokens_per_second")[5] for path in pair
            ]
    return found


def find_stop(folder: Path) -> Facts:
    """A run stopped by a signal to rank 1 in step 6 and continued; ended already, it only gives its weights."""
    whole, _ = run_training(folder / "whole", Rows(5), SHARDED)
    model, steps = make_model(), iter(range(1, 1000))

    def before_forward(module: torch.nn.Module, inputs: Any) -> None:
        if module.training and next(steps) == 6 and distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    model.register_forward_pre_hook(before_forward)
    stopped, run = run_training(folder / "stopped", Rows(5), SHARDED, model=model)
    facts: Facts = {"is_stopped": run.is_stopped, "model": describe(stopped)}
    facts["is_of_step_6"] = is_equal(stopped, folder / "stopped/checkpoints/checkpoint-6/model.safetensors")
    resumed, _ = run_training(folder / "stopped", Rows(5), SHARDED)
    facts["is_exact"] = read_exact(folder / "stopped") == read_exact(folder / "whole")
    rows = Rows(5)
    ended, _ = run_training(folder / "stopped", rows, SHARDED)
    facts["visits_after_the_end"] = len(rows.visits)
    for name, other in (("resumed", resumed), ("ended", ended)):
        facts[f"{name}_is_whole"] = all(
            torch.equal(value, other.state_dict()[key]) for key, value in whole.state_dict().items()
        )
    return facts


def find_ends(folder: Path) -> Facts:
    """Ends that a validation decides; the best weights are those of step 4."""
    facts: Facts = {}
    heard: list[int] = []

    def prune(step: int, metrics: dict[str, float]) -> bool:
        heard.append(step)
        return step == 8

    for name, named, changes in (
        ("early", {}, {"early_stopping_patience": 1}),
        ("pruned", {"on_validation": prune}, {}),
    ):
        values = iter([1.0, 2.0, 3.0])
        config = replace(SHARDED, **changes)
        evaluate = lambda model, values=values: {"eval_loss": next(values)}  # noqa: E731
        model, _ = run_training(folder / name, Rows(5), config, evaluate, **named)
        best = folder / name / "checkpoints" / "checkpoint-4" / "model.safetensors"
        facts[name] = [max(read_metrics(folder / name, "loss")), is_equal(model, best)]
    return {**facts, "heard": heard}


def find_refusals(folder: Path) -> Facts:
    """What is said of checkpoints with wrong content: of step 8 when the run goes on, of the best at its end."""
    values = iter([1.0, 2.0, 3.0])
    sound = folder / "sound"
    run_training(sound, Rows(5), replace(SHARDED, keep_checkpoints=3), lambda model: {"eval_loss": next(values)})
    return {
        "optimizer": refuse(folder, "optimizer", 8, lambda path: fill(path / "optimizer.pt")),
        "weights": refuse(folder, "weights", 8, lambda path: fill(path / "model.safetensors")),
        "lacking": refuse(folder, "lacking", 8, drop_a_norm),
        "best": refuse(folder, "best", 4, drop_a_norm),
    }


def fill(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def drop_a_norm(path: Path) -> None:
    """Take one tensor out of the weights, in a checkpoint that is otherwise as it should be."""
    weights = load_file(path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    marker = json.loads((path / "COMPLETE").read_text())
    marker["files"]["model.safetensors"] = (path / "model.safetensors").stat().st_size
    (path / "COMPLETE").write_text(json.dumps(marker))


def refuse(folder: Path, name: str, step: int, damage: Callable[[Path], None]) -> str:
    """Return what a run says whose checkpoint of `step` is damaged; a newer one than 8 only where 8 is sound."""
    checkpoints = folder / name / "checkpoints"
    if distributed.get_rank() == 0:
        shutil.copytree(folder / "sound", folder / name)
        if step == 8:
            shutil.rmtree(checkpoints / "checkpoint-12")
        damage(checkpoints / f"checkpoint-{step}")
    distributed.wait_for_all()
    try:
        run_training(folder / name, Rows(5), SHARDED, lambda model: {"eval_loss": 9.0})
    except InputError as error:
        return str(error)
    return "nothing"


def find_other_ranks(folder: Path) -> str:
    """Return what is said of a checkpoint of four processes."""
    path = folder / "sound" / "checkpoints" / "checkpoint-12" / "COMPLETE"
    if distributed.get_rank() == 0:
        path.write_text(path.read_text().replace('"world_size": 2', '"world_size": 4'))
    distributed.wait_for_all()
    try:
        check_start(make_run(folder / "sound"), SHARDED, items_per_step=2)
    except InputError as error:
        return str(error)
    return "nothing"


def find_compiled(folder: Path) -> list[str]:
    """Return the classes of what is compiled: the compiler must see layers that are not sharded yet."""
    compiled: list[str] = []
    original = torch.nn.Module.compile
    torch.nn.Module.compile = lambda self, **named: compiled.append(type(self).__name__)  # type: ignore[method-assign]
    run_training(folder, Rows(5), replace(SHARDED, compile=True, max_steps=1))
    torch.nn.Module.compile = original  # type: ignore[method-assign]
    return compiled


def run_stages(folder: Path) -> None:
    """Run the stages with and without fsdp, in one process group."""
    for stage, name in (("01_pretrain", "pretrain"), ("02_finetune", "finetune")):
        for fsdp in ("false", "true"):
            flags = ["--config", str(folder / f"{name}.yaml"), "--output_dir", str(folder / f"{name}-{fsdp}")]
            load_main(stage)([*flags, "--training.fsdp", fsdp])


def stop_stage(folder: Path) -> int:
    """Run stage 01 with fsdp, stopped by a signal to rank 1 in step 3, and again; return the first exit code."""
    flags = ["--config", str(folder / "pretrain.yaml"), "--output_dir", str(folder / "stopped")]
    flags += ["--training.fsdp", "true"]
    steps = iter(range(1, 1000))

    def after_step(*unused: Any) -> None:
        if next(steps) == 3 and distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    handle = register_optimizer_step_post_hook(after_step)
    try:
        load_main("01_pretrain")(flags)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    handle.remove()
    distributed.wait_for_all()
    if distributed.get_rank() == 0:
        shutil.copy(folder / "stopped" / "STOPPED", folder / "stopped.json")
        shutil.copytree(folder / "stopped" / "checkpoints", folder / "stopped-checkpoints")
    distributed.wait_for_all()
    load_main("01_pretrain")(flags)
    return code


def main(folder: Path) -> None:
    gc.collect()
    gc.freeze()  # as in tests/conftest.py
    distributed.start_process_group()
    end = distributed.end_process_group
    distributed.end_process_group = lambda is_failing=False: None  # the next stage needs it
    run_stages(folder)
    tiny = folder / "tiny"
    facts = {
        "code": stop_stage(folder),
        "shares": find_shares(tiny / "shares"),
        "losses": find_losses(tiny / "losses"),
        "stop": find_stop(tiny / "stop"),
        "ends": find_ends(tiny / "ends"),
        "refusals": find_refusals(tiny / "refusals"),
        "other_ranks": find_other_ranks(tiny / "refusals"),
        "compiled": find_compiled(tiny / "compiled"),
    }
    (folder / f"facts-{distributed.get_rank()}.json").write_text(json.dumps(facts))
    end()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
