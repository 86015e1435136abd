"""train: one model, one task, transformers.Trainer as the loop. Nothing of a modality."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel, PrinterCallback, TrainerState

from clinrep import artifacts, distributed, file_access
from clinrep.run import Run, RunError
from clinrep.stop_signal import StopSignal
from clinrep.training.arguments import check_settings, make_arguments, place_trackers, prepare_model
from clinrep.training.checkpoints import Checkpoints
from clinrep.training.metrics_log import MetricsLog
from clinrep.training.progress import Progress
from clinrep.training.sharding import ShardedTrainer
from clinrep.training.task import EpochSampler, FilledDataset, Task
from clinrep.training.throughput import StepMeter, count_parameters, measure_model
from clinrep.training.trainer import OnValidation, StageFlow, StageTrainer, is_patience_over, make_epoch_starter
from clinrep.training_config import TrainingConfig, divide_step

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

logger = logging.getLogger("clinrep")


def check_start(run: Run, config: TrainingConfig, items_per_step: int) -> None:
    """Refuse at once, before data and model are loaded, what `train` would refuse; every rank calls it.

    Raises:
        InputError: the checkpoints of `run` are damaged or of another number of processes, the ranks cannot
            share the items of a step, or a setting needs what is not here: a tracker, a GPU, several processes.
    """
    divide_step(items_per_step, distributed.get_world_size(), config.batch_size)
    check_settings(config)
    _find_checkpoints(run, config).check()


def check_share(config: Any) -> None:
    """Refuse settings whose optimizer step the ranks cannot share; `config` has `items_per_step` and `training`.

    Raises:
        InputError: as `divide_step`.
    """
    divide_step(config.items_per_step, distributed.get_world_size(), config.training.batch_size)


def train(
    model: PreTrainedModel,
    task: Task,
    config: TrainingConfig,
    run: Run,
    stop: StopSignal,
    *,
    on_validation: OnValidation | None = None,
) -> PreTrainedModel:
    """Return `model` with the best weights; after a stop by a signal (`run.is_stopped`) with the last ones.

    The same call on a directory that holds checkpoints continues after the newest complete one, and
    every later loss is that of a run never stopped (on a CPU to the last bit). Every rank calls it.

    Args:
        model: gives `.loss` from a batch with `labels`; its loss must leave out label -100 and divide by
            `num_items_in_batch`, as those of transformers do. Go on with what is returned: it may be another object.
        task: what is learned and how it is validated.
        config: steps, batch size and the optimizer's settings.
        run: the open run; gets `checkpoints/` and `metrics.jsonl`, and `stop` when a signal came.
        stop: entered since before the data were read, so that a signal of that time counts too.
        on_validation: called with the step and its metrics on every rank, after each validation and its
            checkpoint, not again for those before a resume; where it returns True, the same on every rank, the
            training ends as if that step were the last.

    Raises:
        InputError: as `check_start`.
        RunError: the loss is not finite.
    """
    check_start(run, config, task.items_per_step)
    checkpoints = _find_checkpoints(run, config)
    first_step = checkpoints.find_newest()
    _log_disk(checkpoints, run, count_parameters(model))
    with ExitStack() as stack:
        trainer = _make_trainer(model, task, config, run, checkpoints)
        if run.is_main:
            trainer.metrics_log = stack.enter_context(MetricsLog(run.directory / "metrics.jsonl", first_step))
        trainer.progress = stack.enter_context(Progress(run.is_main and run.config.show_progress))
        start_epoch = make_epoch_starter(trainer.train_dataset, trainer.sampler, task.items_per_step)
        trainer.add_callback(StageFlow(config, checkpoints, stop, trainer.progress, start_epoch, on_validation))
        state = _run_or_skip(trainer, config, first_step)
    if stop.name is not None:
        run.stop(state.global_step, stop.name)
        return trainer.return_model(state.global_step)
    step = state.best_global_step
    if not step:
        raise RunError(f"{task.metric_for_best} was never a finite number; lower training.learning_rate")
    logger.info("best %s %.4f at step %d", task.metric_for_best, state.best_metric, step)
    return trainer.return_model(step)


def save_model(model: PreTrainedModel, run: Run, folder: str, companions: Sequence[Path]) -> None:
    """Write config.json, model.safetensors (fp32) and copies of `companions` to `folder`, at once or not at all."""
    if not run.is_main:
        return
    with artifacts.atomic_path(run.directory / folder) as temporary:
        model.save_pretrained(temporary)
        (temporary / "generation_config.json").unlink(missing_ok=True)
        for path in companions:
            shutil.copyfile(path, temporary / path.name)
        file_access.apply_access(temporary)
    logger.info("saved %s", run.directory / folder)


def _find_checkpoints(run: Run, config: TrainingConfig) -> Checkpoints:
    return Checkpoints(run.directory / "checkpoints", config.keep_checkpoints)


def _make_trainer(
    model: PreTrainedModel, task: Task, config: TrainingConfig, run: Run, checkpoints: Checkpoints
) -> StageTrainer:
    """Return a Trainer that still lacks its log, its progress and its flow."""
    prepare_model(model, config)
    dataset = FilledDataset(task.dataset, task.items_per_step, task.filler)
    meter = StepMeter(measure_model(model), config.peak_tflops)
    trainer_class = ShardedTrainer if config.fsdp else StageTrainer
    trainer = trainer_class(
        model=model, args=make_arguments(config, run, task), train_dataset=dataset, data_collator=task.collate
    )
    num_shares = distributed.get_world_size() if task.is_divided_by_collate else 1
    trainer.sampler = EpochSampler(dataset, task.items_per_step, run.config.seed, num_shares)
    trainer.find_rate_factor = task.find_rate_factor
    trainer.meter, trainer.checkpoints, trainer.evaluate_with = meter, checkpoints, task.evaluate
    trainer.remove_callback(PrinterCallback)
    place_trackers(trainer.callback_handler.callbacks, run)
    return trainer


def _log_disk(checkpoints: Checkpoints, run: Run, num_parameters: int) -> None:
    """Say how much disk the run needs and what is free; warn where that is too little."""
    if not run.is_main:
        return
    needed = checkpoints.estimate_bytes(num_parameters) + 4 * num_parameters  # and the saved model in fp32
    free = shutil.disk_usage(run.directory).free + checkpoints.count_bytes()
    level = logging.WARNING if free < needed else logging.INFO
    words = "disk: checkpoints and model need up to %.3g GB in %s, %.3g GB are free"
    logger.log(level, words + (": too little" if free < needed else ""), needed / 1e9, run.directory, free / 1e9)


def _run_or_skip(trainer: StageTrainer, config: TrainingConfig, first_step: int) -> TrainerState:
    """Train on from `first_step`, unless that checkpoint is already the end; return the last state."""
    if first_step:
        state = trainer.checkpoints.read_state(first_step)
        # A run killed after its last checkpoint: Trainer would train one step too many.
        if state.global_step >= state.max_steps or is_patience_over(state, config):
            if distributed.get_rank() == 0:  # killed before it could
                trainer.checkpoints.remove_oldest(first_step, state.best_global_step)
            return state
    trainer.train(resume_from_checkpoint=str(trainer.checkpoints.path(first_step)) if first_step else None)
    return trainer.state
