"""One run at a time in a directory."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from clinrep import artifacts, file_lock
from clinrep.config import InputError

logger = logging.getLogger("clinrep")

LOCK_FILE = ".lock"
"""Locked while a run is at work: network file systems lock what is open for writing, which no folder can be."""


def hold(directory: Path) -> int:
    """Make a directory where it is missing, and return the file descriptor that holds it until it is closed.

    Raises:
        InputError: another process holds it.
        OSError: it cannot be made or opened.
    """
    while True:
        artifacts.make_folder(directory)
        with contextlib.suppress(FileNotFoundError):  # removed by a run that ended there without a result
            descriptor = _lock(directory)
            if _is_open(descriptor, directory / LOCK_FILE):
                return descriptor
            file_lock.unlock(descriptor)


def let_go(descriptor: int, directory: Path) -> None:
    """Let other runs use the directory. The file goes first: whoever opened it meanwhile finds that and opens anew."""
    if file_lock.is_held(descriptor) and _is_open(descriptor, directory / LOCK_FILE):
        (directory / LOCK_FILE).unlink(missing_ok=True)
    file_lock.unlock(descriptor)


def _is_open(descriptor: int, path: Path) -> bool:
    """Return whether `descriptor` is of what is called `path` now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock(directory: Path) -> int:
    """Hold a directory against a second run at the same time; the lock ends with the process, however it ends."""
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        file_lock.lock(descriptor)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InputError(f"--output_dir {directory} is in use by another run; wait for it, or stop it") from error
    except OSError as error:  # a network file system without locks
        logger.warning("%s cannot be locked (%s): start no second run in it", directory, error.strerror)
    return descriptor
