"""search: several trainings with other settings each, by Optuna; the best one's weights are the result.

Every rank runs every trial. Rank 0 alone knows Optuna; what it decides reaches the others as plain values,
so a pruned trial ends on all of them at the same validation.
"""

from __future__ import annotations

import gc
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from optuna.trial import TrialState

from clinrep import artifacts, distributed
from clinrep.config import FREE_SETTINGS, InputError, config_to_dict, config_to_yaml, flatten, lookup
from clinrep.error_text import describe_error
from clinrep.run import Run, RunError
from clinrep.search_config import SearchConfig, apply, check_space, list_corners
from clinrep.stop_signal import StopSignal
from clinrep.training.loop import save_model
from clinrep.training.search_locks import read_holder
from clinrep.training.trainer import OnValidation
from clinrep.training.trials import Offer, Trials

logger = logging.getLogger("clinrep")

ValueT = TypeVar("ValueT")
# (config of a trial, its run, on_validation) -> what is trained, in whatever form `Save` takes it
TrainTrial = Callable[[Any, Run, OnValidation], Any]
Save = Callable[[Any, Run], None]


def save_backbone(trained: tuple[Any, Sequence[Path]], run: Run) -> None:
    """Write `backbone/` of a model and the files to lie beside it."""
    save_model(trained[0], run, "backbone", trained[1])


def search(
    config: Any,
    run: Run,
    stop: StopSignal,
    train_trial: TrainTrial,
    *,
    save: Save = save_backbone,
    outputs: Sequence[str] = ("backbone",),
    check: Callable[[Any], None] = lambda config: None,
    metric: str = "eval_loss",
    greater_is_better: bool = False,
) -> None:
    """Run trials until `config.search.num_trials` are done; make the `outputs` of the best one those of the run.

    The same command continues: first the trials that were broken off, each from its checkpoints. Trials and
    journal lie in `config.output_dir`: `trials/trial-NNNN/` with config.yaml, metrics.jsonl and, of the best,
    the outputs; `search/journal.log` and, for people, `search/trials.csv`. One of several workers
    (`config.search.worker`) ends when no trial is left to begin; the command without worker then takes the
    result, and metrics.jsonl of the run is the best trial's. Every rank calls it.

    Args:
        config: settings of the stage, with a group `search`.
        run: the open run; of a worker, one of its own. Gets `stop` when a signal came.
        stop: entered before.
        train_trial: trains with a trial's settings in a trial's run, whose directory it may hold checkpoints
            of; it must write metrics.jsonl, call `on_validation(step, metrics)` on every rank after each
            validation that is new, and end where that returns True.
        save: writes the outputs of what a trial trained into its run; called on every rank, for a trial better than all
            before it.
        outputs: names of the files and folders that `save` writes, the one others read first.
        check: raises an InputError for settings that this machine cannot run, as `check_share`; called with each
            bound and each choice of the space.
        metric: the metric whose best value over the validations of a trial is the trial's value.
        greater_is_better: whether that metric should rise.

    Raises:
        InputError: the space does not fit the settings, the directory holds another search, or trials are
            still being run by workers.
        RunError: no trial was completed.
    """
    space = check_space(config)
    for corner in list_corners(config, space):  # at the start, not in the trial that draws it
        check(corner)
    trials = Trials(Path(config.output_dir), config.search, config.seed, metric, greater_is_better, outputs)
    distributed.run_on_main(lambda: trials.open(space, _list_settings(config, run)))
    distributed.run_on_main(trials.tidy)
    trainer = _Searcher(config, run, stop, train_trial, save, trials, metric)
    while not stop.agree():
        offer = distributed.run_on_main(trials.take)
        if offer is None:
            break
        try:
            trainer.run_trial(offer)
        finally:
            trials.let_go()
    if stop.name is not None:
        if not run.is_stopped:
            run.stop(0, stop.name)
    elif config.search.worker is None:
        run.rows |= distributed.run_on_main(lambda: _take_result(run, trials, metric))
    else:
        logger.info("no trial is left to begin; the same command without --search.worker takes the result")


