from __future__ import annotations

import dataclasses
import gc
import json
import os
import shutil
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

import clinrep.training.search as search_module
import clinrep.training.trials as trials_module
from clinrep import distributed
from clinrep.config import InputError
from clinrep.run import Run, RunError
from clinrep.search_config import check_space
from clinrep.training.search import search
from clinrep.training.search_locks import TrialLock
from clinrep.training.trials import Trials
from tests.search_example import (
    NUM_STEPS,
    SPACE,
    Example,
    Model,
    NoSignal,
    Trainer,
    in_child,
    loss_at,
    make,
    read_journal,
)

COMPLETE, PRUNED, FAILED, RUNNING = 1, 2, 3, 0  # as the journal writes them


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(gc, "collect", lambda: 0)  # 0.3 s each with torch loaded


def go(config: Example, trainer: Trainer | None = None, stop: NoSignal | None = None, **named: Any) -> Run:
    """Search as a stage does, without its run directory."""
    worker = config.search.worker
    directory = Path(config.output_dir) / ("" if worker is None else f"workers/worker-{worker}")
    directory.mkdir(parents=True, exist_ok=True)
    run = Run("01_pretrain", config, directory, {})
    trainer = trainer or Trainer()
    search(config, run, stop or trainer.stop, trainer, **named)  # type: ignore[arg-type]
    return run


def read_tree(directory: Path) -> dict[str, str]:
    """Return every file but the journal, whose lines have times: path -> text."""
    files = sorted(
        path for path in directory.rglob("*") if path.is_file() and path.name not in {"journal.log", ".lock"}
    )
    texts = {str(path.relative_to(directory)): path.read_text() for path in files if path.suffix != ".tmp"}
    return {name: text.replace(str(directory), "OUT") for name, text in texts.items()}


def read_weights(directory: Path) -> dict[str, float]:
    return json.loads((directory / "model.safetensors").read_text())


# What comes out


