"""Runs a script that kills itself, and all it started, at one moment at which it uses its output directory.

    python tests/drills/killer.py DIR PLAN COUNT_PATH SCRIPT [ARGUMENT ...]      SCRIPT: 00_tokenize.py, or -m MODULE

A moment is a file being opened, renamed or removed, or a folder being made, under DIR. PLAN is JSON: {"kill_at": N,
"after_seconds": S} kills at the Nth, S later; {"wait_at": N, "for": PATH} waits there until PATH exists. COUNT_PATH
gets the number of moments of a run that ends.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


class Moments:
    """Counts moments, and does what the plan says."""

    def __init__(self, directory: str, plan: dict[str, Any], count_path: str) -> None:
        self.directory, self.plan, self.count_path = directory, plan, count_path
        self.process, self.count = os.getpid(), 0
        self.files: list[str] = []

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take note of what Python is about to do (sys.addaudithook)."""
        if event not in EVENTS or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        name = os.fsdecode(arguments[0])
        # rmtree names what it removes relative to an open folder
        if not name.startswith(self.directory) and (event == "open" or os.path.isabs(name)):
            return
        if os.getpid() != self.process:  # a DataLoader's worker
            return
        self.count += 1
        if self.count == self.plan.get("kill_at"):
            delay = self.plan.get("after_seconds", 0.0)
            if delay:
                threading.Thread(target=self._kill, args=(delay,), daemon=True).start()
            else:
                self._kill(0)
        if self.count == self.plan.get("wait_at"):
            while not Path(self.plan["for"]).exists():
                time.sleep(0.01)

    def tell(self) -> None:
        """Write how many there were."""
        if os.getpid() == self.process:
            Path(self.count_path).write_text(str(self.count))

    def _kill(self, delay: float) -> None:
        time.sleep(delay)
        os.killpg(0, signal.SIGKILL)


def main(directory: str, plan: str, count_path: str, *command: str) -> None:
    """Run a script or a module as `python` would."""
    sys.path[0] = os.getcwd()
    moments = Moments(directory, json.loads(plan), count_path)
    sys.addaudithook(moments.see)
    atexit.register(moments.tell)
    if command[0] == "-m":
        sys.argv = list(command[1:])
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(command)
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
