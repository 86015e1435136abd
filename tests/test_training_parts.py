"""What the training loop is made of: the filler, metrics.jsonl, the checkpoints kept, the agreed stop."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from clinrep.training.checkpoints import Checkpoints
from clinrep.training.loop import FilledDataset
from clinrep.training.metrics_log import MetricsLog
from clinrep.training.stop_signal import StopSignal


def test_a_rank_stops_when_another_got_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopSignal() as stop:
        assert not stop.agree()
        monkeypatch.setattr("clinrep.distributed.sum_over_ranks", lambda values: values + torch.tensor([0, 1, 0]))
        assert stop.agree()
    assert stop.name == "SIGTERM"


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
