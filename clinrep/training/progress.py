"""How far the training is: a log line every tenth of the steps, and a bar on a terminal."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import ExitStack
from types import TracebackType

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

logger = logging.getLogger("clinrep")


class Progress:
    """Shows steps done and the last training loss, between `start` and the end of the with block."""

    def __init__(self, is_bar: bool) -> None:
        """Draw a bar too if `is_bar` and stderr is a terminal."""
        self._is_bar = is_bar and sys.stderr.isatty()
        self._first_step, self._num_steps, self._started = 0, 0, 0.0
        self._losses: list[float] = []
        self._stack = ExitStack()
        self._bar: tqdm | None = None

    def start(self, first_step: int, num_steps: int) -> None:
        """Begin after `first_step` of `num_steps`."""
        self._first_step, self._num_steps, self._started = first_step, num_steps, time.monotonic()
        if self._is_bar:
            self._stack.enter_context(logging_redirect_tqdm())
            self._bar = self._stack.enter_context(
                tqdm(total=num_steps, initial=first_step, desc="training", unit="step", leave=False)
            )

    def update(self, step: int, loss: float) -> None:
        """Show that `step` is done; the loss shown is the mean since the last line, single batches vary too much."""
        self._losses.append(loss)
        mean_loss = sum(self._losses) / len(self._losses)
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {mean_loss:.3f}", refresh=False)
            self._bar.update(step - self._bar.n)
        if step % max(1, self._num_steps // 10) == 0:
            seconds = (time.monotonic() - self._started) / (step - self._first_step)
            left = seconds * (self._num_steps - step)
            logger.info(
                "step %d of %d, loss %.3f, %.2f s a step, %.0f s left", step, self._num_steps, mean_loss, seconds, left
            )
            self._losses.clear()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
