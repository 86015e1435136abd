"""Who else may open what a process writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

FileAccess: TypeAlias = Literal["owner", "owner_and_group", "everyone"]

# permissions that new files and folders are not given
_MASKS = {"owner": 0o077, "owner_and_group": 0o007, "everyone": 0o000}


@contextmanager
def limit_access(access: FileAccess) -> Iterator[None]:
    """While entered, everything that this process and those it starts create is closed to all but `access`.

    What the umask that is in force keeps from group or others stays kept: a setting never opens what the shell closed.
    """
    before = os.umask(0o077)
    os.umask(before | _MASKS[access])
    try:
        yield
    finally:
        os.umask(before)


def apply_access(path: Path) -> None:
    """Give a folder and what is in it the modes that new ones have now: some libraries write for the owner alone."""
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    for one in [path, *path.rglob("*")]:
        if not one.is_symlink():
            one.chmod((0o777 if one.is_dir() else 0o666) & ~mask)
