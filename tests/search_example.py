"""A search whose trainings are a formula, for tests: fast, and what should come out can be worked out by hand."""

from __future__ import annotations

import json
import math
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clinrep import distributed
from clinrep.config import StageConfig, require
from clinrep.run import Run
from clinrep.search_config import SearchConfig, SearchRange, check_space

NUM_STEPS = 4
SPACE = {"training.learning_rate": SearchRange(low=1e-4, high=1.0, log=True), "width": SearchRange(choices=[8, 16])}


@dataclass(frozen=True, kw_only=True)
class Training:
    """How to train."""

    learning_rate: float = 0.5
    """Its logarithm should be -2."""
    num_epochs: int = 1
    """A whole number."""
    num_workers: int = 0
    """A free setting."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "be above 0", "try 1e-2")


@dataclass(frozen=True, kw_only=True)
class Example(StageConfig):
    """A stage that can be searched."""

    width: int = 8
    """A multiple of 4."""
    is_tied: bool = True
    """Yes or no."""
    shape: Literal["round", "square"] = "round"
    """One of two."""
    depth: int | None = None
    """May be null."""
    timelines_dir: str | None = None
    """An input."""
    names: list[str] = field(default_factory=list)
    """A list."""
    training: Training = field(default_factory=Training)
    """A group."""
    search: SearchConfig = field(default_factory=SearchConfig)
    """The search."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.width % 4 == 0, "width", self.width, "be a multiple of 4", "try 8")
        check_space(self)


def make(output_dir: Path, **changes: Any) -> Example:
    """Return a config with a search of 6 trials."""
    given = {"num_trials": 6, "space": SPACE, "num_startup_trials": 3, "num_unpruned_trials": 1} | changes
    return Example(output_dir=str(output_dir), search=SearchConfig(**given))


def loss_at(config: Example, step: int) -> float:
    """Return the validation loss: least at learning rate 1e-2 and width 16, falling except at the last step."""
    distance = (math.log10(config.training.learning_rate) + 2) ** 2
    return distance + (1.0 if config.width == 8 else 0.0) + 1 / step + (0.5 if step == NUM_STEPS else 0.0)


class Model:
    """Knows which trial it comes from."""

    def __init__(self, content: dict[str, float]) -> None:
        self.content = content

    def save_pretrained(self, folder: Path) -> None:
        """Write the weights."""
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text(json.dumps(self.content))


class NoSignal:
    """A StopSignal that gets its signal after so many questions."""

    name: str | None = None

    def __init__(self, after: float = math.inf) -> None:
        self.left = after

    def agree(self) -> bool:
        """Return whether the signal has come."""
        self.left -= 1
        if self.left < 0:
            self.name = "SIGUSR1"
        return self.name is not None


@dataclass
class Trainer:
    """Acts as `train` does: measures, logs, saves, asks; continues from its checkpoints."""

    stop: NoSignal = field(default_factory=NoSignal)
    happens: Callable[[str], None] = lambda what: None
    fails: Callable[[Example], Exception | None] = lambda config: None
    sign: int = 1
    calls: list[tuple[str, int]] = field(default_factory=list)

    def __call__(self, config: Example, run: Run, on_validation: Callable[[int, dict[str, float]], bool]) -> Any:
        """Return the model and its companions."""
        folder, log = run.directory / "checkpoints", run.directory / "metrics.jsonl"
        first = max((int(path.parent.name.split("-")[1]) for path in folder.glob("*/COMPLETE")), default=0)
        first = distributed.share_from_main(first)  # rank 0 may have saved the next by now
        self.calls.append((run.directory.name, first))
        if run.is_main:
            lines = log.read_text().splitlines() if log.is_file() else []
            log.write_text("".join(line + "\n" for line in lines if json.loads(line)["step"] <= first))
        if error := self.fails(config):
            raise error
        for step in range(first + 1, NUM_STEPS + 1):
            loss = self.sign * loss_at(config, step)
            if run.is_main:
                self._save(folder, log, step, loss)
            if on_validation(step, {"eval_loss": loss}):
                break
            if self.stop.agree():
                run.stop(step, "SIGUSR1")
                return None, ()
            self.happens("between steps")
        run.rows["timelines/train"] = 7
        best = min(loss_at(config, step) for step in range(1, NUM_STEPS + 1))
        return Model({"learning_rate": config.training.learning_rate, "loss": self.sign * best}), ()

    def _save(self, folder: Path, log: Path, step: int, loss: float) -> None:
        self.happens("before the log")
        with log.open("a") as file:
            file.write(json.dumps({"step": step, "split": "val", "name": "eval_loss", "value": loss}) + "\n")
        self.happens("before the checkpoint")
        (folder / f"checkpoint-{step}").mkdir(parents=True, exist_ok=True)
        (folder / f"checkpoint-{step}" / "COMPLETE").touch()
        self.happens("before it is reported")


def read_journal(output_dir: Path) -> list[dict[str, Any]]:
    """Return the trials as their journal has them, read without Optuna: values, reports, state and value."""
    trials: list[dict[str, Any]] = []
    for line in (output_dir / "search" / "journal.log").read_text().splitlines():
        record = json.loads(line)
        if record["op_code"] == 4:
            trials.append({"values": record["params"], "reports": {}, "state": 0, "value": None})
        elif record["op_code"] == 6:
            trials[record["trial_id"]] |= {"state": record["state"], "value": (record["values"] or [None])[0]}
        elif record["op_code"] == 7:
            trials[record["trial_id"]]["reports"][record["step"]] = record["intermediate_value"]
    return trials


def in_child(action: Callable[[], None]) -> int:
    """Run `action` in a copy of this process and return its exit code: 0, 1 after an exception, or os._exit's."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
