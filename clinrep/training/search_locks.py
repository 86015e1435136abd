"""Locks of a search: on its journal, and on the folder of each trial while a process runs it."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from optuna.storages.journal import JournalFileOpenLock

from clinrep import file_lock


@dataclass(frozen=True)
class TrialLock:
    """Holds a trial's folder. Callers take turns (Trials), so two never look at one folder at once."""

    descriptor: int

    @staticmethod
    def acquire(folder: Path, worker: int | None) -> TrialLock | None:
        """Hold `folder`, made where it is missing; None where its trial is, or may be, run by another process.

        A process that stops or fails removes its note, and whoever comes next may continue. A killed one
        leaves it; its lock is gone, but some file systems keep locks to one node and others keep none, so
        only the same worker, or a process on the same node that does get the lock, is sure that it is dead.

        Args:
            folder: the trial's folder.
            worker: number of this process in the search, null for one that works alone.
        """
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "holder.json", os.O_RDWR | os.O_CREAT, 0o666)  # NFS locks what is open to write
        can_lock = True
        try:
            file_lock.lock(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            can_lock = False
        holder = read_holder(folder)
        is_free = not holder or holder["worker"] == worker or (can_lock and holder["host"] == socket.gethostname())
        if not is_free:
            file_lock.unlock(descriptor)
            return None
        note = json.dumps({"worker": worker, "host": socket.gethostname(), "process": os.getpid()})
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, note.encode(), 0)
        return TrialLock(descriptor)

    def release(self) -> None:
        """Let others continue the trial."""
        os.ftruncate(self.descriptor, 0)
        file_lock.unlock(self.descriptor)


def read_holder(folder: Path) -> dict[str, object]:
    """Return the worker, host and process that hold a trial's folder, {} for none."""
    try:
        content: dict[str, object] = json.loads((folder / "holder.json").read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return content


class JournalLock(JournalFileOpenLock):
    """The journal's lock, whose taker first cuts off a line that a killed writer left half-written.

    It is a file made with O_EXCL: one system call that is atomic on local disks and on NFS 3 and newer,
    where flock may hold on one node only. (Optuna's symbolic link would wait for ever for the lock of a
    killed process where the nodes see the folder under different paths.)
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = path

    def acquire(self) -> bool:
        """Wait for the lock; always True."""
        super().acquire()
        with open(self._path, "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            end = size
            while end:
                file.seek(end - 1)
                if file.read(1) == b"\n":
                    break
                end -= 1
            if end < size:
                file.truncate(end)
        return True