def test_the_backbone_is_of_the_trial_with_the_least_loss(tmp_path):
    run = go(make(tmp_path))
    complete = [trial for trial in read_journal(tmp_path) if trial["state"] == COMPLETE]
    assert len(complete) >= 3
    least = min(min(trial["reports"].values()) for trial in complete)
    (best,) = [trial for trial in complete if least in trial["reports"].values()]
    assert least == best["value"] == read_weights(tmp_path / "backbone")["loss"]
    assert best["values"]["training.learning_rate"] == read_weights(tmp_path / "backbone")["learning_rate"]
    assert run.rows == {"timelines/train": 7}
    recorded = [json.loads(line)["value"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert recorded == list(best["reports"].values())


def test_the_value_of_a_trial_is_its_best_validation_not_its_last(tmp_path):
    go(make(tmp_path, num_trials=1))
    (trial,) = read_journal(tmp_path)
    assert trial["value"] == trial["reports"][NUM_STEPS - 1] < trial["reports"][NUM_STEPS]


def test_a_metric_that_should_rise_is_searched_upwards(tmp_path):
    go(make(tmp_path), Trainer(sign=-1), greater_is_better=True)
    values = [trial["value"] for trial in read_journal(tmp_path) if trial["state"] == COMPLETE]
    assert read_weights(tmp_path / "backbone")["loss"] == max(values) > min(values)


def test_the_sampler_learns_towards_the_least_loss(tmp_path):
    config = make(tmp_path, num_trials=30, num_startup_trials=5, pruner="none")
    go(config)
    values = [trial["value"] for trial in read_journal(tmp_path)]
    assert sum(values[5:]) / 25 < 1.7  # at random (log10 lr + 2)^2 is 4/3 on average and the rest 5/6
    assert min(values) < 1 / 3 + 0.05  # the least possible is 1/3


def test_only_the_best_weights_and_no_checkpoints_stay(tmp_path):
    go(make(tmp_path))
    assert len(list(tmp_path.glob("trials/*/backbone"))) == 1
    assert not list(tmp_path.glob("trials/*/checkpoints"))
    assert len(list(tmp_path.glob("trials/*/metrics.jsonl"))) == 6
    saved = yaml.safe_load((tmp_path / "trials" / "trial-0000" / "config.yaml").read_text())
    assert saved["training"]["learning_rate"] == read_journal(tmp_path)[0]["values"]["training.learning_rate"]
    assert saved["search"]["num_trials"] == 0
    assert (tmp_path / "search" / "trials.csv").read_text().count("\n") == 7


def test_a_trial_worse_than_the_median_is_pruned_and_one_that_is_spared_is_not(tmp_path):
    trainer = Trainer()
    go(make(tmp_path / "median"), trainer)
    pruned = [trial for trial in read_journal(tmp_path / "median") if trial["state"] == PRUNED]
    assert pruned
    assert all(len(trial["reports"]) < NUM_STEPS for trial in pruned)
    go(make(tmp_path / "none", pruner="none"))
    assert {trial["state"] for trial in read_journal(tmp_path / "none")} == {COMPLETE}
    go(make(tmp_path / "spared", num_unpruned_validations=2))
    states = [(trial["state"], len(trial["reports"])) for trial in read_journal(tmp_path / "spared")]
    assert min(count for state, count in states if state == PRUNED) == 3


# Failures


def test_a_failed_trial_counts_but_is_never_the_best(tmp_path):
    def fails(config: Example) -> Exception | None:
        return RunError("the training loss is nan") if config.width == 16 else None

    go(make(tmp_path, pruner="none"), Trainer(fails=fails))
    trials = read_journal(tmp_path)
    assert len(trials) == 6
    assert {trial["values"]["width"]: trial["state"] for trial in trials} == {0: COMPLETE, 1: FAILED}
    best = min(trial["value"] for trial in trials if trial["state"] == COMPLETE)
    assert read_weights(tmp_path / "backbone")["loss"] == best


def test_a_search_whose_trials_all_fail_says_so(tmp_path):
    with pytest.raises(RuntimeError, match=r"none of the 2 trials was completed, see .*trials\.csv"):
        go(make(tmp_path, num_trials=2), Trainer(fails=lambda config: RuntimeError("nan")))
    assert (tmp_path / "search" / "trials.csv").read_text().count("fail") == 2


def test_wrong_input_ends_the_search_before_a_trial_was_complete_and_only_the_trial_after(tmp_path):
    with pytest.raises(InputError, match="no such table"):  # nothing was complete: not the values' fault
        go(make(tmp_path / "a"), Trainer(fails=lambda config: InputError("no such table")))
    assert [trial["state"] for trial in read_journal(tmp_path / "a")] == [RUNNING]

    def fails(config: Example) -> Exception | None:
        return InputError("cannot be shared evenly") if list(tmp_path.glob("b/trials/*/backbone")) else None

    go(make(tmp_path / "b", num_trials=2), Trainer(fails=fails))
    assert [trial["state"] for trial in read_journal(tmp_path / "b")] == [COMPLETE, FAILED]


# Stops and kills


@pytest.mark.parametrize("num_steps", [0, 1, 3, 4, 6])
def test_a_stopped_search_goes_on_where_it_was(tmp_path, num_steps):
    go(make(tmp_path / "whole", num_trials=3))
    config = make(tmp_path / "stopped", num_trials=3)
    stop = NoSignal(after=num_steps)
    run = go(config, Trainer(stop), stop)
    assert run.is_stopped
    said = json.loads((tmp_path / "stopped" / "STOPPED").read_text())
    assert said == {"step": {0: 0, 1: 1, 3: 3, 4: 4, 6: 1}[num_steps], "signal": "SIGUSR1"}
    (tmp_path / "stopped" / "STOPPED").unlink()  # open_run does
    (again := Trainer())
    go(config, again)
    if num_steps == 3:  # asked before the trial, then after each step
        assert again.calls[0] == ("trial-0000", 3)
    assert read_tree(tmp_path / "stopped") == read_tree(tmp_path / "whole")
    assert read_journal(tmp_path / "stopped") == read_journal(tmp_path / "whole")


class Killer:
    """Ends this process, as kill -9 does, the `number`th time that anything happens."""

    def __init__(self, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = number
        for owner, name in [
            (JournalFileBackend, "append_logs"),
            (shutil, "rmtree"),
            (shutil, "copytree"),
            (os, "replace"),
            (Model, "save_pretrained"),
            (trials_module.Trials, "let_go"),
        ]:
            monkeypatch.setattr(owner, name, self._around(getattr(owner, name)))

    def __call__(self, what: str) -> None:
        self.number -= 1
        if self.number < 0:
            os._exit(9)

    def _around(self, function: Any) -> Any:
        def call(*positional: Any, **named: Any) -> Any:
            self("before")
            result = function(*positional, **named)
            self("after")
            return result

        return call


def kill_after(number: int, config: Example, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run a search in a process that is killed at the `number`th moment; return whether it came so far."""

    def run() -> None:
        killer = Killer(number, monkeypatch)
        go(config, Trainer(happens=killer))

    code = in_child(run)
    assert code in {0, 9}
    for lock in Path(config.output_dir).glob("search/*.lock"):
        lock.unlink()  # or the next would wait a minute for the killed process's turn
    return code == 9


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.drill])])
def test_a_search_killed_at_any_moment_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, stride):
    settings = {"num_trials": 4, "num_startup_trials": 2}
    go(make(tmp_path / "whole", **settings))
    states = {trial["state"] for trial in read_journal(tmp_path / "whole")}
    assert states == {COMPLETE, PRUNED}
    moment = 0
    while True:
        config = make(tmp_path / f"killed-{moment}", **settings)
        if not kill_after(moment, config, monkeypatch):
            break
        go(config)
        assert read_tree(Path(config.output_dir)) == read_tree(tmp_path / "whole"), moment
        assert read_journal(Path(config.output_dir)) == read_journal(tmp_path / "whole"), moment
        moment += stride
    assert moment > 100


def test_a_search_killed_again_and_again_ends_all_the_same(tmp_path, monkeypatch):
    go(make(tmp_path / "whole", num_trials=3))
    config = make(tmp_path / "killed", num_trials=3)
    assert kill_after(12, config, monkeypatch)
    num_kills = 1
    while kill_after(40, config, monkeypatch):
        num_kills += 1
        assert num_kills < 30, "it does not come forward"
    assert num_kills > 2
    assert read_tree(tmp_path / "killed") == read_tree(tmp_path / "whole")


def test_a_half_written_line_of_the_journal_is_cut_off(tmp_path):
    config = make(tmp_path, num_trials=1)
    go(config)
    with (tmp_path / "search" / "journal.log").open("a") as file:
        file.write('{"op_code":7,"wor')
    go(make(tmp_path, num_trials=2))
    assert len(read_journal(tmp_path)) == 2


def test_the_turn_of_a_killed_process_ends(tmp_path, monkeypatch):
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "turn.lock").touch()
    monkeypatch.setattr(trials_module, "SECONDS_OF_TURN", 3)
    go(make(tmp_path, num_trials=1))


def test_what_a_machine_cannot_run_is_refused_before_the_first_trial(tmp_path):
    def check(config):
        if config.width == 16:
            raise InputError("3 processes cannot share 16 items")

    run = Run("01_pretrain", make(tmp_path), tmp_path, {})
    with pytest.raises(InputError, match="3 processes cannot share 16 items"):
        search(run.config, run, NoSignal(), Trainer(), check=check)  # type: ignore[arg-type]
    assert not (tmp_path / "trials").exists()


def test_a_trial_that_ends_while_another_worker_looks_is_left_alone(tmp_path, monkeypatch):
    """Listed as running, finished by its worker, then held: a second run of it would overwrite its metrics."""
    config = make(tmp_path, num_trials=2)
    mine, other = (
        Trials(tmp_path, dataclasses.replace(config.search, worker=worker), config.seed, "eval_loss", False)
        for worker in (0, 1)
    )
    for trials in (mine, other):
        trials.open(check_space(config), {})
    assert mine.take().number == 0
    mine.report(0, 1, 0.5)
    list_as_running = Trials.read

    def finish_first(self, *states):
        found = list_as_running(self, *states)
        if self is other and states and mine._held is not None:
            mine.tell(0, TrialState.PRUNED)
            mine.let_go()
        return found

    monkeypatch.setattr(Trials, "read", finish_first)
    assert other.take().number == 1


def test_more_trials_may_be_asked_for_later(tmp_path):
    go(make(tmp_path / "whole", num_trials=4))
    go(make(tmp_path / "more", num_trials=2))
    go(make(tmp_path / "more", num_trials=4))
    assert read_tree(tmp_path / "more") == read_tree(tmp_path / "whole")


def test_a_search_with_other_settings_is_refused_with_the_difference(tmp_path):
    go(make(tmp_path, num_trials=1))
    with pytest.raises(InputError, match="other settings: seed was 42, now 7"):
        go(dataclasses.replace(make(tmp_path, num_trials=1), seed=7))
    with pytest.raises(InputError, match=r"search\.pruner was 'median', now 'none'"):
        go(make(tmp_path, num_trials=1, pruner="none"))
    run = Run("01_pretrain", make(tmp_path, num_trials=1), tmp_path, {"timelines_dir": "other"})
    with pytest.raises(InputError, match="the content of timelines_dir was None, now 'other'"):
        search(run.config, run, NoSignal(), Trainer())  # type: ignore[arg-type]


# Several processes


def test_two_workers_share_the_trials_and_a_third_call_takes_the_result(tmp_path):
    barrier = [os.pipe(), os.pipe()]

    def work(worker: int) -> None:
        waited = []

        def meet(config: Example) -> None:  # each has a trial before either goes on, however slow the other starts
            if not waited:
                waited.append(os.write(barrier[worker][1], b"1"))
                os.read(barrier[1 - worker][0], 1)

        go(make(tmp_path, num_trials=8, worker=worker), Trainer(fails=meet))

    first = os.fork()
    if first == 0:
        os._exit(in_child(lambda: work(0)))
    assert in_child(lambda: work(1)) == 0
    assert os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) == 0
    trials = read_journal(tmp_path)
    assert len(trials) == 8
    assert all(trial["state"] in {COMPLETE, PRUNED} for trial in trials)
    created = [json.loads(line) for line in (tmp_path / "search" / "journal.log").read_text().splitlines()]
    assert {line["user_attrs"]["worker"] for line in created if line["op_code"] == 4} == {0, 1}
    assert not (tmp_path / "backbone").exists()
    go(make(tmp_path, num_trials=8), again := Trainer())
    assert not again.calls
    best = min(trial["value"] for trial in trials if trial["state"] == COMPLETE)
    assert read_weights(tmp_path / "backbone")["loss"] == best
    assert len(list(tmp_path.glob("trials/*/backbone"))) == 1


def test_a_trial_that_a_live_process_runs_is_left_to_it(tmp_path):
    """The other process holds trial 0 while this one comes and goes."""
    ready, done = os.pipe(), os.pipe()

    def happens(what: str) -> None:
        if what == "between steps":
            os.write(ready[1], b"1")
            os.read(done[0], 1)
            os._exit(9)

    child = os.fork()
    if child == 0:
        os.close(done[1])  # so that it ends with this process
        os._exit(in_child(lambda: (go(make(tmp_path, pruner="none", worker=0), Trainer(happens=happens)), None)[1]))
    os.read(ready[0], 1)
    trainer = Trainer()
    message = r"still being run: 0 \(worker 0 on .*\); wait for these workers"
    with pytest.raises(InputError, match=message):
        go(make(tmp_path, pruner="none", num_trials=2), trainer)
    assert trainer.calls == [("trial-0001", 0)]
    os.write(done[1], b"1")
    os.waitpid(child, 0)
    go(make(tmp_path, pruner="none", num_trials=2), trainer)  # it is dead now, on this very machine
    assert trainer.calls == [("trial-0001", 0), ("trial-0000", 1)]


def test_a_killed_trial_of_another_machine_is_left_to_its_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "node1")
    assert kill_after(30, make(tmp_path, num_trials=2, worker=3), monkeypatch)
    monkeypatch.setattr(socket, "gethostname", lambda: "node2")
    with pytest.raises(InputError, match=r"still being run: 0 \(worker 3 on node1\).*started again with its"):
        go(make(tmp_path, num_trials=1))
    go(make(tmp_path, num_trials=1, worker=3), again := Trainer())
    assert len(again.calls) == 1
    assert again.calls[0][1] > 0
    go(make(tmp_path, num_trials=1))
    assert (tmp_path / "backbone").is_dir()


def test_without_locks_only_the_same_worker_continues_a_killed_trial(tmp_path, monkeypatch):
    def refuse(*unused: Any) -> None:
        raise OSError("no locks here")

    lock = TrialLock.acquire(tmp_path / "trial", worker=1)
    assert lock is not None
    os.close(lock.descriptor)  # as a kill does
    monkeypatch.setattr("fcntl.flock", refuse)
    assert TrialLock.acquire(tmp_path / "trial", worker=2) is None
    mine = TrialLock.acquire(tmp_path / "trial", worker=1)
    assert mine is not None
    mine.release()
    assert TrialLock.acquire(tmp_path / "trial", worker=2) is not None


def run_on_two_ranks(tmp_path: Path, trainers: list[Trainer], config: Example) -> list[int]:
    """Run a search on two real ranks (gloo) and return their exit codes."""
    import torch.distributed as dist

    children = []
    for rank in (0, 1):
        child = os.fork()
        if child == 0:

            def work(rank: int = rank) -> None:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
                dist.init_process_group(
                    "gloo", f"file://{tmp_path}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=30)
                )
                go(config, trainers[rank])
                (tmp_path / f"calls-{rank}").write_text(repr(trainers[rank].calls))
                distributed.end_process_group()

            os._exit(in_child(work))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def test_a_pruned_trial_ends_on_both_ranks(tmp_path):
    go(make(tmp_path / "one"))
    assert run_on_two_ranks(tmp_path, [Trainer(), Trainer()], make(tmp_path / "two")) == [0, 0]
    assert any(trial["state"] == PRUNED for trial in read_journal(tmp_path / "two"))
    assert read_tree(tmp_path / "two") == read_tree(tmp_path / "one")
    assert (tmp_path / "calls-0").read_text() == (tmp_path / "calls-1").read_text()


def test_a_failure_of_all_ranks_fails_the_trial_and_wrong_input_ends_both(tmp_path):
    def fails(config: Example) -> Exception | None:
        return RunError("the training loss is nan") if config.width == 16 else None

    trainers = [Trainer(fails=fails), Trainer(fails=fails)]
    assert run_on_two_ranks(tmp_path, trainers, make(tmp_path / "x", pruner="none")) == [0, 0]
    assert {trial["state"] for trial in read_journal(tmp_path / "x")} == {COMPLETE, FAILED}
    (tmp_path / "meet").unlink(missing_ok=True)
    other = make(tmp_path / "x", pruner="none", num_startup_trials=4)
    assert run_on_two_ranks(tmp_path, [Trainer(), Trainer()], other) == [1, 1]


def test_a_rank_that_dies_leaves_the_trial_to_be_continued(tmp_path):
    def die(config: Example) -> Exception | None:
        if (tmp_path / "x" / "trials" / "trial-0001").is_dir():
            os._exit(9)
        return None

    codes = run_on_two_ranks(tmp_path, [Trainer(), Trainer(fails=die)], make(tmp_path / "x"))
    assert codes == [1, 9]
    assert [trial["state"] for trial in read_journal(tmp_path / "x")] == [COMPLETE, RUNNING]


def test_weights_come_before_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(search_module, "save_model", lambda *unused: None)
    with pytest.raises(AssertionError, match="outputs come first"):
        go(make(tmp_path))
    assert [trial["state"] for trial in read_journal(tmp_path)] == [RUNNING]


def test_the_space_is_searched_in_the_types_of_its_settings(tmp_path):
    space = SPACE | {"training.num_epochs": trials_module.SearchRange(low=1, high=1000, log=True)}
    go(make(tmp_path, space=space))
    epochs = [trial["values"]["training.num_epochs"] for trial in read_journal(tmp_path)]
    saved = [yaml.safe_load(path.read_text()) for path in sorted(tmp_path.glob("trials/*/config.yaml"))]
    assert [config["training"]["num_epochs"] for config in saved] == [int(value) for value in epochs]
    assert all(isinstance(config["training"]["num_epochs"], int) for config in saved)
    assert all(1e-4 <= config["training"]["learning_rate"] <= 1 for config in saved)
    assert loss_at(Example(output_dir="x", width=16), 1) > 0
