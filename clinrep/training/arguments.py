"""Settings of this project in the words of transformers.TrainingArguments."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.integrations import TensorBoardCallback

from clinrep import distributed
from clinrep.config import InputError
from clinrep.run import Run
from clinrep.training.attention import PACKED_ATTENTION
from clinrep.training.task import Task
from clinrep.training_config import TRACKERS, TrainingConfig, divide_step

logger = logging.getLogger("clinrep")


def make_arguments(config: TrainingConfig, run: Run, task: Task) -> TrainingArguments:
    """Return Trainer's arguments: ours where a setting decides, and all it would print off."""
    is_cpu = distributed.choose_device().type == "cpu"
    most = task.items_per_step if task.is_divided_by_collate else config.batch_size
    batch_size, num_passes = divide_step(task.items_per_step, distributed.get_world_size(), most)
    if not task.is_divided_by_collate and 2 * batch_size < min(config.batch_size, batch_size * num_passes):
        logger.warning(
            "a rank's %d items of a step divide into forward passes of %d only, not of up to %d: slow; choose a "
            "global batch with more divisors",
            *(batch_size * num_passes, batch_size, config.batch_size),
        )
    arguments = TrainingArguments(
        output_dir=str(run.directory / "checkpoints"),
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.scheduler,
        warmup_steps=config.warmup_fraction,  # below 1 it is a share of all steps
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        num_train_epochs=config.num_epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=num_passes,
        average_tokens_across_devices=True,
        bf16=config.precision == "bf16",
        dataloader_num_workers=config.num_workers,
        dataloader_pin_memory=not is_cpu,
        remove_unused_columns=False,
        eval_strategy="no",  # StageFlow says when
        save_strategy="steps",  # or Trainer does not remember the best step
        save_steps=config.eval_steps,
        metric_for_best_model=task.metric_for_best,
        greater_is_better=task.greater_is_better,
        logging_steps=1,
        logging_nan_inf_filter=False,
        seed=distributed.derive_seed(run.config.seed, "training"),
        use_cpu=is_cpu,
        ddp_backend=("gloo" if is_cpu else "nccl") if distributed.get_world_size() > 1 else None,
        ddp_find_unused_parameters=False,
        report_to=list(config.report_to) or "none",
        push_to_hub=False,
        project="clinrep",
        run_name="/".join(run.directory.parts[-3:]),
        disable_tqdm=True,
        log_level="error",
        log_level_replica="error",
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process uses one GPU; Trainer would reach for DataParallel
    return arguments


def prepare_model(model: PreTrainedModel, config: TrainingConfig) -> None:
    """Apply the settings that change how a model computes, not what."""
    if distributed.choose_device().type == "cuda":
        # TF32 for what autocast leaves in fp32; said both ways, for trials of a search follow one another
        torch.set_float32_matmul_precision("high" if config.precision == "bf16" else "highest")
        if config.precision == "fp32" and model.config._attn_implementation == PACKED_ATTENTION:
            logger.warning("packed attention in fp32 takes documents one by one, which is slow: FlashAttention is bf16")
    if config.gradient_checkpointing:
        with warnings.catch_warnings():  # renamed in transformers 5.23, not in 5.17
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if config.compile:
        torch._dynamo.reset()  # what trials before this one compiled counts against a limit
        layers: Any = model.model.layers
        for layer in layers:  # one by one, so that the gradients of one are sent while the next are computed
            layer.compile(dynamic=False)


def check_settings(config: TrainingConfig) -> None:
    """Refuse settings that need what is not here: a tracker, a GPU, other processes."""
    for name in config.report_to:
        if importlib.util.find_spec(TRACKERS[name]) is None:
            raise InputError(f"report_to names {name}, which is not installed: pip install {TRACKERS[name]}")
    if config.fsdp and distributed.get_world_size() == 1:
        raise InputError(
            "training.fsdp is true but there is only one process, which has no other to share with; start several "
            "(torchrun --nproc_per_node=2 and more), or use --training.fsdp false"
        )
    if config.fsdp and not hasattr(Trainer, "_defer_fsdp_gradient_reduction"):
        # 5.17's Trainer would wrap the sharded model in DDP as well
        raise InputError(
            f"training.fsdp is true but transformers {transformers.__version__} is too old for it; install the version "
            "in requirements.txt, or use --training.fsdp false"
        )
    if config.compile and config.gradient_checkpointing and distributed.choose_device().type == "cpu":
        # torch.compile leaves a checkpointed layer alone where its attention breaks the graph, and says nothing
        raise InputError(
            "training.compile and training.gradient_checkpointing are both true but on a CPU nothing would be "
            "compiled then; use --training.compile false, or GPUs"
        )


def place_trackers(callbacks: list[Any], run: Run) -> None:
    """Let the trackers write into the run directory, whatever the environment says: it holds what it may hold."""
    os.environ["WANDB_DIR"] = os.fspath(run.directory)
    os.environ["TRACKIO_DIR"] = os.fspath(run.directory / "trackio")
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = os.fspath(run.directory / "tensorboard")
