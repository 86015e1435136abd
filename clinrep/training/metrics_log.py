"""metrics.jsonl: what a run measured, one number a line."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from clinrep import artifacts

logger = logging.getLogger("clinrep")


class MetricsLog:
    """Appends {"step", "split", "name", "value"} lines, each flushed, so a killed run loses none.

    Only rank 0 opens one. A value that is not finite is written as null, which JSON knows.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        """Drop what `path` says of steps after `last_step`, and say so: a resumed run measures them again."""
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        steps = [_read_step(line) for line in lines]
        kept = [line for line, step in zip(lines, steps, strict=True) if step <= last_step]
        _warn_of_lost_steps(path, max((step for step in steps if math.isfinite(step)), default=0), last_step)
        artifacts.write_text(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Append one line per value of `values` (name -> value)."""
        for name, value in values.items():
            finite = float(value) if math.isfinite(value) else None
            record = {"step": step, "split": split, "name": name, "value": finite}
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Wait until all lines are on the disk, so that a checkpoint is never ahead of them."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _warn_of_lost_steps(path: Path, num_done: float, last_step: int) -> None:
    """Say how much work of an ended run is not in any complete checkpoint."""
    if num_done < last_step:
        logger.warning(
            "%s lacks steps %d to %d of %d: what they measured is lost", path, num_done + 1, last_step, last_step
        )
    if num_done <= last_step:
        return
    lost = int(num_done) - last_step
    if last_step:
        logger.warning("%s goes %d steps beyond the newest checkpoint: they are trained again", path, lost)
    else:
        logger.warning("%s holds %d steps but no complete checkpoint is left: the training starts anew", path, lost)


def _read_step(line: str) -> float:
    """Return the step of a line; infinity for one that a kill cut off."""
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        return math.inf
