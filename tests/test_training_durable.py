"""Checkpoints after a loss of power."""

from __future__ import annotations

from tests.fake_disk import Disk
from tests.tiny_training import Rows, run_training


def test_a_checkpoint_and_its_metrics_are_on_the_disk_before_it_counts(tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    run_training(tmp_path, Rows(10))
    folder = tmp_path / "checkpoints" / "checkpoint-12"
    marked = disk.calls.index(("replace", str(folder / "COMPLETE")))
    before = {path for what, path in disk.calls[:marked] if what == "sync"}
    files = {str(path) for path in folder.iterdir() if path.name != "COMPLETE"}
    assert len(files) > 4
    assert before >= files | {str(folder), str(tmp_path / "metrics.jsonl")}
