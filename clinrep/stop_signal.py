"""A stop asked for by a signal, which all ranks notice at the same step."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

from clinrep import distributed

# SIGUSR1 is what Slurm is told to send before the time limit, SIGTERM what it sends at the limit, SIGINT is Ctrl-C.
STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """While entered, remembers the stop signals this process gets instead of dying of them.

    A stage enters it before anything slow, so that a signal of the time when torch or the data are
    loaded counts too. A second Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        self._is_received = dict.fromkeys(STOP_SIGNALS, False)
        self._previous: dict[signal.Signals, Any] = {}
        self._process = os.getpid()
        self.name: str | None = None

    def __enter__(self) -> StopSignal:
        self._previous = {number: signal.signal(number, self._remember) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agree(self) -> bool:
        """Return whether any rank was asked to stop; `name` is then that signal's, on every rank.

        Every rank must call it at the same step: a rank that stopped alone would leave the others
        waiting for its gradients.
        """
        counts = distributed.sum_numbers([float(is_received) for is_received in self._is_received.values()])
        names = [number.name for number, count in zip(STOP_SIGNALS, counts, strict=True) if count]
        self.name = names[0] if names else None
        return self.name is not None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._is_received[signal.SIGINT]:
            raise KeyboardInterrupt
        self._is_received[signal.Signals(number)] = True
        if distributed.get_rank() == 0 and os.getpid() == self._process:
            # os.write: a handler may interrupt a line that is being printed
            os.write(2, f"{signal.Signals(number).name}: will save after the next step and stop\n".encode())
