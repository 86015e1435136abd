"""One run at a time in a directory."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from clinrep import artifacts, file_lock
from clinrep.config import InputError

logger = logging.getLogger("clinrep")


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
            if _is_open(descriptor, directory):
                return descriptor
            file_lock.unlock(descriptor)


def _is_open(descriptor: int, directory: Path) -> bool:
    """Return whether `descriptor` is of what is called `directory` now."""
    try:
        return os.path.samestat(os.fstat(descriptor), directory.stat())
    except FileNotFoundError:
        return False


def _lock(directory: Path) -> int:
    """Hold a directory against a second run at the same time; the lock ends with the process, however it ends."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        file_lock.lock(descriptor)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InputError(f"--output_dir {directory} is in use by another run; wait for it, or stop it") from error
    except OSError as error:  # some network file systems lock no folders
        logger.info("%s cannot be locked (%s): start no second run in it", directory, error.strerror)
    return descriptor
