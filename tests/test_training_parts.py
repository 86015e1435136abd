"""What the training loop is made of: filler, order, metrics.jsonl, checkpoints kept, progress, the agreed stop."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clinrep.stop_signal import StopSignal
from clinrep.training import progress
from clinrep.training.checkpoints import Checkpoints
from clinrep.training.metrics_log import MetricsLog
from clinrep.training.task import EpochSampler, FilledDataset

ROOT = Path(__file__).parents[1]


def test_a_rank_stops_when_another_got_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopSignal() as stop:
        assert not stop.agree()
        monkeypatch.setattr("clinrep.distributed.sum_numbers", lambda numbers: [numbers[0], numbers[1] + 1, numbers[2]])
        assert stop.agree()
    assert stop.name == "SIGTERM"


def test_a_signal_before_torch_is_loaded_is_remembered() -> None:
    """The stages enter StopSignal first of all: neither it nor agreeing alone may need torch."""
    program = (
        "import os, signal, sys\n"
        "from clinrep.stop_signal import StopSignal\n"
        "with StopSignal() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print(stop.agree(), stop.name, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["True", "SIGTERM", "False"]
    assert done.stderr == "SIGTERM: will save after the next step and stop\n"


def test_a_second_ctrl_c_ends_at_once() -> None:
    with StopSignal():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_order_of_items_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(FilledDataset(list(range(20)), 4, -1), 4, seed)  # type: ignore[arg-type]
        sampler.start_epoch(epoch)
        return list(sampler)

    assert sorted(order(1, 0)) == list(range(20))
    assert order(1, 3) == order(1, 3)
    assert len({tuple(order(*which)) for which in ((1, 0), (1, 1), (1, 2), (2, 0), (2, 1))}) == 5
    assert not hasattr(EpochSampler, "set_epoch"), "accelerate would drive it too, by its own count"
    assert not hasattr(EpochSampler, "generator"), "accelerate would put a generator there"


class Lengthy(list[int]):
    """Items with lengths."""

    lengths = np.array([5, 1, 9, 3, 7, 2, 8, 4, 6, 10])


def test_items_of_a_step_are_the_same_with_lengths_but_come_longest_first() -> None:
    plain = FilledDataset(list(range(10)), 4, -1)  # type: ignore[arg-type]
    lengthy = FilledDataset(Lengthy(range(10)), 4, -1)  # type: ignore[arg-type]
    orders = [list(EpochSampler(dataset, 4, seed=1)) for dataset in (plain, lengthy)]
    steps = [[order[start : start + 4] for start in range(0, 12, 4)] for order in orders]
    assert [sorted(step) for step in steps[0]] == [sorted(step) for step in steps[1]]
    lengths = [*Lengthy.lengths, 0, 0]
    for step in steps[1]:
        assert [lengths[item] for item in step] == sorted((lengths[item] for item in step), reverse=True)
    assert steps[0] != steps[1]


def test_shares_of_a_step_are_dealt_by_length() -> None:
    dataset = FilledDataset(Lengthy(range(10)), 4, -1)  # type: ignore[arg-type]
    whole, dealt = (list(EpochSampler(dataset, 4, 1, shares)) for shares in (1, 2))
    for start in range(0, 12, 4):
        first, second, third, fourth = whole[start : start + 4]
        assert dealt[start : start + 4] == [first, third, second, fourth]


def test_the_filler_completes_the_last_step() -> None:
    dataset = FilledDataset([10, 11, 12], 4, 99)  # type: ignore[arg-type]
    assert [dataset[index] for index in range(len(dataset))] == [10, 11, 12, 99]
    assert len(FilledDataset([10, 11, 12, 13], 4, 99)) == 4  # type: ignore[arg-type]


def test_metrics_are_flushed_unrounded_and_null_where_not_finite(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    log.write(1, "val", {"eval_loss": 1 / 3, "eval_auroc": math.nan})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"step": 1, "split": "val", "name": "eval_loss", "value": 1 / 3}
    assert json.loads(lines[1])["value"] is None


@pytest.mark.parametrize(("num_kept", "kept"), [(1, {2, 5}), (2, {2, 5}), (3, {2, 4, 5}), (9, {1, 2, 3, 4, 5})])
def test_the_best_the_newest_and_then_the_latest_checkpoints_stay(
    tmp_path: Path, num_kept: int, kept: set[int]
) -> None:
    checkpoints = Checkpoints(tmp_path, num_kept)
    for step in range(1, 6):
        checkpoints.path(step).mkdir()
        checkpoints.complete(step, best_step=min(step, 2))
    assert {int(path.name.partition("-")[2]) for path in tmp_path.iterdir()} == kept
    checkpoints.path(6).mkdir()
    assert checkpoints.find_newest() == 5
    assert not checkpoints.path(6).exists(), "no marker, so a rank may not have saved"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (720, "12 min"), (3599, "1 h 0 min"), (18180, "5 h 3 min"), (187200, "2 d 4 h")],
)
def test_time_left_is_said_as_people_say_it(seconds: float, text: str) -> None:
    assert progress.format_duration(seconds) == text


def test_without_a_terminal_there_is_a_line_every_minute_and_every_tenth(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """10,000 steps of 25 s: every third step a minute has passed."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = progress.Progress(is_bar=False)
    shown.start(995, 10_000)
    with caplog.at_level(logging.INFO, "clinrep"):
        for step in range(996, 1002):
            now[0] += 25
            shown.update(step, loss=float(step), tokens_per_second=1000.0 * step)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "step 998 of 10000, loss 997.000, 25.00 s a step, 997,000 tokens/s, 2 d 15 h left",
        "step 1000 of 10000, loss 999.500, 25.00 s a step, 999,500 tokens/s, 2 d 14 h left",
    ]


def test_a_marker_that_a_loss_of_power_left_empty_is_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 9)
    for step in (1, 2):
        checkpoints.path(step).mkdir()
        (checkpoints.path(step) / "trainer_state.json").write_text("{}")
        checkpoints.complete(step, best_step=None)
    (checkpoints.path(2) / "COMPLETE").write_text("")
    assert checkpoints.find_newest() == 1
    assert not checkpoints.path(2).exists()
