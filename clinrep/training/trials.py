"""The trials of a search: Optuna's journal and a folder for each, shared by several processes. Only rank 0 uses it."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.distributed import derive_seed
from clinrep.search_config import SearchConfig, SearchRange
from clinrep.training.search_locks import JournalLock, TrialLock

# Warnings of Optuna go where ours go; what it says of every trial is said by search.py.
optuna.logging.disable_default_handler()
optuna.logging.enable_propagation()
optuna.logging.set_verbosity(optuna.logging.WARNING)

STUDY = "search"
PRUNERS = {
    "median": lambda config: optuna.pruners.MedianPruner(n_startup_trials=config.num_unpruned_trials),
    "none": lambda config: optuna.pruners.NopPruner(),
}
SECONDS_OF_TURN = 60  # after which the turn of a process that was killed in it counts as over


@dataclass(frozen=True)
class Offer:
    """A trial that this process shall run."""

    number: int
    values: dict[str, Any]
    """Full name of a setting -> its value in this trial."""
    folder: Path
    is_new: bool


class Trials:
    """Trials as the journal has them. `metric` and its direction say which is the best."""

    def __init__(
        self,
        directory: Path,
        config: SearchConfig,
        seed: int,
        metric: str,
        greater_is_better: bool,
        outputs: Sequence[str] = ("backbone",),
    ) -> None:
        """`directory` is the search's; nothing is read or written before `open`.

        `outputs` are the files and folders that only the best trial keeps.
        """
        self.outputs = tuple(outputs)
        self._directory, self._config, self._seed = directory, config, seed
        self._metric, self._greater_is_better = metric, greater_is_better
        self._direction: Literal["minimize", "maximize"] = "maximize" if greater_is_better else "minimize"
        self._pruner = PRUNERS[config.pruner](config)
        self._held: TrialLock | None = None

    def open(self, space: Mapping[str, SearchRange], settings: Mapping[str, Any]) -> None:
        """Open the journal, or begin it.

        Args:
            space: full name of a setting -> its values, as `check_space` returns them.
            settings: all that decides what a trial computes; a search is continued only with the same.

        Raises:
            InputError: the journal is of a search with other settings.
        """
        folder = (self._directory / "search").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        self._distributions = {name: _make_distribution(values) for name, values in space.items()}
        self._turn_lock = JournalFileOpenLock(str(folder / "turn"), grace_period=SECONDS_OF_TURN)
        lock = JournalLock(str(folder / "journal.log"))
        backend = JournalFileBackend(str(folder / "journal.log"), lock)
        lock.acquire()
        lock.release()
        self._storage = JournalStorage(backend)
        with self._take_turn():
            self._study = optuna.create_study(
                storage=self._storage,
                sampler=optuna.samplers.RandomSampler(0),  # unused: see _suggest
                study_name=STUDY,
                direction=self._direction,
                load_if_exists=True,
            )
            saved = self._study.user_attrs.get("settings")
            now = json.loads(json.dumps(settings))
            if saved is None:
                self._study.set_user_attr("settings", now)
                saved = now
        if saved != now:
            differing = sorted(key for key in saved.keys() | now.keys() if saved.get(key) != now.get(key))
            words = "; ".join(f"{key} was {saved.get(key)!r}, now {now.get(key)!r}" for key in differing)
            raise InputError(
                f"{folder} holds a search with other settings: {words}. "
                f"Choose another --output_dir, or remove that directory to start over"
            )

    def folder(self, number: int) -> Path:
        """Return the folder of a trial."""
        return self._directory / "trials" / f"trial-{number:04d}"

    def take(self) -> Offer | None:
        """Return a trial to run and hold it: one that was broken off, else a new one, else None."""
        with self._take_turn():
            for trial in self.read(TrialState.RUNNING):
                if self._hold(trial.number):
                    if self.read()[trial.number].state != TrialState.RUNNING:  # it ended since it was listed
                        self.let_go()
                        continue
                    self._catch_up(trial.number)
                    if not self.is_to_prune(trial.number):
                        return Offer(trial.number, trial.params, self.folder(trial.number), is_new=False)
                    self.tell(trial.number, TrialState.PRUNED)
            number = len(self.read())
            if number >= self._config.num_trials:
                return None
            values = self._suggest()
            # One line of the journal, so that a trial has either all its values or does not exist.
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.RUNNING,
                    params=values,
                    distributions=self._distributions,
                    user_attrs={"worker": self._config.worker},
                )
            )
            assert self._hold(number)
            return Offer(number, values, self.folder(number), is_new=True)

    def report(self, number: int, step: int, value: float) -> None:
        """Remember what a validation found; a number that is not finite tells nothing and is left out."""
        if math.isfinite(value):
            study_id = self._storage.get_study_id_from_name(STUDY)
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
            self._storage.set_trial_intermediate_value(trial_id, step, value)

    def is_to_prune(self, number: int) -> bool:
        """Return whether the validations of a trial so far speak against going on with it."""
        trial = self.read()[number]
        if len(trial.intermediate_values) <= self._config.num_unpruned_validations:
            return False
        return self._pruner.prune(self._study, trial)

    def find_best_step(self, trial: FrozenTrial) -> tuple[float, int] | None:
        """Return the best value a trial has reported and its step, the first of equal ones; None before any."""
        sign = -1 if self._greater_is_better else 1
        reports = [(sign * value, step) for step, value in trial.intermediate_values.items()]
        if not reports:
            return None
        value, step = min(reports)
        return sign * value, step

    def find_best(self) -> FrozenTrial | None:
        """Return the completed trial with the best value, the first of equal ones; None before any."""
        return min(self.read(TrialState.COMPLETE), key=self._rank, default=None)

    def is_best(self, number: int) -> bool:
        """Return whether a trial beats every completed one."""
        best = self.find_best()
        return best is None or self._rank(self.read()[number]) < self._rank(best)

    def tell(self, number: int, state: TrialState) -> None:
        """Say how a trial ended, remove what is no longer needed, and let go of it.

        The outputs of a trial better than all others must be there before it is told COMPLETE.
        """
        is_complete = state == TrialState.COMPLETE
        if is_complete:
            is_saved = all((self.folder(number) / name).exists() for name in self.outputs)
            assert is_saved or not self.is_best(number), "outputs come first"
        best = self.find_best_step(self.read()[number])
        self._study.tell(number, best[0] if is_complete and best else None, state)
        self.tidy()
        self.let_go()

    def remember_rows(self, number: int, rows: Mapping[str, int]) -> None:
        """Keep the row counts of a trial for DONE."""
        study_id = self._storage.get_study_id_from_name(STUDY)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        self._storage.set_trial_user_attr(trial_id, "rows", dict(rows))

    def tidy(self) -> None:
        """Remove the checkpoints of ended trials and every ended trial's outputs but the best's; write trials.csv."""
        best = self.find_best()
        for trial in self.read():
            if trial.state.is_finished():
                is_best = best is not None and trial.number == best.number
                folder = self.folder(trial.number)
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
                outputs = [] if is_best else [folder / name for name in self.outputs]
                for path in [folder / "holder.json", *folder.glob(".*.tmp"), *outputs]:
                    if path.is_dir():
                        shutil.rmtree(path, ignore_errors=True)
                    path.unlink(missing_ok=True)
        artifacts.write_text(self._directory / "search" / "trials.csv", self._make_table())

    def let_go(self) -> None:
        """Let other processes continue the trial that is held, if it is not at its end."""
        if self._held is not None:
            self._held.release()
        self._held = None

    def read(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials by number, all or those in some states."""
        return self._study.get_trials(deepcopy=False, states=states or None)

    @contextmanager
    def _take_turn(self) -> Iterator[None]:
        """Keep the other processes of the search from choosing a trial meanwhile."""
        self._turn_lock.acquire()
        try:
            yield
        finally:
            self._turn_lock.release()

    def _hold(self, number: int) -> bool:
        self._held = TrialLock.acquire(self.folder(number), self._config.worker)
        return self._held is not None

    def _suggest(self) -> dict[str, Any]:
        """Return the next trial's values: a function of the seed, its number and the trials before it.

        A study in memory is asked, with a sampler made anew, so that restarts change nothing and no trial
        begins half-written. Trials running elsewhere count as if they turned out badly (constant_liar),
        so that workers try different values.
        """
        before = self.read()
        sampler = optuna.samplers.TPESampler(
            seed=derive_seed(self._seed, f"search/{len(before)}"),
            n_startup_trials=self._config.num_startup_trials,
            multivariate=True,
            constant_liar=True,
        )
        study = optuna.create_study(sampler=sampler, direction=self._direction)
        study.add_trials(before)
        return study.ask(self._distributions).params

    def _catch_up(self, number: int) -> None:
        """Report what metrics.jsonl of a broken-off trial says: it is written before the journal."""
        path = self.folder(number) / "metrics.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut off by a kill
            if (record["split"], record["name"]) == ("val", self._metric) and record["value"] is not None:
                self.report(number, record["step"], record["value"])

    def _rank(self, trial: FrozenTrial) -> tuple[float, int]:
        """Return what orders trials: two are never equal, so all processes agree on the best."""
        found = self.find_best_step(trial)
        assert found is not None
        return (-found[0] if self._greater_is_better else found[0]), trial.number

    def _make_table(self) -> str:
        """Return the trials as CSV, for people; the value of a pruned one is the best it had."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["number", "state", self._metric, "step", *self._distributions])
        for trial in self.read():
            found = self.find_best_step(trial) or ("", "")
            values = [trial.params[name] for name in self._distributions]
            table.writerow([trial.number, trial.state.name.lower(), *found, *values])
        return text.getvalue()


def _make_distribution(values: SearchRange) -> BaseDistribution:
    if values.choices:
        return CategoricalDistribution(values.choices)
    assert values.low is not None
    assert values.high is not None
    if isinstance(values.low, int):
        return IntDistribution(values.low, int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)
