"""Checkpoints of one run: which are complete, which is resumed from, which are kept."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerState

from clinrep import artifacts, distributed, file_access
from clinrep.config import InputError

# Written last into a checkpoint, after every rank has saved its part, and removed first. transformers
# itself takes the newest folder, complete or not (spec/stack.md section 1).
MARKER = "COMPLETE"

# fp32 weights and the two moments of AdamW
BYTES_PER_PARAMETER = 12

logger = logging.getLogger("clinrep")


@dataclass(frozen=True)
class Checkpoints:
    """The folder `checkpoints/` of a run: checkpoint-STEP folders of transformers.Trainer."""

    directory: Path
    num_kept: int

    def check(self) -> None:
        """Refuse to resume where that cannot be exact; every rank calls it, and nothing is changed.

        Raises:
            InputError: the newest complete checkpoint was saved by another number of processes, or it or the
                one with the best weights lacks a file or a part of one.
        """
        error = self._find_fault() if distributed.get_rank() == 0 else None
        error = distributed.share_from_main(error or "")
        if error:
            raise InputError(error)

    def find_newest(self) -> int:
        """Return the step of the newest complete checkpoint, 0 where there is none, the same on every rank.

        Incomplete ones are deleted, which the log says. Call `check` before.
        """
        newest = 0
        if distributed.get_rank() == 0:
            for folder in sorted(self.directory.glob("checkpoint-*")):
                if not _is_complete(folder):
                    logger.warning("%s is incomplete (ended while it was saved or deleted): removed", folder)
                    shutil.rmtree(folder)
            newest = max(self._list_steps(), default=0)
        return distributed.share_from_main(newest)

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint after `step` optimizer steps."""
        return self.directory / f"checkpoint-{step}"

    def read_state(self, step: int) -> TrainerState:
        """Return what Trainer knew after `step`; an InputError where its file is damaged."""
        try:
            return TrainerState.load_from_json(str(self.path(step) / "trainer_state.json"))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise self.explain_unreadable(step, error) from error

    def explain_unreadable(self, step: int, error: Exception) -> InputError:
        """Return what to say of a complete checkpoint that cannot be loaded."""
        return InputError(f"{self.path(step)} cannot be loaded ({error}); {self._say_remedy(step)}")

    def complete(self, step: int, best_step: int | None) -> None:
        """Mark the checkpoint of `step` complete once all ranks have saved; then delete the oldest.

        The newest and the best always stay.
        """
        distributed.wait_for_all()
        if distributed.get_rank() != 0:
            return
        file_access.apply_access(self.path(step))  # safetensors writes for the owner alone
        content = {
            "step": step,
            "world_size": distributed.get_world_size(),
            "files": _measure_files(self.path(step)),
        }
        artifacts.sync(self.path(step))
        artifacts.write_text(self.path(step) / MARKER, json.dumps(content) + "\n")
        self.remove_oldest(step, best_step)

    def remove_oldest(self, step: int, best_step: int | None) -> None:
        """Delete all but those to keep, of which `step` is the newest; rank 0 calls it."""
        always = {step, best_step}
        by_age = sorted(self._list_steps(), key=lambda found: (found in always, found))
        for old in by_age[: -self.num_kept]:
            if old not in always:
                (self.path(old) / MARKER).unlink()  # first: a kill while deleting leaves nothing that looks complete
                shutil.rmtree(self.path(old))

    def estimate_bytes(self, num_parameters: int) -> int:
        """Return the disk that checkpoints of AdamW need at most: those kept and the one being written.

        The best and the newest stay even where num_kept is 1.
        """
        return (max(2, self.num_kept) + 1) * BYTES_PER_PARAMETER * num_parameters

    def count_bytes(self) -> int:
        """Return the disk that the checkpoints take now."""
        return sum(path.stat().st_size for path in self.directory.rglob("*") if path.is_file())

    def _find_fault(self) -> str:
        """Return why the run cannot go on from its newest complete checkpoint; '' where it can."""
        newest = max(self._list_steps(), default=0)
        if not newest:
            return ""
        saved_by, ranks = self._read_marker(newest).get("world_size"), distributed.get_world_size()
        if saved_by != ranks:
            return (
                f"{self.path(newest)} was saved by {saved_by} processes and this run has {ranks}; "
                f"start {saved_by}, or use another --output_dir"
            )
        damage = self._find_damage(newest)
        if damage:
            return f"{self.path(newest)} is damaged ({damage}); {self._say_remedy(newest)}"
        try:
            best = self.read_state(newest).best_global_step or newest
        except InputError as error:
            return str(error)
        damage = self._find_damage(best) if best in self._list_steps() else "the folder is gone"
        if damage:
            return (
                f"{self.path(best)}, which holds the best weights, is damaged ({damage}); restore it from a copy, or "
                f"remove it and all newer ones to {self._say_what_is_left(best)}"
            )
        return ""

    def _find_damage(self, step: int) -> str:
        """Return what a complete checkpoint lacks of the files it was saved with; '' for nothing."""
        found = _measure_files(self.path(step))
        for name, size in self._read_marker(step).get("files", {}).items():
            if found.get(name) != size:
                return f"{name} has {found[name]} of {size} bytes" if name in found else f"{name} is missing"
        return ""

    def _say_remedy(self, step: int) -> str:
        return f"remove that folder to {self._say_what_is_left(step)}"

    def _say_what_is_left(self, step: int) -> str:
        before = max((found for found in self._list_steps() if found < step), default=0)
        return f"go on from {self.path(before).name}" if before else "start anew"

    def _read_marker(self, step: int) -> dict[str, Any]:
        """Return what the marker of a complete checkpoint says."""
        content: dict[str, Any] = json.loads((self.path(step) / MARKER).read_text())
        return content

    def _list_steps(self) -> list[int]:
        """Return the steps of the complete checkpoints."""
        folders = filter(_is_complete, self.directory.glob("checkpoint-*"))
        return [int(folder.name.partition("-")[2]) for folder in folders]


def _is_complete(folder: Path) -> bool:
    """Return whether a checkpoint has its marker, and that is whole: after a loss of power it may be empty."""
    try:
        return "world_size" in json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return False


def _measure_files(folder: Path) -> dict[str, int]:
    """Return the bytes of every file in `folder` but the marker, by its path in there."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARKER)
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}
