"""Checkpoints of one run: which are complete, which is resumed from, which are kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from transformers import TrainerState

from clinrep import artifacts, distributed
from clinrep.config import InputError

# Written last into a checkpoint, after every rank has saved its part. transformers itself takes the
# newest folder, complete or not (spec/stack.md section 1).
MARKER = "COMPLETE"


@dataclass(frozen=True)
class Checkpoints:
    """The folder `checkpoints/` of a run: checkpoint-STEP folders of transformers.Trainer."""

    directory: Path
    num_kept: int

    def find_newest(self) -> int:
        """Return the step of the newest complete checkpoint, 0 where there is none, the same on every rank.

        Incomplete ones are deleted.

        Raises:
            InputError: that checkpoint was written by another number of processes, so steps would not match.
        """
        newest = 0
        if distributed.get_rank() == 0:
            for folder in self.directory.glob("checkpoint-*"):
                if not (folder / MARKER).is_file():
                    shutil.rmtree(folder)
            newest = max(self._list_steps(), default=0)
        newest = distributed.share_from_main(newest)
        if newest:
            saved = json.loads((self.path(newest) / MARKER).read_text())["world_size"]
            if saved != distributed.get_world_size():
                raise InputError(
                    f"{self.path(newest)} was saved by {saved} processes and this run has "
                    f"{distributed.get_world_size()}; start {saved}, or use another --output_dir"
                )
        return newest

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint after `step` optimizer steps."""
        return self.directory / f"checkpoint-{step}"

    def read_state(self, step: int) -> TrainerState:
        """Return what Trainer knew after `step`."""
        return TrainerState.load_from_json(str(self.path(step) / "trainer_state.json"))

    def complete(self, step: int, best_step: int | None) -> None:
        """Mark the checkpoint of `step` complete once all ranks have saved; then delete the oldest.

        The newest and the best always stay.
        """
        distributed.wait_for_all()
        if distributed.get_rank() != 0:
            return
        content = {"step": step, "world_size": distributed.get_world_size()}
        artifacts.write_text(self.path(step) / MARKER, json.dumps(content) + "\n")
        always = {step, best_step}
        by_age = sorted(self._list_steps(), key=lambda found: (found in always, found))
        for old in by_age[: -self.num_kept]:
            if old not in always:
                shutil.rmtree(self.path(old))

    def _list_steps(self) -> list[int]:
        markers = self.directory.glob(f"checkpoint-*/{MARKER}")
        return [int(marker.parent.name.partition("-")[2]) for marker in markers]
