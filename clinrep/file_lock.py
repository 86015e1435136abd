"""Locks that end with the process that took them, however it ends, and not later with those it forked."""

from __future__ import annotations

import fcntl
import os

_held: set[int] = set()


def lock(descriptor: int) -> None:
    """Hold the open file or folder `descriptor` alone.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file system does not lock it.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _held.add(descriptor)


def is_held(descriptor: int) -> bool:
    """Return whether `descriptor` is locked by this process."""
    return descriptor in _held


def unlock(descriptor: int) -> None:
    """Close `descriptor`, which ends its lock if it has one."""
    _held.discard(descriptor)
    os.close(descriptor)


def _let_go() -> None:
    """Close in a forked process what its parent holds: a DataLoader's worker outlives a killed parent for seconds."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
