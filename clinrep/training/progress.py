"""How far the training is: a log line every tenth of the steps and every minute, and a bar on a terminal."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import ExitStack
from types import TracebackType

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

SECONDS_BETWEEN_LINES = 60.0

logger = logging.getLogger("clinrep")


class Progress:
    """Shows steps done and the last training loss, between `start` and the end of the with block."""

    def __init__(self, is_bar: bool) -> None:
        """Draw a bar too if `is_bar` and stderr is a terminal."""
        self._is_bar = is_bar and sys.stderr.isatty()
        self._first_step, self._num_steps = 0, 0
        self._started, self._last_line = 0.0, 0.0
        self._losses: list[float] = []
        self._speeds: list[float] = []
        self._stack = ExitStack()
        self._bar: tqdm | None = None

    def start(self, first_step: int, num_steps: int) -> None:
        """Begin after `first_step` of `num_steps`."""
        self._first_step, self._num_steps = first_step, num_steps
        self._started = self._last_line = time.monotonic()
        if self._is_bar:
            self._stack.enter_context(logging_redirect_tqdm())
            self._bar = self._stack.enter_context(
                tqdm(total=num_steps, initial=first_step, desc="training", unit="step", leave=False)
            )

    def update(self, step: int, loss: float, tokens_per_second: float | None = None) -> None:
        """Show that `step` is done; shown are means since the last line, single batches vary too much."""
        self._losses.append(loss)
        if tokens_per_second is not None:
            self._speeds.append(tokens_per_second)
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {_mean(self._losses):.3f}", refresh=False)
            self._bar.update(step - self._bar.n)
        is_tenth = step % max(1, self._num_steps // 10) == 0
        is_minute = self._bar is None and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES
        if is_tenth or is_minute:
            self._write_line(step)

    def _write_line(self, step: int) -> None:
        now = time.monotonic()
        seconds = (now - self._started) / (step - self._first_step)
        speed = f"{_mean(self._speeds):,.0f} tokens/s, " if self._speeds else ""
        left = format_duration(seconds * (self._num_steps - step))
        words = "step %d of %d, loss %.3f, %.2f s a step, %s%s left"
        logger.info(words, step, self._num_steps, _mean(self._losses), seconds, speed, left)
        self._losses.clear()
        self._speeds.clear()
        self._last_line = now

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def format_duration(seconds: float) -> str:
    """Return a time as people say it: 40 s, 12 min, 5 h 3 min, 2 d 4 h."""
    minutes, hours, days = round(seconds / 60), round(seconds / 60) // 60, round(seconds / 3600) // 24
    if seconds < 100:
        return f"{seconds:.0f} s"
    if hours == 0:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {round(seconds / 3600) % 24} h"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
