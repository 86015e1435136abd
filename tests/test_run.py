from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
import pytest
import yaml

from clinrep.config import InputError, StageConfig
from clinrep.run import RunError, open_run, run_stage

ROOT = Path(__file__).parent.parent

STAGE = "00_tokenize"
SPLITS = pl.DataFrame({"patient_id": ["p"], "subject_id": ["s"], "split": ["train"]})


@dataclass(frozen=True, kw_only=True)
class Example(StageConfig):
    """Settings of a stage that reads one folder."""

    clif_dir: str
    num_workers: int = 0
    splits_path: str | None = None


@pytest.fixture
def config(tmp_path: Path) -> Example:
    return make(tmp_path)


def make(tmp_path: Path, **changes) -> Example:
    source = tmp_path / "in"
    source.mkdir(exist_ok=True)
    if not list(source.iterdir()):
        (source / "a.parquet").write_text("data")
    return Example(**({"clif_dir": str(source), "output_dir": str(tmp_path / "runs" / "x")} | changes))


def finish(config: Example) -> None:
    with open_run(STAGE, config) as run:
        run.write("splits", SPLITS)


def test_a_run_leaves_its_table_config_provenance_and_done_last(config):
    with open_run(STAGE, config) as run:
        run.write("splits", SPLITS)
        assert not (run.directory / "DONE").exists()
    directory = Path(config.output_dir)
    names = {path.name for path in directory.iterdir()}
    assert names == {"DONE", "config.yaml", "provenance.json", "environment.txt", "run.log", "splits.parquet"}
    done = json.loads((directory / "DONE").read_text())
    assert done["stage"] == STAGE
    assert done["rows"] == {"splits": 1}
    assert done["inputs"].keys() == {"clif_dir"}
    assert yaml.safe_load((directory / "config.yaml").read_text())["seed"] == 42
    provenance = json.loads((directory / "provenance.json").read_text())
    assert {"commit", "is_dirty", "host", "slurm_job_id", "inputs", "command"} <= provenance.keys()
    assert "torch==" in (directory / "environment.txt").read_text()


def test_the_same_again_says_so_and_exits_0(config, caplog):
    finish(config)
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit) as caught:
        finish(config)
    assert caught.value.code == 0
    assert "already done" in caplog.text


def test_an_unfinished_run_is_resumed(config):
    finish(config)
    (Path(config.output_dir) / "DONE").unlink()
    finish(config)
    assert (Path(config.output_dir) / "DONE").is_file()


def test_another_config_is_refused_with_the_difference_and_nothing_changes(config, tmp_path):
    finish(config)
    before = {path.name: path.read_bytes() for path in Path(config.output_dir).iterdir()}
    with pytest.raises(InputError, match="holds another run: seed was 42, now 7"):
        finish(make(tmp_path, seed=7))
    assert before == {path.name: path.read_bytes() for path in Path(config.output_dir).iterdir()}


def test_settings_that_change_no_result_may_differ(config, tmp_path):
    finish(config)
    with pytest.raises(SystemExit):
        finish(make(tmp_path, num_workers=3, log_level="WARNING", show_progress=False))


def test_inputs_may_move_but_not_change(config, tmp_path):
    finish(config)
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "a.parquet").write_text("data")
    with pytest.raises(SystemExit):
        finish(make(tmp_path, clif_dir=str(other)))
    (other / "a.parquet").write_text("other data")
    with pytest.raises(InputError, match="the content of clif_dir has changed"):
        finish(make(tmp_path, clif_dir=str(other)))


def test_an_input_that_was_not_there_before_makes_another_run(config, tmp_path):
    finish(config)
    (tmp_path / "splits.parquet").write_text("a split")
    with pytest.raises(InputError, match=r"splits_path was None, now .*splits\.parquet"):
        finish(make(tmp_path, splits_path=str(tmp_path / "splits.parquet")))


def test_a_directory_in_use_is_refused_and_the_run_in_it_goes_on(config):
    with open_run(STAGE, config) as run:
        with pytest.raises(InputError, match="is in use by another run"):
            finish(config)
        run.write("splits", SPLITS)
    assert (Path(config.output_dir) / "DONE").is_file()


def test_files_of_somebody_else_are_refused_and_kept(config):
    directory = Path(config.output_dir)
    directory.mkdir(parents=True)
    (directory / "thesis.docx").write_text("years of work")
    with pytest.raises(InputError, match="holds files but no run"):
        finish(config)
    assert [path.name for path in directory.iterdir()] == ["thesis.docx"]


def test_another_stage_is_refused(config):
    finish(config)
    with pytest.raises(InputError, match=r"made by 00_tokenize\.py"), open_run("01_pretrain", config):
        pass


def test_a_missing_input_is_refused_before_anything_is_made(config, tmp_path):
    with pytest.raises(InputError, match=r"--clif_dir .*none does not exist"):
        finish(make(tmp_path, clif_dir=str(tmp_path / "none")))
    assert not (tmp_path / "runs").exists()


def fail(config: Example, error: Exception) -> None:
    with open_run(STAGE, config) as run:
        run.write("splits", SPLITS)
        raise error


def test_wrong_input_found_later_leaves_nothing(config, tmp_path):
    with pytest.raises(InputError):
        fail(config, InputError("a column is missing"))
    assert not (tmp_path / "runs").exists()


def test_wrong_input_leaves_an_empty_directory_empty(config):
    Path(config.output_dir).mkdir(parents=True)
    with pytest.raises(InputError):
        fail(config, InputError("a column is missing"))
    assert list(Path(config.output_dir).iterdir()) == []
    finish(config)