class _Searcher:
    """Runs one trial after another."""

    def __init__(
        self,
        config: Any,
        run: Run,
        stop: StopSignal,
        train_trial: TrainTrial,
        save: Save,
        trials: Trials,
        metric: str,
    ) -> None:
        self._config, self._run, self._stop = config, run, stop
        self._train_trial, self._save, self._trials, self._metric = train_trial, save, trials, metric

    def run_trial(self, offer: Offer) -> None:
        """Run a trial to its end, or to where a signal stops it."""
        begins = "begins" if offer.is_new else "continues"
        logger.info("trial %d %s: %s", offer.number, begins, _describe(offer.values))
        try:
            alone = apply(self._config, {"search": SearchConfig()})
            trial_run = Run(self._run.stage, apply(alone, offer.values), offer.folder, self._run.inputs)
        except InputError as error:  # each value is possible (check_space), but not all of them together
            self._fail(offer, str(error))
            return
        if self._run.is_main:
            artifacts.write_text(offer.folder / "config.yaml", config_to_yaml(trial_run.config))
            (offer.folder / "STOPPED").unlink(missing_ok=True)
        watch = _Watch(trial_run, self._trials, offer.number, self._metric)
        trained = self._train(offer, trial_run, watch)
        if watch.is_pruned:
            logger.info("trial %d is pruned at step %d", offer.number, watch.step)
            self._tell(offer, TrialState.PRUNED)
        elif trial_run.is_stopped:
            self._run.stop(_read_stopped_step(trial_run), self._stop.name or "a signal")
        elif trained is not None:
            self._complete(offer, trial_run, trained)
        del trained
        gc.collect()  # the next trial's model must find the device empty
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _train(self, offer: Offer, trial_run: Run, watch: _Watch) -> Any:
        """Return what `train_trial` returns; None after a failure, which all ranks agree on."""
        has_complete = distributed.run_on_main(lambda: self._trials.find_best() is not None)
        trained, failure = None, ""
        try:
            trained = self._train_trial(trial_run.config, trial_run, watch)
        except InputError as error:
            # Tells of the command rather than of this trial's values where no trial was completed yet, and
            # where this one could be trained before.
            if not has_complete or any((offer.folder / "checkpoints").glob("*")):
                raise
            failure = str(error)
        except RuntimeError as error:
            # A loss that is not finite is so on every rank. Memory that ran out is another type; the other
            # ranks wait for the one without, and only the launcher ends them.
            if distributed.get_world_size() > 1 and not isinstance(error, RunError):
                raise
            failure = str(error) if isinstance(error, RunError) else describe_error(error)
        # Where a rank was killed this raises on the others: the trial is then broken off, not failed.
        (num_failures,) = distributed.sum_numbers([float(bool(failure))])
        if num_failures:
            self._fail(offer, failure or "another rank failed")
            return None
        return trained

    def _fail(self, offer: Offer, reason: str) -> None:
        logger.warning("trial %d failed: %s", offer.number, reason)
        self._tell(offer, TrialState.FAIL)

    def _complete(self, offer: Offer, trial_run: Run, trained: Any) -> None:
        """Save the outputs of a trial better than all before; only then does it count as complete."""
        found = distributed.run_on_main(lambda: self._trials.find_best_step(self._trials.read()[offer.number]))
        if found is None:
            self._fail(offer, f"{self._metric} was never a finite number")
            return
        if distributed.run_on_main(lambda: self._trials.is_best(offer.number)):
            self._save(trained, trial_run)
            distributed.wait_for_all()
        distributed.run_on_main(lambda: self._trials.remember_rows(offer.number, trial_run.rows))
        self._tell(offer, TrialState.COMPLETE)
        logger.info("trial %d is complete: %s %.4f at step %d", offer.number, self._metric, *found)

    def _tell(self, offer: Offer, state: TrialState) -> None:
        distributed.run_on_main(lambda: self._trials.tell(offer.number, state))


class _Watch:
    """Called after each validation of a trial; says on every rank whether to prune it."""

    def __init__(self, trial_run: Run, trials: Trials, number: int, metric: str) -> None:
        self._run, self._trials, self._number, self._metric = trial_run, trials, number, metric
        self.is_pruned = False
        self.step = 0

    def __call__(self, step: int, metrics: dict[str, float]) -> bool:
        self.step = step
        value = lookup(metrics, self._metric, "metric of the search")
        self.is_pruned = distributed.run_on_main(lambda: self._ask(step, value))
        return self.is_pruned

    def _ask(self, step: int, value: float) -> bool:
        self._trials.report(self._number, step, value)
        return self._trials.is_to_prune(self._number)


def _list_settings(config: Any, run: Run) -> dict[str, Any]:
    """Return all that decides what a trial computes; of an input what counts is its content."""
    settings = flatten(config_to_dict(config))
    free = {"search.num_trials", "search.worker"} | run.inputs.keys()
    kept = {
        key: value for key, value in settings.items() if key not in free and key.split(".")[-1] not in FREE_SETTINGS
    }
    return kept | {f"the content of {key}": digest for key, digest in run.inputs.items()}


def _take_result(run: Run, trials: Trials, metric: str) -> dict[str, int]:
    """Make the best trial's outputs and metrics those of the run; return its row counts."""
    running = trials.read(TrialState.RUNNING)
    if running:
        holders = [(trial.number, read_holder(trials.folder(trial.number))) for trial in running]
        words = [f"{number} (worker {holder.get('worker')} on {holder.get('host')})" for number, holder in holders]
        raise InputError(
            f"trials are still being run: {', '.join(words)}; wait for these workers. One that was killed goes on "
            f"with its trial when started again with its --search.worker, or from its own machine"
        )
    best = trials.find_best()
    if best is None:
        table = run.directory / "search" / "trials.csv"
        raise RunError(f"none of the {len(trials.read())} trials was completed, see {table}; change search.space")
    for leftover in run.directory.glob(f".{trials.outputs[0]}.*.tmp"):  # of a kill; others are small
        shutil.rmtree(leftover)
    folder, found = trials.folder(best.number), trials.find_best_step(best)
    for name in (*trials.outputs, "metrics.jsonl"):
        copy = shutil.copytree if (folder / name).is_dir() else shutil.copyfile
        with artifacts.atomic_path(run.directory / name) as temporary:
            copy(folder / name, temporary)
    assert found is not None
    logger.info("best is trial %d: %s %.4f at step %d, %s", best.number, metric, *found, _describe(best.params))
    rows: dict[str, int] = best.user_attrs["rows"]
    return rows


def _describe(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def _read_stopped_step(trial_run: Run) -> int:
    """Return the step a stopped trial was saved at; 0 on ranks that write nothing."""
    if not trial_run.is_main:
        return 0
    step: int = json.loads((trial_run.directory / "STOPPED").read_text())["step"]
    return step
