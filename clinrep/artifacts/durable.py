"""Files that survive a loss of power whole: on the disk before they get their name; and what kills leave behind.

Renaming alone protects from a kill. After a loss of power a renamed file may be empty, since the disk may have got the
name before the content.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

# what file systems say that have nothing to wait for in a folder (some of networks and of FUSE)
_CANNOT_SYNC_FOLDERS = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EISDIR}
# .NAME.PID.tmp of `atomic_path`, .NAME.RANDOM.tmp of tempfile
_TEMPORARY = re.compile(r"\..+\.\w+\.tmp")


def sync(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk.

    Raises:
        OSError: the disk could not keep it.
    """
    if path.is_dir():
        for folder, _, files in os.walk(path, topdown=False):
            for name in files:
                _sync_file(Path(folder) / name)
            sync_folder(Path(folder))
    else:
        _sync_file(path)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where its file system can do that."""
    try:
        _sync_file(folder)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDERS:
            raise


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are missing, with their names on the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def put_in_place(temporary: Path, path: Path) -> None:
    """Give `temporary`, a file or a folder, the name `path`, with its content and then the name on the disk."""
    sync(temporary)
    if path.is_dir():  # os.replace does not replace a folder that holds files, and none is ever seen half deleted
        old = temporary.with_name(temporary.name.removesuffix(".tmp") + "_old.tmp")
        os.replace(path, old)
        os.replace(temporary, path)
        shutil.rmtree(old)
    else:
        os.replace(temporary, path)
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Return whether a name is one that only unfinished files have."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_leftovers(directory: Path, others: Collection[str] = ()) -> list[Path]:
    """Remove and return what killed runs left unfinished under a directory that nobody else writes now.

    `others` are folders in it that other processes may be writing.
    """
    found = []
    for folder, folders, files in os.walk(directory):
        here = Path(folder)
        found += [here / name for name in [*folders, *files] if is_temporary(Path(name))]
        kept = [name for name in folders if not is_temporary(Path(name))]
        folders[:] = [name for name in kept if here != directory or name not in others]
    for path in found:
        remove(path)
    return found