def test_wrong_input_removes_nothing_that_another_run_made_meanwhile(config, tmp_path):
    def fail_beside_another_run() -> None:
        with open_run(STAGE, config):
            finish(make(tmp_path, output_dir=str(tmp_path / "runs" / "other")))
            raise InputError("a column is missing")

    with pytest.raises(InputError):
        fail_beside_another_run()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]


def test_wrong_input_never_removes_a_directory_that_was_there(config):
    with pytest.raises(RuntimeError):
        fail(config, RuntimeError("crash"))
    with pytest.raises(InputError):
        fail(config, InputError("a column is missing"))
    assert (Path(config.output_dir) / "config.yaml").is_file()


def test_wrong_input_never_removes_a_checkpoint(config):
    def fail_after_saving() -> None:
        with open_run(STAGE, config) as run:
            (run.directory / "checkpoints" / "checkpoint-9000").mkdir(parents=True)
            raise InputError("found late")

    with pytest.raises(InputError):
        fail_after_saving()
    assert (Path(config.output_dir) / "checkpoints" / "checkpoint-9000").is_dir()


def test_a_folder_that_cannot_be_made_is_wrong_input(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="cannot be written"):
        finish(make(tmp_path, output_dir=str(tmp_path / "file" / "x")))


def test_wrong_input_empties_a_linked_folder_but_keeps_the_link(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "scratch")
    with pytest.raises(InputError):
        fail(make(tmp_path, output_dir=str(tmp_path / "link")), InputError("a column is missing"))
    assert list((tmp_path / "scratch").iterdir()) == []
    assert (tmp_path / "link").is_symlink()


def test_another_commit_is_said_and_earlier_sessions_are_kept(config, caplog):
    with pytest.raises(RuntimeError):
        fail(config, RuntimeError("crash"))
    path = Path(config.output_dir) / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "abc", "host": "node7"}))
    with caplog.at_level(logging.WARNING):
        finish(config)
    assert "was made by commit abc" in caplog.text
    provenance = json.loads(path.read_text())
    assert provenance["commit"] != "abc"
    assert [(session["commit"], session["host"]) for session in provenance["resumed"]] == [("abc", "node7")]


def test_a_crash_keeps_the_log_and_writes_no_done(config):
    with pytest.raises(RuntimeError):
        fail(config, RuntimeError("out of luck"))
    directory = Path(config.output_dir)
    assert "out of luck" in (directory / "run.log").read_text()
    assert not (directory / "DONE").exists()


def test_a_stop_leaves_stopped_and_exit_code_75_and_a_resume_clears_it(config):
    with pytest.raises(SystemExit) as caught, open_run(STAGE, config) as run:
        run.stop(12, "SIGUSR1")
    assert caught.value.code == 75
    directory = Path(config.output_dir)
    assert json.loads((directory / "STOPPED").read_text()) == {"step": 12, "signal": "SIGUSR1"}
    assert not (directory / "DONE").exists()
    finish(config)
    assert not (directory / "STOPPED").exists()
    assert (directory / "DONE").exists()


@pytest.mark.parametrize("world_size", ["1", "2"])
def test_sigterm_ends_a_stage_as_ctrl_c_does(tmp_path, world_size):
    """Temporary files go, the message is one line, and the exit code says which signal it was."""
    program = (
        "import os, signal, tempfile, time\n"
        "from clinrep.run import run_stage\n"
        "def main(argv):\n"
        f"    with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):\n"
        "        os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)\n"
        "run_stage(main)\n"
    )
    command, environment = [sys.executable, "-c", program], {**os.environ, "WORLD_SIZE": world_size}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    if world_size == "2":  # a rank may wait for another outside of Python, where no handler is called
        assert done.returncode == -signal.SIGTERM
        return
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr.strip().endswith("ended by SIGTERM")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_forked_process_that_outlives_a_run_does_not_hold_its_directory(config):
    """A DataLoader's worker lives on for seconds when the run is killed with -9."""
    with open_run(STAGE, config):
        child = os.fork()
        if not child:
            os.read(os.pipe()[0], 1)
    try:
        (Path(config.output_dir) / "DONE").unlink()
        finish(config)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_finished_run_that_lost_an_output_is_not_called_done(config):
    finish(config)
    (Path(config.output_dir) / "splits.parquet").unlink()
    with pytest.raises(InputError, match=r"is finished but .*splits\.parquet is gone; remove that directory"):
        finish(config)


def test_a_run_that_fails_for_a_known_reason_says_it_once_without_a_traceback(config, caplog, monkeypatch):
    def fail(argv):
        with open_run(STAGE, config):
            raise RunError("the training loss is nan")

    monkeypatch.setattr(sys, "argv", ["x.py"])
    with pytest.raises(SystemExit) as ended:
        run_stage(fail)
    assert ended.value.code == 1
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == [
        f"{STAGE} failed: the training loss is nan"
    ]
    assert not any(record.exc_info for record in caplog.records)


@dataclass(frozen=True, kw_only=True)
class Batches:
    batch_size: int = 8


@dataclass(frozen=True, kw_only=True)
class TrainingExample(Example):
    training: Batches = field(default_factory=Batches)


def test_a_smaller_batch_is_refused_only_once_something_is_saved(config):
    """Memory often runs out in the first step; later the losses would no longer be those of the first batch size."""
    config = TrainingExample(**vars(config))
    smaller = replace(config, training=Batches(batch_size=4))
    with pytest.raises(MemoryError), open_run(STAGE, config):
        raise MemoryError
    with pytest.raises(MemoryError), open_run(STAGE, smaller):
        raise MemoryError
    (config.run_dir / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(InputError, match=r"training\.batch_size was 4, now 8"), open_run(STAGE, config):
        pass
